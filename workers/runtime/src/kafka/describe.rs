//! Calls librdkafka's `DescribeTopics`, for which the crate rdkafka has no binding.
//!
//! Guards own everything that librdkafka allocates here and free it in the right order. Strings and
//! ids are copied first.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to topic ids"
)]

use std::{
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
    time::Duration,
};

use rdkafka::{ClientContext, bindings as rd, client::Client, types::RDKafkaErrorCode};

use super::{IdentityError, Topic, is_no_answer};

/// An owned librdkafka pointer and the function that frees it.
pub(super) struct Guard<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Guard<T> {
    /// `None` if `pointer` is null.
    ///
    /// # Safety
    /// `free` must be the destructor for the type of `pointer`, and nothing else may free it.
    pub(super) unsafe fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, free })
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: by the contract of `new` we own it, `free` is its destructor, and drop runs once.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

/// Describes every topic in `topics`, or says why it can't be described.
pub(super) fn topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<Result<Topic, IdentityError>>, IdentityError> {
    let names = topics
        .iter()
        .map(|name| {
            CString::new(*name).map_err(|error| {
                IdentityError::Refused(format!("the topic name `{name}`: {error}"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut name_pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let out_of_memory = || IdentityError::Refused("librdkafka returned no handle".to_owned());
    let native = client.native_ptr();

    // SAFETY: `native` lives as long as `client`, which is borrowed. The name pointers live in
    // `names`, and librdkafka copies them. Each guard has the destructor documented for its type.
    // Guards drop in reverse order, so the queue is destroyed last.
    let event = unsafe {
        let queue = Guard::new(rd::rd_kafka_queue_new(native), rd::rd_kafka_queue_destroy)
            .ok_or_else(out_of_memory)?;
        let collection = Guard::new(
            rd::rd_kafka_TopicCollection_of_topic_names(
                name_pointers.as_mut_ptr(),
                name_pointers.len(),
            ),
            rd::rd_kafka_TopicCollection_destroy,
        )
        .ok_or_else(out_of_memory)?;
        let options = Guard::new(
            rd::rd_kafka_AdminOptions_new(
                native,
                rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            ),
            rd::rd_kafka_AdminOptions_destroy,
        )
        .ok_or_else(out_of_memory)?;
        // The error buffer is optional (null, length 0). A timeout out of range leaves the default,
        // which is longer.
        rd::rd_kafka_AdminOptions_set_request_timeout(
            options.as_ptr(),
            milliseconds,
            ptr::null_mut(),
            0,
        );
        rd::rd_kafka_DescribeTopics(
            native,
            collection.as_ptr(),
            options.as_ptr(),
            queue.as_ptr(),
        );
        // librdkafka reports the timeout as an event: one second more lets that event arrive.
        Guard::new(
            rd::rd_kafka_queue_poll(queue.as_ptr(), milliseconds.saturating_add(1000)),
            rd::rd_kafka_event_destroy,
        )
        .ok_or_else(|| IdentityError::NoAnswer(format!("timed out after {timeout:?}")))?
    };

    // SAFETY: the event is alive and owns the result and its descriptions. `topics` points to
    // `count` valid descriptions.
    unsafe {
        match RDKafkaErrorCode::from(rd::rd_kafka_event_error(event.as_ptr())) {
            RDKafkaErrorCode::NoError => {}
            code => {
                let message = text(rd::rd_kafka_event_error_string(event.as_ptr()));
                return Err(if is_no_answer(code) {
                    IdentityError::NoAnswer(message)
                } else {
                    IdentityError::Refused(message)
                });
            }
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return Err(IdentityError::Refused(
                "librdkafka returned an event of another type".to_owned(),
            ));
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

/// Copies a C string. Empty if `pointer` is null.
///
/// # Safety
/// `pointer` must be null or a C string.
pub(super) unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: not null, so a C string by this function's contract.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}
