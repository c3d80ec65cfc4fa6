//! Sends a request by librdkafka's C interface and waits for its event.
//!
//! Guards own everything that librdkafka allocates here and free it in the right order.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface has what the crate rdkafka leaves out"
)]

use std::{
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
    time::Duration,
};

use rdkafka::{ClientContext, bindings as rd, client::Client, types::RDKafkaErrorCode};

use super::{IdentityError, is_no_answer};

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

/// Sends a request and waits for its event. Blocks for up to `timeout` and a second.
pub(super) fn request<C: ClientContext>(
    client: &Client<C>,
    operation: rd::rd_kafka_admin_op_t,
    timeout: Duration,
    send: impl FnOnce(*const rd::rd_kafka_AdminOptions_t, *mut rd::rd_kafka_queue_t),
) -> Result<Guard<rd::rd_kafka_event_t>, IdentityError> {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let native = client.native_ptr();
    // SAFETY: `native` lives as long as `client`, which is borrowed. Each guard has the destructor
    // documented for its type. They drop in reverse order, so the queue is destroyed last. The
    // error texts of options may be left out (null, length 0); a time-out that is out of range, or
    // that the operation doesn't have, leaves the default.
    unsafe {
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
        let event = Guard::new(
            rd::rd_kafka_queue_poll(queue.as_ptr(), milliseconds.saturating_add(1000)),
            rd::rd_kafka_event_destroy,
        )
        .ok_or_else(|| IdentityError::NoAnswer(format!("timed out after {timeout:?}")))?;
        let message = || text(rd::rd_kafka_event_error_string(event.as_ptr()));
        match RDKafkaErrorCode::from(rd::rd_kafka_event_error(event.as_ptr())) {
            RDKafkaErrorCode::NoError => Ok(event),
            code if is_no_answer(code) => Err(IdentityError::NoAnswer(message())),
            _ => Err(IdentityError::Refused(message())),
        }
    }
}

pub(super) fn no_handle() -> IdentityError {
    IdentityError::Refused("librdkafka returned no handle".to_owned())
}

/// A topic's name, or another text, for librdkafka.
pub(super) fn c_string(text: &str) -> Result<CString, IdentityError> {
    CString::new(text).map_err(|error| IdentityError::Refused(format!("`{text}`: {error}")))
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
