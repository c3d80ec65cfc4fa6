//! The controller of `PinterestPipeline`: four phases, in four places.
//!
//! 1. [`dereference`] reads what a resource names (Secrets), and what other pipelines claim
//!    ([`claims`], [`watched`]). Nothing else reads them.
//! 2. [`validate`] makes a [`validate::ValidatedPipeline`] of it, defaults filled in, or a list of
//!    problems. No client.
//! 3. [`build`] makes the desired objects and topics of that. No client, no clock: same input, same
//!    bytes.
//! 4. [`apply`] brings the cluster there, [`topics`] the broker, and [`status`] says how it stands.
//!
//! [`offline`] does the second for a file, without a cluster (`pinpipe validate`). [`upgrade`] lets
//! a new image go to one component at a time. [`said`] asks running workers how they are.
//! [`controller`] runs the four for every resource, one pass at a time. A pass over a settled
//! pipeline writes nothing.

pub mod api;
pub mod apply;
pub mod args;
pub mod build;
pub mod claims;
pub mod context;
pub mod controller;
pub mod dereference;
#[cfg(test)]
mod examples;
pub mod metrics;
pub mod offline;
pub mod pass;
pub mod said;
pub mod status;
pub mod topics;
pub mod upgrade;
pub mod validate;
pub mod watched;

/// The field manager of every write.
pub const MANAGER: &str = "pinpipe-operator";
