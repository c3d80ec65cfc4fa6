//! The workers' configuration: the operator writes it into a `ConfigMap`, and a worker reads it
//! once at startup.
//!
//! This crate contains types only, so that operator and workers don't depend on each other's code.
//! They may be one release apart, in either direction, during an upgrade or if `spec.image.tag`
//! pins the workers:
//! - A new field has a default that means what workers did before, and is serialized only if it
//!   differs from that default. An older worker therefore reads every configuration it supports and
//!   refuses an unsupported field by name instead of silently ignoring it.
//! - An incompatible change takes another [`CONFIG_VERSION`] and two releases: in the first,
//!   workers can read it ([`NEWEST_READ`]); in the second, operators write it.
//!
//! `samples/` keeps what each release wrote. A configuration never contains credentials: a field
//! whose name ends in `file` or `dir` is a path at which the operator mounts a Secret.

mod ingest;
pub mod inspect;
mod kafka;
mod kafka_settings;
mod percentage;
mod reset;
mod s3;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use ingest::{Alias, Ingest, RecordKind};
pub use kafka::{Authentication, AwsMskIam, Kafka, SaslMechanism, Tls, TrustedCa};
pub use kafka_settings::{
    ClientRole, KAFKA_SETTINGS, KafkaSetting, Values, kafka_setting_problem, of_role,
};
pub use percentage::{InvalidPercentage, Percentage};
pub use reset::{PartitionOffset, RESET_PATH, Reset, ResetState, ResetTo};
pub use s3::S3;

/// The version that operators write. Workers also read the version before it.
pub const CONFIG_VERSION: u32 = 1;

/// The newest version that workers read: [`CONFIG_VERSION`], or the next version in the release
/// before operators write it.
pub const NEWEST_READ: u32 = 1;

/// The only key of a worker's `ConfigMap`.
pub const CONFIG_KEY: &str = "config.yaml";

/// The directory where the operator mounts a worker's `ConfigMap`.
pub const CONFIG_DIR: &str = "/etc/pinpipe/config";

/// The directory under which each Secret of a worker is mounted, in a subdirectory of its own.
pub const SECRETS_DIR: &str = "/etc/pinpipe/secrets";

/// The port on which ingest accepts records.
pub const HTTP_PORT: u16 = 8080;

/// The port of every worker's `/healthz`, `/readyz` and `/metrics`, and of stream workers'
/// [`RESET_PATH`].
pub const ADMIN_PORT: u16 = 9090;

/// The port of the stream workers' `POST /flush`, for the operator and batch runs.
pub const CONTROL_PORT: u16 = 9091;

/// Exit code of the batch worker after a failure that no retry fixes: a quality limit was exceeded,
/// or the configuration, arguments or credentials were refused. Any other failure exits with 1 and
/// may succeed when the pod is retried. It equals the code of the argument parser for wrong
/// arguments.
pub const EXIT_PERMANENT_FAILURE: u8 = 2;

/// The consumer lag of a sink, records: a gauge per partition. Autoscalers refer to its name and
/// its labels.
pub const LAG_METRIC: &str = "pinpipe_stream_lag_records";
/// The label of [`LAG_METRIC`] with the pipeline's namespace.
pub const LAG_NAMESPACE_LABEL: &str = "namespace";
/// The label of [`LAG_METRIC`] with the pipeline's name.
pub const LAG_PIPELINE_LABEL: &str = "pipeline";
/// The label of [`LAG_METRIC`] with the sink's name, `archive` for the archive.
pub const LAG_SINK_LABEL: &str = "sink";

/// A worker's configuration document: [`Ingest`], [`Stream`], [`Batch`] or [`Emulator`].
pub trait WorkerConfig: Serialize + DeserializeOwned {
    /// The document's version.
    fn config_version(&self) -> u32;
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or not of this worker's type. A newer operator may use a field that this worker
    /// does not support.
    #[error(
        "the configuration can't be read: {0}: if the operator is newer than this worker, the \
         pipeline uses a feature that this worker doesn't support: raise or remove spec.image.tag"
    )]
    Unreadable(#[from] serde_yaml::Error),
    /// The operator that wrote the configuration is too new or too old.
    #[error(
        "the configuration has configVersion {found}, this worker understands {} to {NEWEST_READ}: \
         use an operator and workers at most one release apart (spec.image.tag)",
        CONFIG_VERSION - 1
    )]
    Version {
        /// The document's version.
        found: u32,
    },
}

