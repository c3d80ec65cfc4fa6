//! Shared by all workers: command line, configuration, telemetry, health and shutdown, and clients
//! for Kafka and the object store.
//!
//! This crate does not depend on the content of records. `unsafe` code is allowed only in
//! the bindings of [`kafka`] and in [`malloc`].

pub mod admin;
mod aws;
pub mod backoff;
pub mod certificate_metrics;
pub mod cli;
pub mod compressed;
pub mod config;
pub mod dead_letter;
pub mod documents;
pub mod failure;
pub mod kafka;
pub mod malloc;
pub mod memory;
pub mod outage;
pub mod postgres;
pub mod raw_zone;
pub mod renewal;
pub mod s3;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
