//! The stream worker: consumes a pipeline's topics, cleans the records and stores them in one sink.
//!
//! The archive is this worker with the raw sink. [`sink`] is the contract between [`session`] and
//! the sinks.

pub mod archive;
pub mod backoff;
pub mod budget;
pub mod buffer;
pub mod clock;
pub mod commit;
pub mod control;
pub mod dead_letter;
pub mod log;
pub mod metrics;
#[cfg(test)]
mod model;
pub mod postgres;
pub mod protocol;
pub mod renewal;
pub mod reset;
pub mod resume;
pub mod session;
pub mod sink;
