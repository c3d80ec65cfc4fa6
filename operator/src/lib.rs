//! The operator of `PinterestPipeline`: it keeps topics and workers as each resource says.
//!
//! [`controller`] starts a reconcile for each resource that changed, whose children changed, or
//! whose time has come. [`reconcile`] takes the steps in order:
//!
//! 1. [`observe`] reads the cluster, the workers and the consumer groups.
//! 2. [`pinpipe_plan::validate`] fills in defaults or finds problems.
//! 3. [`pinpipe_plan::build`] makes the desired objects and topics.
//! 4. [`apply`] brings the cluster there, and [`kafka`] the topics that [`records`] assigns to
//!    the pipeline.
//! 5. [`status`] reports conditions and events.
//!
//! A reconcile of a settled pipeline writes nothing.

pub mod apply;
pub mod cli;
pub mod context;
pub mod controller;
pub mod error;
#[cfg(test)]
mod examples;
pub mod finding;
pub mod kafka;
pub mod kube_client;
pub mod metrics;
pub mod observe;
pub mod permits;
pub mod pipeline_metrics;
pub mod reconcile;
pub mod records;
pub mod rollouts;
pub mod status;
