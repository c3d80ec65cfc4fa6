//! The workers' configuration: the operator writes it into a `ConfigMap`, a worker reads it once,
//! at its start.
//!
//! Types alone, so that neither side depends on the other's code. Operator and workers may be one
//! release apart, either way, during an upgrade or where `spec.image.tag` pins the workers:
//! - A field that is added has a default that means what workers did before it, and is written only
//!   where it says something else. So an older worker reads whatever it can do, and refuses by its
//!   name what it can't, rather than do something else in silence.
//! - What can't be said that way takes another [`CONFIG_VERSION`], in two releases: in the first,
//!   workers read it ([`NEWEST_READ`]); in the second, operators write it.
//!
//! What each release wrote is kept in `samples/`. Credentials never stand here: a field that ends
//! in `file` or `dir` is a path at which the operator mounts a Secret.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version operators write. Workers read it and the one before.
pub const CONFIG_VERSION: u32 = 1;

/// The newest version workers read: [`CONFIG_VERSION`], or the next one in the release before it is
/// written.
pub const NEWEST_READ: u32 = 1;

/// The name of the one key of a worker's `ConfigMap`.
pub const CONFIG_KEY: &str = "config.yaml";

/// The folder the operator mounts a worker's `ConfigMap` at.
pub const CONFIG_DIR: &str = "/etc/pinpipe/config";

/// The folder under which each Secret a worker needs is mounted, in a folder of its own.
pub const SECRETS_DIR: &str = "/etc/pinpipe/secrets";

/// The port on which ingest takes records.
pub const HTTP_PORT: u16 = 8080;

/// The port of every worker's `/healthz`, `/readyz` and `/metrics`, and of the archive's `POST
/// /flush`.
pub const ADMIN_PORT: u16 = 9090;

/// Exit code of the batch worker after a failure that no retry fixes: a quality limit was exceeded,
/// or the configuration, arguments or credentials were refused. Any other failure exits with 1 and
/// may succeed when the pod is retried. It equals the code of the argument parser for wrong
/// arguments.
pub const EXIT_PERMANENT_FAILURE: u8 = 2;

/// The metric of how far a sink is behind, records, a gauge for each partition. Autoscalers are
/// told its name, and its labels.
pub const LAG_METRIC: &str = "pinpipe_stream_lag_records";
/// Its label that holds the pipeline's namespace.
pub const LAG_NAMESPACE_LABEL: &str = "namespace";
/// Its label that holds the pipeline's name.
pub const LAG_PIPELINE_LABEL: &str = "pipeline";
/// Its label that holds the sink's name; the archive's is `archive`.
pub const LAG_SINK_LABEL: &str = "sink";

/// A worker's whole configuration: one of [`Ingest`], [`Stream`], [`Batch`], [`Emulator`].
pub trait WorkerConfig: Serialize + DeserializeOwned {
    /// The version of the document.
    fn config_version(&self) -> u32;
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It isn't YAML, or not of this worker's type: the operator may be newer and ask for something
    /// that this worker can't do.
    #[error(
        "the configuration can't be read: {0}: if the operator is newer than this worker, the pipeline uses what this worker doesn't know: \
         raise or empty spec.image.tag"
    )]
    Unreadable(#[from] serde_yaml::Error),
    /// It was written by an operator too new or too old.
    #[error(
        "the configuration has configVersion {found}, this worker understands {} to {NEWEST_READ}: \
         use an operator and workers at most one release apart (spec.image.tag)",
        CONFIG_VERSION - 1
    )]
    Version {
        /// The version the document names.
        found: u32,
    },
}

/// Reads a configuration from YAML and checks its version.
pub fn parse<T: WorkerConfig>(yaml: &str) -> Result<T, ConfigError> {
    /// The version alone: looked at first, since a document of another version may well not fit the
    /// type.
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

/// Whether a field says what holds without it.
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

/// Which pipeline a worker belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pipeline {
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// The resource's UID: a pipeline deleted and created again under its name is another one.
    pub uid: String,
}

/// How to reach the Kafka cluster. `PLAINTEXT` alone so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several with commas between them.
    pub bootstrap_servers: String,
}

/// One kind of record's topic, and where its rejected records go.
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
    /// Pins.
    pub pin: Topic,
    /// Where a pin was posted.
    pub geo: Topic,
    /// Who posted it.
    pub user: Topic,
}

/// An S3 endpoint and who we are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3 {
    /// `http://host:port` of a server other than AWS (addressed by path, not by virtual host);
    /// absent: AWS itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region, `us-east-1` for most servers other than AWS.
    pub region: String,
    /// A folder with the files `accessKeyId` and `secretAccessKey`.
    pub credentials_dir: PathBuf,
}

/// When the archive closes an object: at the first of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotate {
    /// Bytes of raw records.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Seconds on the wall clock since the object's first record came.
    pub interval_seconds: u64,
}

/// Where the raw zone is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawZone {
    /// The bucket; created when absent.
    pub bucket: String,
    /// The key prefix of raw objects, without a slash at either end: `topics`.
    pub prefix: String,
    /// The store.
    pub s3: S3,
}

/// The REST service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingest {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// Whose it is.
    pub pipeline: Pipeline,
    /// The broker.
    pub kafka: Kafka,
    /// Where records go.
    pub topics: Topics,
    /// The size limit of one record, bytes.
    pub max_record_bytes: u32,
    /// The size limit of one request's body, bytes.
    pub max_request_bytes: u32,
}

