//! Clients that were written for other systems, on a real broker: each answer has its form, and the
//! topics then hold exactly the records that were accepted, under their keys.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod broker;
mod curl;
mod openapi;
mod pattern;
#[path = "../program/mod.rs"]
mod program;
mod python;
mod rest_proxy;
mod streams;
mod worker;
