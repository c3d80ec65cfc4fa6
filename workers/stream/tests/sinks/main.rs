//! The sinks on real stores: PostgreSQL and an object store, started by this program.
//!
//! Their files and logs are in a folder of the system's temporary one, which the next run removes.
//! `cargo xtask test` provides the programs.

mod pooler;
mod refused;
mod stores;
mod support;
