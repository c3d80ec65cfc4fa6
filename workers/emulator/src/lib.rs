//! Emulator: synthetic users whose pins, geo and user records are as dirty as real ones.
//!
//! [`Generator`] creates the records deterministically from a seed. [`send`] posts them until
//! ingest has acknowledged every one.

pub mod draw;
mod generator;
pub mod report;
pub mod send;
pub mod source;
pub mod target;
mod words;

pub use generator::{Generator, Triple};
