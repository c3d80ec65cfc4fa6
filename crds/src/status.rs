//! The status of a pipeline. It contains no values that change continuously, such as lag and rates,
//! which are metrics: the status of a settled pipeline is never written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Types of the conditions in the status.
pub mod condition_types {
    /// Everything the pipeline consists of is deployed and works. How batch runs end is told by
    /// `BatchReady` alone.
    pub const READY: &str = "Ready";
    /// True while the pipeline differs from its spec and the operator is working on it or waiting
    /// for something. Otherwise absent.
    pub const RECONCILING: &str = "Reconciling";
    /// True while the pipeline differs from its spec and somebody has to intervene. Otherwise
    /// absent.
    pub const STALLED: &str = "Stalled";
    /// Present if `spec.suspend` is set: False while sinks read the topics to the end, then True.
    pub const SUSPENDED: &str = "Suspended";
    /// The broker is reachable and all topics exist.
    pub const TOPICS_READY: &str = "TopicsReady";
    /// Ingest accepts records.
    pub const INGEST_READY: &str = "IngestReady";
    /// The workers of all stream sinks run.
    pub const STREAM_READY: &str = "StreamReady";
    /// The archive's worker runs.
    pub const ARCHIVE_READY: &str = "ArchiveReady";
    /// Batch runs start, the last one succeeded, and none is overdue. `Ready` doesn't depend on
    /// them.
    pub const BATCH_READY: &str = "BatchReady";
}

/// Observed state of a pipeline.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PinterestPipelineStatus {
    /// The generation of the spec that this status was computed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Conditions: `Ready`; `TopicsReady`, `IngestReady`, `StreamReady`, `ArchiveReady` and
    /// `BatchReady` for the sections in the spec; `Suspended` while `spec.suspend` is set;
    /// `Reconciling` or `Stalled`, as defined by kstatus, while `Ready` is not True.
    #[schemars(schema_with = "crate::schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// The pipeline's topics and dead-letter topics.
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicStatus>,

    /// The stream sinks, the archive under the name `archive`, and the sinks of batch runs, each
    /// under the name `batch/<sink>`.
    #[schemars(length(max = 25))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkStatus>,

    /// Ingest, the REST service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingest: Option<IngestStatus>,

    /// Batch runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchStatus>,
}

/// Status of a topic.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[schemars(transform = without_default)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The topic's name.
    #[schemars(length(max = 249))]
    pub name: String,

    /// The topic id assigned by the broker, which changes if the topic is deleted and created
    /// again. Absent while the topic is being created.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// The number of partitions.
    pub partitions: i32,

    /// Who created it. Only topics that the operator created are deleted with the pipeline or given
    /// more partitions.
    #[serde(default)]
    pub created: Created,
}

/// Removes the default, which the API server would write into stored objects.
fn without_default(schema: &mut schemars::Schema) {
    let created = schema.pointer_mut("/properties/created");
    if let Some(created) = created.and_then(|created| created.as_object_mut()) {
        created.remove("default");
    }
}

/// Who created a topic.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum Created {
    /// The operator, for a pipeline with this namespace and name.
    Operator,
    /// Somebody else: it existed before.
    Other,
    /// It can't be told: the operator stopped while it created the topic, or its record is lost.
    #[default]
    Unknown,
}

/// Status of a sink.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkStatus {
    /// The sink's name.
    #[schemars(length(max = 26))]
    pub name: String,

    /// The kind of its store.
    pub kind: SinkKind,

    /// Whether the sink works. Of a sink of batch runs: whether the last run that came to it has
    /// loaded it; true before the first.
    pub ready: bool,

    /// The reason as a machine-readable word, one of those of the conditions `StreamReady`,
    /// `ArchiveReady` and `BatchReady`, or `Loaded`.
    #[schemars(length(max = 64))]
    pub reason: String,

    /// The reason for people, and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,

    /// The number of desired pods. Absent of a sink of batch runs, which has no pods of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// The number of ready pods. Absent of a sink of batch runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
}

/// The kind of a sink's store.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum SinkKind {
    /// Tables in a PostgreSQL database.
    Postgres,
    /// Raw objects in an object store.
    Archive,
    /// Tables in a Cassandra cluster.
    Cassandra,
}

/// Status of ingest.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestStatus {
    /// URL for posting records from inside the cluster.
    #[schemars(length(max = 512))]
    pub url: String,
}

/// Status of batch runs.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchStatus {
    /// When the schedule last started a run.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,

    /// When a run last succeeded.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,

    /// Whether a run that was due was never started, or no run has succeeded since although
    /// `spec.batch.deadline` has passed. Absent: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,

    /// The last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
}

/// A batch run that ended.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// The Job's name.
    #[schemars(length(max = 63))]
    pub name: String,

    /// How it ended.
    pub outcome: Outcome,

    /// When it ended.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,

    /// Number of records read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,

    /// Number of clean records, including superseded ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<i64>,

    /// Number of clean records with a value that was unreadable or out of range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<i64>,

    /// Number of records without a readable key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<i64>,

    /// Duration, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// How a batch run ended.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// The answers are published.
    Succeeded,
    /// The run failed. Earlier answers are kept.
    Failed,
}

/// Parses the termination message of a batch worker's pod, `{"run": …, "outcome": …, "read": …,
/// …}`. Other messages, such as the end of a log, yield no numbers.
#[must_use]
pub fn parse_run_report(job: &str, outcome: Outcome, message: &str) -> LastRun {
    #[derive(Default, Deserialize)]
    struct Report {
        read: Option<i64>,
        clean: Option<i64>,
        repaired: Option<i64>,
        rejected: Option<i64>,
        seconds: Option<f64>,
    }
    let report: Report = serde_json::from_str(message).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`as` saturates, and a run takes fewer than 2^63 seconds"
    )]
    let seconds = report.seconds.map(|seconds| seconds.round() as i64);
    LastRun {
        name: job.to_owned(),
        outcome,
        completion_time: None,
        read: report.read,
        clean: report.clean,
        repaired: report.repaired,
        rejected: report.rejected,
        seconds,
    }
}
