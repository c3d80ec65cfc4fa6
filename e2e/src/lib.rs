//! Harness of the end-to-end tests.
//!
//! A test works in a [`Sandbox`]: a namespace, and topics, a bucket, a schema and a keyspace under
//! the same name. It applies a `PinterestPipeline` there, sends records made by [`samples`], and
//! reads every store directly. Nothing here uses the product's own cleaning: a sample's clean row
//! is drawn first, and [`raw_json`] then writes it as a careless client would. Ports and addresses
//! are those of the development stack (charts/devstack, kind-config.yaml).

pub mod answers;
pub mod audit;
pub mod broken;
pub mod cassandra;
pub mod cleanup;
pub mod cluster;
pub mod devstack;
pub mod eventually;
pub mod ingest;
pub mod kafka;
pub mod kind;
pub mod ledger;
pub mod load;
pub mod node;
pub mod objects;
pub mod operator;
pub mod pipeline;
pub mod postgres;
pub mod raw_json;
pub mod samples;
pub mod sandbox;
pub mod scenario;
pub mod spec;

pub use cleanup::finally;
pub use cluster::Cluster;
pub use eventually::{ensure_same, eventually, throughout};
pub use kind::Kind;
pub use pipeline::Pipeline;
pub use sandbox::Sandbox;
pub use scenario::{SharedScenario, run};
pub use spec::Spec;