/// Reads a configuration from YAML and checks its version.
pub fn parse<T: WorkerConfig>(yaml: &str) -> Result<T, ConfigError> {
    /// Only the version, which is checked first: a document of another version may not fit `T`.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        config_version: u32,
    }
    let found = serde_yaml::from_str::<Version>(yaml)?.config_version;
    if !(CONFIG_VERSION - 1..=NEWEST_READ).contains(&found) {
        return Err(ConfigError::Version { found });
    }
    Ok(serde_yaml::from_str(yaml)?)
}

/// Whether a field has its default value and need not be serialized.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! worker_config {
    ($($name:ident),*) => {$(
        impl WorkerConfig for $name {
            fn config_version(&self) -> u32 {
                self.config_version
            }
        }
    )*};
}
worker_config!(Ingest, Stream, Batch, Emulator);

/// The pipeline that a worker belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pipeline {
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// The resource's UID, which differs if a pipeline is deleted and created again by the same
    /// name.
    pub uid: String,
}

impl Pipeline {
    /// The consumer group that holds how far the dead letters of rejected records are written. No
    /// consumer joins it.
    #[must_use]
    pub fn dead_letter_group(&self) -> String {
        format!("{}.{}.dead-letters", self.namespace, self.name)
    }
}

/// The topics of one kind of record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topic {
    /// The topic of raw records.
    pub name: String,
    /// The dead-letter topic.
    pub dead_letter: String,
}

/// The topics of the three kinds of record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topics {
    /// Topics of pins.
    pub pin: Topic,
    /// Topics of geo records.
    pub geo: Topic,
    /// Topics of users.
    pub user: Topic,
}

/// When the archive closes an object: at the first limit reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotate {
    /// Size of the raw records, bytes, before compression.
    pub bytes: u64,
    /// Number of records.
    pub records: u64,
    /// Seconds since the object's first record arrived.
    pub interval_seconds: u64,
}

/// The location of raw objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawZone {
    /// The bucket, created if it does not exist.
    pub bucket: String,
    /// The key prefix of raw objects without leading or trailing slash, such as `topics`.
    pub prefix: String,
    /// The object store.
    pub s3: S3,
}

/// Configuration of a stream worker, which writes the three topics to one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stream {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The Kafka cluster.
    pub kafka: Kafka,
    /// The topics to consume.
    pub topics: Topics,
    /// The consumer group.
    pub group: String,
    /// Size limit of a record, bytes. Larger records are rejected.
    pub max_record_bytes: u32,
    /// Whether this worker writes dead letters. One worker of a pipeline does; the others only
    /// count rejected records.
    pub writes_dead_letters: bool,
    /// A reset of this sink's positions requested by a user, performed once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// The sink that records are written to.
    pub sink: StreamSink,
}

/// A stream worker's sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamSink {
    /// Live tables in PostgreSQL.
    Postgres(Postgres),
    /// Raw objects in an object store.
    Archive(Archive),
}

/// Where a sink without stored positions starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StartFrom {
    /// The earliest record that the broker retains.
    Earliest,
    /// The end of the log when the sink runs for the first time.
    Latest,
}

/// Configuration of the PostgreSQL sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Postgres {
    /// The sink's name in the resource. Positions are stored by this name.
    pub name: String,
    /// A file with the URL `postgresql://user:password@host:port/database`.
    pub url_file: PathBuf,
    /// The Secret and key behind `url_file`, as messages name them: `Secret warehouse, key url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The certificates of the authorities to trust, and the client's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The schema of the tables, created if it does not exist.
    pub schema: String,
    /// Where the sink starts if it has no stored positions.
    pub start_from: StartFrom,
    /// What a row stands for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_mode: WriteMode,
}

