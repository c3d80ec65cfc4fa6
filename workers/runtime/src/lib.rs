//! What every worker shares: its command line, configuration, telemetry, health and shutdown, and
//! clients of the broker and the object store.
//!
//! Nothing here knows what stands in a record. `unsafe` code is allowed in two places,
//! `kafka::describe` and `malloc`.

pub mod admin;
pub mod cli;
pub mod compressed;
pub mod config;
pub mod dead_letter;
pub mod figures;
pub mod kafka;
pub mod malloc;
pub mod memory;
pub mod outage;
pub mod raw_zone;
pub mod s3;
pub mod shutdown;
pub mod telemetry;
