//! What the operator wants for a pipeline, computed without a client and without a clock.
//!
//! 1. [`validate`] turns a resource into a [`model::ValidatedPipeline`] with every default filled
//!    in, or into a list of problems, each with the path of its field.
//! 2. [`build`] turns that and what was observed of the cluster into objects and topics. The same
//!    input gives the same bytes.
//!
//! [`queue`] decides which run starts next, [`ownership`] which of several pipelines a topic
//! belongs to. The operator and the command line (`kubectl pinpipe`) are built on this crate.

pub mod build;
pub mod component;
pub mod model;
mod mounts;
pub mod names;
pub mod ownership;
mod pods;
pub mod queue;
pub mod requests;
pub mod run;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod validate;
