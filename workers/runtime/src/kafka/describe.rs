//! Calls librdkafka's `DescribeTopics`, for which the crate rdkafka has no binding.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to topic ids"
)]

use std::{ffi::c_char, time::Duration};

use rdkafka::{ClientContext, bindings as rd, client::Client, types::RDKafkaErrorCode};

use super::{
    IdentityError, Topic,
    request::{Guard, c_string, no_handle, request, text},
};

/// Describes every topic in `topics`, or says why it can't be described.
pub(super) fn topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<Result<Topic, IdentityError>>, IdentityError> {
    let names = topics.iter().map(|name| c_string(name));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the pointers live in `names`, and librdkafka copies the names.
    let collection = unsafe {
        Guard::new(
            rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            rd::rd_kafka_TopicCollection_destroy,
        )
    };
    let collection = collection.ok_or_else(no_handle)?;
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: `collection` is alive, and librdkafka copies it.
    let event = request(client, operation, timeout, |options, queue| unsafe {
        rd::rd_kafka_DescribeTopics(client.native_ptr(), collection.as_ptr(), options, queue);
    })?;
    // SAFETY: the event is alive and owns the result and its descriptions. `topics` points to
    // `count` valid descriptions.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return Err(no_handle());
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        Ok((0..count).map(|i| topic(*topics.add(i))).collect())
    }
}

/// Copies one topic description.
///
/// # Safety
/// `topic` must be a valid description.
unsafe fn topic(topic: *const rd::rd_kafka_TopicDescription_t) -> Result<Topic, IdentityError> {
    // SAFETY: by this function's contract. Returned pointers belong to the description and are
    // copied.
    unsafe {
        let name = text(rd::rd_kafka_TopicDescription_name(topic));
        let error = rd::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = RDKafkaErrorCode::from(rd::rd_kafka_error_code(error));
            if code != RDKafkaErrorCode::NoError {
                return Err(IdentityError::Topic {
                    topic: name,
                    reason: text(rd::rd_kafka_error_string(error)),
                    code,
                });
            }
        }
        let id = text(rd::rd_kafka_Uuid_base64str(
            rd::rd_kafka_TopicDescription_topic_id(topic),
        ));
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        Ok(Topic {
            name,
            id,
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        })
    }
}
