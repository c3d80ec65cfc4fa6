//! Configuration of ingest.

use std::{num::NonZeroU32, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Kafka, Pipeline, Topics, is_default};

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
    /// A directory with the clients' bearer tokens, one a file that is named after its client.
    /// Absent: requests need no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_dir: Option<PathBuf>,
    /// A directory with the certificate chain `tls.crt` and its key `tls.key`. Absent: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_dir: Option<PathBuf>,
    /// Requests a second of each client: of each token, else of each address. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second_per_client: Option<NonZeroU32>,
    /// Open connections, unless the memory allows only fewer. Absent: as many as it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<NonZeroU32>,
    /// Further names of the topics in the paths of requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aliases: Vec<Alias>,
}

/// A further name of a topic in the paths of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alias {
    /// The name.
    pub name: String,
    /// The kind of the records that are sent to this name.
    pub kind: RecordKind,
}

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordKind {
    /// Posts.
    Pin,
    /// Where and when pins were posted.
    Geo,
    /// The users who posted pins.
    User,
}