/// A stream worker: consumes the three topics into one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stream {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// Whose it is.
    pub pipeline: Pipeline,
    /// The broker.
    pub kafka: Kafka,
    /// Where records come from.
    pub topics: Topics,
    /// The consumer group.
    pub group: String,
    /// Records over this many bytes are rejected.
    pub max_record_bytes: u32,
    /// Whether this worker writes the dead letters: one worker of a pipeline does, the others count
    /// and pass.
    pub writes_dead_letters: bool,
    /// What becomes of records that are rejected or repaired.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dead_letter_mode: DeadLetterMode,
    /// A change of this sink's positions that a user asks for, carried out once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// Where records go.
    pub sink: StreamSink,
}

/// What becomes of records that are rejected or repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeadLetterMode {
    /// A rejected record goes to the dead-letter topic; what is behind it goes on.
    #[default]
    Reject,
    /// The same, and a copy of each repaired record with the fields and reasons goes there too.
    RejectAndLogRepairs,
    /// Every sink stops at the first rejected record.
    Fail,
}

/// Positions a sink is to have instead of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reset {
    /// Which request this is: the sink remembers the ones it has carried out.
    pub id: String,
    /// The topic; absent: all three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The partition; absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Where to read on.
    pub to: ResetTo,
}

/// Where a sink that is reset reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResetTo {
    /// The first record the broker still has.
    Earliest,
    /// The end of the log when the reset is carried out.
    Latest,
    /// This offset.
    Offset(i64),
    /// The first record not before this time, milliseconds since the epoch.
    Time(i64),
}

/// The sink of a stream worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamSink {
    /// Live tables.
    Postgres(Postgres),
    /// Raw objects.
    Archive(Archive),
}

/// Where a sink without a position begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StartFrom {
    /// The first record the broker still has.
    Earliest,
    /// The end of the log when the sink first ran.
    Latest,
}

/// The PostgreSQL sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Postgres {
    /// The sink's name in the resource, part of its positions' identity.
    pub name: String,
    /// A file that holds `postgresql://user:password@host:port/database`.
    pub url_file: PathBuf,
    /// The Secret and key behind `url_file`, as messages name them: `Secret warehouse, key url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The schema of the tables; created when absent.
    pub schema: String,
    /// Where the sink begins.
    pub start_from: StartFrom,
    /// What a row is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_mode: WriteMode,
}

/// What a row of a live table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WriteMode {
    /// The latest record of its key.
    #[default]
    Upsert,
    /// A record: the key is topic, partition and offset.
    Append,
}

/// The raw archive. It begins at the earliest record, always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Archive {
    /// Where objects go.
    pub zone: RawZone,
    /// When an object is closed.
    pub rotate: Rotate,
    /// How objects are written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
}

/// How raw objects are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Compression {
    /// Not at all: `.json`.
    #[default]
    None,
    /// `.json.gz`.
    Gzip,
    /// `.json.zst`.
    Zstd,
}

/// The batch worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// Whose it is.
    pub pipeline: Pipeline,
    /// The broker, asked for the topics' end offsets and the archive's committed ones.
    pub kafka: Kafka,
    /// The topics.
    pub topics: Topics,
    /// Records over this many bytes are rejected.
    pub max_record_bytes: u32,
    /// Where the raw objects are; manifests and reports go to the same bucket.
    pub zone: RawZone,
    /// The archive's consumer group.
    pub archive_group: String,
    /// `host:port` of the archive's `POST /flush`; the name resolves to every pod of the archive.
    pub archive_admin: String,
    /// How long the archive may take to reach the topics' end, seconds.
    pub barrier_timeout_seconds: u64,
    /// The Lease, in the pipeline's namespace, held during a run.
    pub lease: String,
    /// Where clean tables and answers go; at least one.
    pub sinks: Vec<BatchSink>,
    /// What a run must not exceed to be published.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quality: Quality,
    /// A folder on disk for what does not fit into memory; emptied by every run.
    #[serde(default = "scratch_dir", skip_serializing_if = "is_scratch_dir")]
    pub scratch_dir: PathBuf,
}

/// Where the operator mounts what a worker may write for a while: the disk of a batch run.
pub const SCRATCH_DIR: &str = "/tmp";

fn scratch_dir() -> PathBuf {
    PathBuf::from(SCRATCH_DIR)
}

fn is_scratch_dir(path: &PathBuf) -> bool {
    path == Path::new(SCRATCH_DIR)
}

/// Limits of data quality: a run that exceeds one fails before it publishes anything. Ratios are of
/// the records the run read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quality {
    /// Rejected records, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rejected_ratio: Option<f64>,
    /// Repaired records by raw field (`follower_count`), 0 to 1, of the records of the kind that
    /// has the field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub max_repaired_ratio: BTreeMap<String, f64>,
}

/// A sink of the batch worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchSink {
    /// The sink's name in the resource.
    pub name: String,
    /// A Cassandra cluster.
    pub cassandra: Cassandra,
}

/// A Cassandra cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cassandra {
    /// `host:port` each.
    pub contact_points: Vec<String>,
    /// The keyspace; created when absent.
    pub keyspace: String,
    /// The replication factor a new keyspace is created with.
    pub replication_factor: u32,
    /// A folder with the files `username` and `password`; absent: no authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<PathBuf>,
}

/// The emulator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Emulator {
    /// See [`CONFIG_VERSION`].
    pub config_version: u32,
    /// Whose it is.
    pub pipeline: Pipeline,
    /// The base URL of ingest: `http://pinterest-ingest.data.svc:8080`.
    pub target: String,
    /// Records a second, all three kinds together.
    pub records_per_second: u32,
    /// The seed of the synthetic users; the same seed gives the same records.
    pub seed: u64,
}

#[cfg(test)]
mod tests;
