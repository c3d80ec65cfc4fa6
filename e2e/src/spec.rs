//! The specs of the tests' pipelines, section by section.

use serde_json::{Value, json};

use crate::{
    Space, cluster,
    space::{POSTGRES_SECRET, S3_SECRET},
};

/// The spec of a `PinterestPipeline`. Requests are small: many pipelines share two nodes.
#[derive(Clone, Debug)]
pub struct Spec(pub Value);

/// What each worker asks the scheduler for.
fn resources() -> Value {
    json!({"requests": {"cpu": "5m", "memory": "16Mi"}})
}

impl Spec {
    /// Topics of three partitions, and ingest.
    #[must_use]
    pub fn new() -> Self {
        Self(json!({
            "broker": {"kafka": {
                "bootstrapServers": cluster::KAFKA_IN_CLUSTER,
                "topics": {"partitions": 3, "replicationFactor": 1},
            }},
            "ingest": {"replicas": 1, "resources": resources()},
        }))
    }

    /// Records over this many bytes are broken.
    #[must_use]
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.0["ingest"]["maxRecordBytes"] = json!(bytes);
        self
    }

    /// A sink `live` into the space's schema.
    #[must_use]
    pub fn live(mut self, space: &Space) -> Self {
        self.0["stream"] = json!({"sinks": [{
            "name": "live",
            "replicas": 1,
            "resources": resources(),
            "postgres": {"urlSecretRef": {"name": POSTGRES_SECRET, "key": "url"}, "schema": space.schema()},
        }]});
        self
    }

    /// How the sink `live` writes: `Upsert`, `Append`.
    #[must_use]
    pub fn write_mode(mut self, mode: &str) -> Self {
        self.0["stream"]["sinks"][0]["postgres"]["writeMode"] = json!(mode);
        self
    }

    /// How the archive compresses: `None`, `Gzip`, `Zstd`.
    #[must_use]
    pub fn compression(mut self, compression: &str) -> Self {
        self.0["archive"]["compression"] = json!(compression);
        self
    }

    /// What becomes of rejected records: `Reject`, `RejectAndLogRepairs`, `Fail`.
    #[must_use]
    pub fn dead_letters(mut self, mode: &str) -> Self {
        self.0["deadLetters"] = json!({"mode": mode});
        self
    }

    /// An archive in the space's bucket that closes an object every `records` records or 5 seconds.
    #[must_use]
    pub fn archive(mut self, space: &Space, records: u64) -> Self {
        self.0["archive"] = json!({
            "bucket": space.bucket(),
            "rotate": {"records": records, "interval": "5s"},
            "s3": {"endpoint": cluster::S3_IN_CLUSTER, "region": "us-east-1", "credentialsSecretRef": {"name": S3_SECRET}},
            "resources": resources(),
        });
        self
    }

    /// Batch runs into the space's keyspace; by schedule never while a test runs.
    #[must_use]
    pub fn batch(mut self, space: &Space) -> Self {
        self.0["batch"] = json!({
            "schedule": "0 10 1 1 *",
            "sinks": [{"name": "serving", "cassandra": {
                "contactPoints": [cluster::CASSANDRA_IN_CLUSTER],
                "keyspace": space.keyspace(),
                "replicationFactor": 1,
            }}],
            "resources": resources(),
        });
        self
    }

    /// An emulator.
    #[must_use]
    pub fn emulator(mut self, records_per_second: u32) -> Self {
        self.0["emulator"] =
            json!({"recordsPerSecond": records_per_second, "seed": 7, "resources": resources()});
        self
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self::new()
    }
}