/// What a row of a live table stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WriteMode {
    /// The latest record of a key.
    #[default]
    Upsert,
    /// One record. The primary key is topic, partition and offset.
    Append,
}

/// Configuration of the raw archive. It always starts at the earliest record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Archive {
    /// The location of raw objects.
    pub zone: RawZone,
    /// When an object is closed.
    pub rotate: Rotate,
    /// How objects are compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
}

/// How raw objects are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Compression {
    /// Uncompressed, `.json`.
    #[default]
    None,
    /// gzip, `.json.gz`.
    Gzip,
    /// Zstandard, `.json.zst`.
    Zstd,
}

/// Configuration of the batch worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The Kafka cluster, queried for end offsets and the archive's committed offsets.
    pub kafka: Kafka,
    /// The topics.
    pub topics: Topics,
    /// Size limit of a record, bytes. Larger records are rejected.
    pub max_record_bytes: u32,
    /// The location of raw objects. Manifests and reports are stored in the same bucket.
    pub zone: RawZone,
    /// The archive's consumer group.
    pub archive_group: String,
    /// `host:port` of the archive's `POST /flush`. The name resolves to every pod of the archive.
    pub archive_control: String,
    /// How long to wait for the archive to reach the end of the topics, seconds.
    pub barrier_timeout_seconds: u64,
    /// The name of the Lease held during a run, in the pipeline's namespace.
    pub lease: String,
    /// Where clean tables and answers are written, besides the report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<BatchSink>,
    /// Data quality limits of a run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quality: Quality,
    /// A directory for data that does not fit into memory. Emptied by every run.
    #[serde(default = "scratch_dir", skip_serializing_if = "is_scratch_dir")]
    pub scratch_dir: PathBuf,
}

/// Where the operator mounts the scratch volume of a batch run.
pub const SCRATCH_DIR: &str = "/tmp";

fn scratch_dir() -> PathBuf {
    PathBuf::from(SCRATCH_DIR)
}

fn is_scratch_dir(path: &PathBuf) -> bool {
    path == Path::new(SCRATCH_DIR)
}

/// Data quality limits. A run that exceeds one fails before it publishes anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quality {
    /// Maximum percentage of rejected records among those that the run read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rejected: Option<Percentage>,
    /// Maximum percentage of repaired records, by raw field (`follower_count`), among those read of
    /// the kind that has the field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub max_repaired: BTreeMap<String, Percentage>,
}

/// A sink of the batch worker: exactly one of its stores is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchSink {
    /// The sink's name in the resource.
    pub name: String,
    /// A Cassandra cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<Cassandra>,
    /// A PostgreSQL database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<BatchPostgres>,
}

/// Configuration of the batch worker's PostgreSQL sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchPostgres {
    /// A file with the URL `postgresql://user:password@host:port/database`.
    pub url_file: PathBuf,
    /// The Secret and key behind `url_file`, as messages name them: `Secret warehouse, key url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The certificates of the authorities to trust, and the client's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The schema of the tables, created if it does not exist.
    pub schema: String,
}

/// Configuration of the Cassandra sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cassandra {
    /// `host:port` of one or more nodes.
    pub contact_points: Vec<String>,
    /// The keyspace, created if it does not exist.
    pub keyspace: String,
    /// Number of replicas by datacenter with which the keyspace is created. Empty: one replica in
    /// the cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replication: BTreeMap<String, u32>,
    /// A directory with the files `username` and `password`. No authentication if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<PathBuf>,
    /// TLS. Plain text if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Configuration of the emulator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Emulator {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The base URL of ingest, such as `http://pinterest-ingest.data.svc:8080`.
    pub target: String,
    /// Records per second, all three kinds together.
    pub records_per_second: u32,
    /// The seed of the synthetic users. The same seed produces the same records.
    pub seed: u64,
    /// A file with the certificate of an `https://` target, the only one that is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// A directory with ingest's bearer tokens, of which the first by name is sent. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
