//! Synthetic users who post pins, where they were and who they are, as dirty as real ones.
//!
//! [`Generator`] makes the records, the same for the same seed; [`send`] posts them until ingest
//! has acknowledged each.

pub mod draw;
mod generator;
pub mod report;
pub mod send;
pub mod source;
mod words;

pub use generator::{Generator, Triple};
