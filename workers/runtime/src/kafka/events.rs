//! Reads a client's log, for which the crate rdkafka has no function besides polling a consumer or
//! producer.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to an admin client's log"
)]

use std::ptr;

use rdkafka::{ClientContext, bindings as rd, client::Client, config::RDKafkaLogLevel};

use super::request::{Guard, text};

/// Calls `log` with level, facility and message of everything that `client` has logged since the
/// last call. Other events in the client's main queue are dropped. Never blocks.
pub(super) fn logged<C: ClientContext>(
    client: &Client<C>,
    mut log: impl FnMut(RDKafkaLogLevel, &str, &str),
) {
    // SAFETY: the pointer lives as long as `client`, which is borrowed. The call returns a new
    // reference to the queue, which its guard releases.
    let queue = unsafe {
        Guard::new(
            rd::rd_kafka_queue_get_main(client.native_ptr()),
            rd::rd_kafka_queue_destroy,
        )
    };
    let Some(queue) = queue else { return };
    loop {
        // SAFETY: the queue is alive, and each event belongs to its guard.
        let event = unsafe {
            Guard::new(
                rd::rd_kafka_queue_poll(queue.as_ptr(), 0),
                rd::rd_kafka_event_destroy,
            )
        };
        let Some(event) = event else { return };
        let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is alive and owns the strings, which are copied. The call fails for
        // events of other types.
        let entry = unsafe {
            let failure = rd::rd_kafka_event_log(
                event.as_ptr(),
                &raw mut facility,
                &raw mut message,
                &raw mut level,
            );
            (failure == 0).then(|| (text(facility), text(message)))
        };
        if let Some((facility, message)) = entry {
            log(self::level(level), &facility, &message);
        }
    }
}

/// The level of a number of syslog(3).
fn level(number: i32) -> RDKafkaLogLevel {
    match number {
        ..=2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}
