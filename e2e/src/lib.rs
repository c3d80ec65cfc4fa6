//! Tests on a real cluster: what they share.
//!
//! A test takes a [`Space`] of its own (a namespace, and names for topics, bucket, schema and
//! keyspace that nothing else has), applies a `PinterestPipeline` in it, sends records made by
//! [`samples`] and looks at every store from the outside. Nothing here uses the product's own
//! cleaning: a sample's clean row is known because the clean row was made first and then dressed in
//! a careless client's JSON ([`dress`]). Names, ports and endpoints are those of the development
//! stack (charts/devstack, kind-config.yaml).

pub mod answers;
pub mod broken;
pub mod cassandra;
pub mod cluster;
pub mod dress;
pub mod eventually;
pub mod flow;
pub mod ingest;
pub mod kafka;
pub mod kind;
pub mod load;
pub mod node;
pub mod objects;
pub mod operator;
pub mod outage;
pub mod pipeline;
pub mod postgres;
pub mod samples;
pub mod shared;
pub mod space;
pub mod spec;

pub use cluster::Cluster;
pub use eventually::{ensure_same, eventually, throughout};
pub use kind::Kind;
pub use pipeline::Pipeline;
pub use shared::{Shared, run};
pub use space::Space;
pub use spec::Spec;
