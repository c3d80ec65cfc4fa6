//! Everything that reads the cluster, the workers and the consumer groups on behalf of a reconcile.
//! Nothing here writes, but for the request to the archive to flush what it has buffered.

pub mod child_cache;
pub mod children;
pub mod consumer_lag;
pub mod definition;
pub mod deployment;
pub mod managed_fields;
pub mod pipeline_index;
pub mod pods;
pub mod run_index;
pub mod runs;
pub mod secrets;
pub mod worker_health;
