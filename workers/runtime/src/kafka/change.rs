//! Creates and deletes topics, and adds partitions, by librdkafka's own calls: the crate rdkafka
//! drops the broker's sentence about a refusal and keeps its code alone.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to the broker's sentence"
)]

use std::{ffi::c_char, time::Duration};

use rdkafka::{ClientContext, bindings as rd, client::Client, types::RDKafkaErrorCode};

use super::{
    IdentityError,
    request::{Guard, c_string, no_handle, request, text},
};

/// Room for librdkafka's sentence about a topic that it refuses before it asks a broker, bytes.
const SENTENCE: usize = 512;

/// A topic to create.
#[derive(Clone, Copy, Debug)]
pub struct NewTopic<'a> {
    /// Name.
    pub name: &'a str,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition; -1 is the broker's default.
    pub replication_factor: i32,
    /// Settings.
    pub config: &'a [(String, String)],
}

/// Why a topic was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's code, such as `TopicAlreadyExists`.
    pub code: RDKafkaErrorCode,
    /// The broker's sentence.
    pub message: String,
}

/// Result about each topic, by its name.
pub type Results = Vec<(String, Result<(), Refusal>)>;

type TopicResult = *const rd::rd_kafka_topic_result_t;

/// librdkafka's functions for one kind of request. `T` is what it is told about one topic, and `R`
/// its answer.
struct Calls<T, R> {
    operation: rd::rd_kafka_admin_op_t,
    send: unsafe extern "C" fn(
        *mut rd::rd_kafka_t,
        *mut *mut T,
        usize,
        *const rd::rd_kafka_AdminOptions_t,
        *mut rd::rd_kafka_queue_t,
    ),
    answer: unsafe extern "C" fn(*mut rd::rd_kafka_event_t) -> *const R,
    results: unsafe extern "C" fn(*const R, *mut usize) -> *mut TopicResult,
}

/// Creates topics. Blocks for up to `timeout`.
pub fn create_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[NewTopic<'_>],
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let calls = Calls {
        operation: rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS,
        send: rd::rd_kafka_CreateTopics,
        answer: rd::rd_kafka_event_CreateTopics_result,
        results: rd::rd_kafka_CreateTopics_result_topics,
    };
    change(client, &calls, topics.iter().map(new_topic), timeout)
}

/// Raises topics to these numbers of partitions. Blocks for up to `timeout`.
pub fn create_partitions<C: ClientContext>(
    client: &Client<C>,
    topics: &[(&str, usize)],
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let calls = Calls {
        operation: rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS,
        send: rd::rd_kafka_CreatePartitions,
        answer: rd::rd_kafka_event_CreatePartitions_result,
        results: rd::rd_kafka_CreatePartitions_result_topics,
    };
    let topics = topics.iter().map(|(name, partitions)| {
        let name = c_string(name)?;
        // SAFETY: librdkafka copies the name and writes at most the length it is given.
        sentence_of(|sentence| unsafe {
            let (to, length) = (sentence.as_mut_ptr(), sentence.len());
            let topic = rd::rd_kafka_NewPartitions_new(name.as_ptr(), *partitions, to, length);
            Guard::new(topic, rd::rd_kafka_NewPartitions_destroy)
        })
    });
    change(client, &calls, topics, timeout)
}

/// Deletes topics. Blocks for up to `timeout`.
pub fn delete_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let calls = Calls {
        operation: rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS,
        send: rd::rd_kafka_DeleteTopics,
        answer: rd::rd_kafka_event_DeleteTopics_result,
        results: rd::rd_kafka_DeleteTopics_result_topics,
    };
    let topics = topics.iter().map(|name| {
        let name = c_string(name)?;
        // SAFETY: librdkafka copies the name.
        let topic = unsafe {
            let topic = rd::rd_kafka_DeleteTopic_new(name.as_ptr());
            Guard::new(topic, rd::rd_kafka_DeleteTopic_destroy)
        };
        topic.ok_or_else(no_handle)
    });
    change(client, &calls, topics, timeout)
}

fn new_topic(topic: &NewTopic<'_>) -> Result<Guard<rd::rd_kafka_NewTopic_t>, IdentityError> {
    let name = c_string(topic.name)?;
    let (partitions, replicas) = (topic.partitions, topic.replication_factor);
    // SAFETY: librdkafka copies the name and writes at most the length it is given.
    let new = sentence_of(|sentence| unsafe {
        let (to, length) = (sentence.as_mut_ptr(), sentence.len());
        let topic = rd::rd_kafka_NewTopic_new(name.as_ptr(), partitions, replicas, to, length);
        Guard::new(topic, rd::rd_kafka_NewTopic_destroy)
    })?;
    for (key, value) in topic.config {
        let (key, value) = (c_string(key)?, c_string(value)?);
        // SAFETY: `new` is alive, and librdkafka copies both strings. A refused setting is refused
        // by the broker, too, which explains it.
        unsafe { rd::rd_kafka_NewTopic_set_config(new.as_ptr(), key.as_ptr(), value.as_ptr()) };
    }
    Ok(new)
}

/// Sends a request and waits for the results.
fn change<C: ClientContext, T, R>(
    client: &Client<C>,
    calls: &Calls<T, R>,
    topics: impl Iterator<Item = Result<Guard<T>, IdentityError>>,
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let topics = topics.collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = topics.iter().map(Guard::as_ptr).collect();
    let (to, count) = (pointers.as_mut_ptr(), pointers.len());
    // SAFETY: the pointers are valid as long as `topics`; librdkafka copies what they point to.
    let event = request(client, calls.operation, timeout, |options, queue| unsafe {
        (calls.send)(client.native_ptr(), to, count, options, queue);
    })?;
    // SAFETY: the event is alive, and so are the results, which belong to it. `results` points to
    // `count` valid results.
    unsafe {
        let answer = (calls.answer)(event.as_ptr());
        if answer.is_null() {
            return Err(no_handle());
        }
        let mut count = 0;
        let results = (calls.results)(answer, &raw mut count);
        Ok((0..count).map(|at| result(*results.add(at))).collect())
    }
}

/// Result about one topic.
///
/// # Safety
/// `result` must be valid.
unsafe fn result(result: TopicResult) -> (String, Result<(), Refusal>) {
    // SAFETY: by this function's contract; the strings belong to the result and are copied here.
    unsafe {
        let name = text(rd::rd_kafka_topic_result_name(result));
        let code = RDKafkaErrorCode::from(rd::rd_kafka_topic_result_error(result));
        if code == RDKafkaErrorCode::NoError {
            return (name, Ok(()));
        }
        let message = match text(rd::rd_kafka_topic_result_error_string(result)) {
            message if message.is_empty() => code.to_string(),
            message => message,
        };
        (name, Err(Refusal { code, message }))
    }
}

/// Runs a constructor that explains a failure in the buffer it gets.
fn sentence_of<T>(
    make: impl FnOnce(&mut [c_char; SENTENCE]) -> Option<T>,
) -> Result<T, IdentityError> {
    let mut sentence = [0; SENTENCE];
    make(&mut sentence).ok_or_else(|| {
        // SAFETY: librdkafka ends the text with a zero byte; without a text the buffer is zero.
        IdentityError::Refused(unsafe { text(sentence.as_ptr()) })
    })
}
