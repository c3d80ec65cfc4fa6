//! Configuration of ingest.

use serde::{Deserialize, Serialize};

use crate::{Kafka, Pipeline, Topics};

/// Configuration of ingest, the REST service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingest {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The Kafka cluster.
    pub kafka: Kafka,
    /// The topics that records are sent to.
    pub topics: Topics,
    /// Size limit of a record, bytes.
    pub max_record_bytes: u32,
    /// Size limit of a request body, bytes.
    pub max_request_bytes: u32,
}
