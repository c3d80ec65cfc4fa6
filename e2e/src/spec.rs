//! Builder of the specs of test pipelines.

use serde_json::{Value, json};

use crate::{
    Sandbox, cluster,
    sandbox::{POSTGRES_SECRET, S3_SECRET},
};

/// The spec of a `PinterestPipeline`.
#[derive(Clone, Debug)]
pub struct Spec(pub Value);

/// The template of a worker: small resource requests, because many pipelines share two nodes.
fn template() -> Value {
    json!({"resources": {"requests": {"cpu": "5m", "memory": "16Mi"}}})
}

impl Spec {
    /// Topics with three partitions, ingest with one replica, and a short deadline for draining.
    #[must_use]
    pub fn new() -> Self {
        Self(json!({
            "broker": {"kafka": {
                "bootstrapServers": cluster::KAFKA_IN_CLUSTER,
                "topics": {"partitions": 3, "replicationFactor": 1},
            }},
            "ingest": {"replicas": 1, "template": template()},
            "drainDeadline": format!("{}s", cluster::DRAIN_DEADLINE.as_secs()),
        }))
    }

    /// The size limit of a record, bytes.
    #[must_use]
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.0["ingest"]["maxRecordBytes"] = json!(bytes);
        self
    }

    /// Adds a sink `live` that writes to the sandbox's schema.
    #[must_use]
    pub fn live(mut self, sandbox: &Sandbox) -> Self {
        self.0["stream"] = json!({"sinks": [{
            "name": "live",
            "replicas": 1,
            "template": template(),
            "postgres": {
                "urlSecretRef": {"name": POSTGRES_SECRET, "key": "url"},
                "schema": sandbox.schema(),
            },
        }]});
        self
    }

    /// The write mode of the sink `live`: `Upsert`, `Append`.
    #[must_use]
    pub fn write_mode(mut self, mode: &str) -> Self {
        self.0["stream"]["sinks"][0]["postgres"]["writeMode"] = json!(mode);
        self
    }

    /// The compression of the archive: `None`, `Gzip`, `Zstd`.
    #[must_use]
    pub fn compression(mut self, compression: &str) -> Self {
        self.0["archive"]["compression"] = json!(compression);
        self
    }

    /// Adds an archive in the sandbox's bucket that closes an object after `records` records or 5
    /// seconds.
    #[must_use]
    pub fn archive(mut self, sandbox: &Sandbox, records: u64) -> Self {
        self.0["archive"] = json!({
            "bucket": sandbox.bucket(),
            "rotate": {"records": records, "interval": "5s"},
            "s3": {
                "endpoint": cluster::S3_IN_CLUSTER,
                "region": "us-east-1",
                "credentialsSecretRef": {"name": S3_SECRET},
            },
            "template": template(),
        });
        self
    }

    /// Adds batch runs into the sandbox's keyspace, with a schedule that is due once a year.
    #[must_use]
    pub fn batch(mut self, sandbox: &Sandbox) -> Self {
        self.0["batch"] = json!({
            "schedule": "0 10 1 1 *",
            "sinks": [{"name": "serving", "cassandra": {
                "contactPoints": [cluster::CASSANDRA_IN_CLUSTER],
                "keyspace": sandbox.keyspace(),
            }}],
            "template": template(),
        });
        self
    }

    /// Adds batch runs without a sink.
    #[must_use]
    pub fn batch_without_sinks(mut self) -> Self {
        self.0["batch"] = json!({"schedule": "0 10 1 1 *", "template": template()});
        self
    }

    /// The sink of batch runs in the sandbox's schema in PostgreSQL.
    #[must_use]
    pub fn batch_postgres(mut self, sandbox: &Sandbox) -> Self {
        self.0["batch"]["sinks"] = json!([{"name": "serving", "postgres": {
            "urlSecretRef": {"name": POSTGRES_SECRET, "key": "url"},
            "schema": sandbox.schema(),
        }}]);
        self
    }

    /// Adds an emulator.
    #[must_use]
    pub fn emulator(mut self, records_per_second: u32) -> Self {
        self.0["emulator"] = json!({
            "recordsPerSecond": records_per_second,
            "source": {"synthetic": {"seed": 7}},
            "template": template(),
        });
        self
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self::new()
    }
}
