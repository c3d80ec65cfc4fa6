//! Creates and deletes topics, and adds partitions, by librdkafka's own calls: the crate rdkafka
//! drops the broker's sentence about a refusal and keeps its code alone.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to the broker's sentence"
)]

use std::{
    ffi::{CString, c_char},
    ptr,
    time::Duration,
};

use rdkafka::{ClientContext, bindings as rd, client::Client, types::RDKafkaErrorCode};

use super::{
    IdentityError,
    describe::{Guard, text},
    is_no_answer,
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

type Event = *mut rd::rd_kafka_event_t;
type TopicResult = *const rd::rd_kafka_topic_result_t;

/// Creates topics. Blocks for up to `timeout`.
pub fn create_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[NewTopic<'_>],
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let topics = topics.iter().map(new_topic);
    let topics = topics.collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = topics.iter().map(Guard::as_ptr).collect();
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
    change(
        client,
        operation,
        timeout,
        // SAFETY: the pointers are valid as long as `topics`; librdkafka copies what they point to.
        |options, queue| unsafe {
            let (topics, count) = (pointers.as_mut_ptr(), pointers.len());
            rd::rd_kafka_CreateTopics(client.native_ptr(), topics, count, options, queue);
        },
        // SAFETY: `change` passes a valid event and counter.
        |event, count| unsafe {
            let result = rd::rd_kafka_event_CreateTopics_result(event);
            if result.is_null() {
                return None;
            }
            Some(rd::rd_kafka_CreateTopics_result_topics(result, count))
        },
    )
}

/// Raises topics to these numbers of partitions. Blocks for up to `timeout`.
pub fn create_partitions<C: ClientContext>(
    client: &Client<C>,
    topics: &[(&str, usize)],
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let topics = topics.iter().map(|(name, partitions)| {
        let name = c_string(name)?;
        // SAFETY: librdkafka copies the name and writes at most the length it is given.
        sentence_of(|sentence| unsafe {
            let (to, length) = (sentence.as_mut_ptr(), sentence.len());
            let topic = rd::rd_kafka_NewPartitions_new(name.as_ptr(), *partitions, to, length);
            Guard::new(topic, rd::rd_kafka_NewPartitions_destroy)
        })
    });
    let topics = topics.collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = topics.iter().map(Guard::as_ptr).collect();
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS;
    change(
        client,
        operation,
        timeout,
        // SAFETY: as in `create_topics`.
        |options, queue| unsafe {
            let (topics, count) = (pointers.as_mut_ptr(), pointers.len());
            rd::rd_kafka_CreatePartitions(client.native_ptr(), topics, count, options, queue);
        },
        // SAFETY: as in `create_topics`.
        |event, count| unsafe {
            let result = rd::rd_kafka_event_CreatePartitions_result(event);
            if result.is_null() {
                return None;
            }
            Some(rd::rd_kafka_CreatePartitions_result_topics(result, count))
        },
    )
}

/// Deletes topics. Blocks for up to `timeout`.
pub fn delete_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Results, IdentityError> {
    let topics = topics.iter().map(|name| {
        let name = c_string(name)?;
        // SAFETY: librdkafka copies the name.
        let topic = unsafe {
            let topic = rd::rd_kafka_DeleteTopic_new(name.as_ptr());
            Guard::new(topic, rd::rd_kafka_DeleteTopic_destroy)
        };
        topic.ok_or_else(no_handle)
    });
    let topics = topics.collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = topics.iter().map(Guard::as_ptr).collect();
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS;
    change(
        client,
        operation,
        timeout,
        // SAFETY: as in `create_topics`.
        |options, queue| unsafe {
            let (topics, count) = (pointers.as_mut_ptr(), pointers.len());
            rd::rd_kafka_DeleteTopics(client.native_ptr(), topics, count, options, queue);
        },
        // SAFETY: as in `create_topics`.
        |event, count| unsafe {
            let result = rd::rd_kafka_event_DeleteTopics_result(event);
            if result.is_null() {
                return None;
            }
            Some(rd::rd_kafka_DeleteTopics_result_topics(result, count))
        },
    )
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
fn change<C: ClientContext>(
    client: &Client<C>,
    operation: rd::rd_kafka_admin_op_t,
    timeout: Duration,
    mut send: impl FnMut(*const rd::rd_kafka_AdminOptions_t, *mut rd::rd_kafka_queue_t),
    results: impl Fn(Event, *mut usize) -> Option<*mut TopicResult>,
) -> Result<Results, IdentityError> {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let native = client.native_ptr();
    // SAFETY: `native` lives as long as `client`, which is borrowed. Each guard gets the destructor
    // that librdkafka documents for what it holds; they drop in reverse order. The error texts of
    // options may be left out (null, length 0).
    let event = unsafe {
        let queue = Guard::new(rd::rd_kafka_queue_new(native), rd::rd_kafka_queue_destroy)
            .ok_or_else(no_handle)?;
        let options = Guard::new(
            rd::rd_kafka_AdminOptions_new(native, operation),
            rd::rd_kafka_AdminOptions_destroy,
        )
        .ok_or_else(no_handle)?;
        let (to, none) = (options.as_ptr(), ptr::null_mut());
        rd::rd_kafka_AdminOptions_set_request_timeout(to, milliseconds, none, 0);
        rd::rd_kafka_AdminOptions_set_operation_timeout(to, milliseconds, none, 0);
        send(to, queue.as_ptr());
        // librdkafka answers when the request's time is up; a second more lets that answer through.
        Guard::new(
            rd::rd_kafka_queue_poll(queue.as_ptr(), milliseconds.saturating_add(1000)),
            rd::rd_kafka_event_destroy,
        )
        .ok_or_else(|| IdentityError::NoAnswer(format!("timed out after {timeout:?}")))?
    };
    // SAFETY: the event is alive, and so are the results, which belong to it. `topics` points to
    // `count` valid results.
    unsafe {
        let sentence = || text(rd::rd_kafka_event_error_string(event.as_ptr()));
        match RDKafkaErrorCode::from(rd::rd_kafka_event_error(event.as_ptr())) {
            RDKafkaErrorCode::NoError => {}
            code if is_no_answer(code) => return Err(IdentityError::NoAnswer(sentence())),
            _ => return Err(IdentityError::Refused(sentence())),
        }
        let mut count = 0;
        let topics = results(event.as_ptr(), &raw mut count).ok_or_else(no_handle)?;
        Ok((0..count).map(|at| result(*topics.add(at))).collect())
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

fn c_string(text: &str) -> Result<CString, IdentityError> {
    CString::new(text).map_err(|error| IdentityError::Refused(format!("`{text}`: {error}")))
}

fn no_handle() -> IdentityError {
    IdentityError::Refused("librdkafka returned no handle".to_owned())
}
