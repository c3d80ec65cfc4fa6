//! The sinks on real stores: PostgreSQL and an object store, started by this program.
//!
//! Their files and logs are in a folder of the system's temporary one, which the next run removes.
//! `cargo xtask test` provides the programs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod contract;
mod objects;
mod pooler;
mod proxy;
mod refused;
mod sequences;
mod support;

use pinpipe_servers::stores;
