//! What the operator reports. No figure here moves by itself (lag and rates are metrics), so a
//! settled pipeline is never written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The types of the status' conditions.
pub mod condition_types {
    /// Everything the pipeline consists of works.
    pub const READY: &str = "Ready";
    /// True while the pipeline isn't as its spec says and the operator works on it or waits for
    /// what it needs. Absent otherwise.
    pub const RECONCILING: &str = "Reconciling";
    /// True while the pipeline isn't as its spec says and won't be until somebody does something.
    /// Absent otherwise.
    pub const STALLED: &str = "Stalled";
    /// `spec.suspend` is set: False while sinks read the topics to their ends, True from then on.
    /// Absent otherwise.
    pub const SUSPENDED: &str = "Suspended";
    /// The broker answers and has every topic.
    pub const TOPICS_READY: &str = "TopicsReady";
    /// Ingest takes records.
    pub const INGEST_READY: &str = "IngestReady";
    /// Every sink's worker runs.
    pub const STREAM_READY: &str = "StreamReady";
    /// The archive's worker runs.
    pub const ARCHIVE_READY: &str = "ArchiveReady";
    /// Batch runs are scheduled, and the last one succeeded.
    pub const BATCH_READY: &str = "BatchReady";
    /// No sink is further behind than its threshold. Absent where none has one.
    pub const LAG_WITHIN_THRESHOLD: &str = "LagWithinThreshold";
    /// No more records are rejected than the threshold says. Absent without one.
    pub const REJECTS_WITHIN_THRESHOLD: &str = "RejectsWithinThreshold";
}

/// What the operator last saw and did.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PinterestPipelineStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `TopicsReady`, `IngestReady`, `StreamReady`, `ArchiveReady`, `BatchReady`; those of
    /// absent sections are absent. `Suspended` only while `spec.suspend` is set; `Reconciling` or
    /// `Stalled` only while `Ready` is not True, as kstatus reads them; `LagWithinThreshold` and
    /// `RejectsWithinThreshold` only where there are thresholds, and `Ready` doesn't depend on
    /// them.
    #[schemars(schema_with = "crate::schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// The pipeline's topics and dead-letter topics.
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicStatus>,

    /// The REST service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingest: Option<IngestStatus>,

    /// Batch runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchStatus>,
}

/// A topic.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// Its name.
    #[schemars(length(max = 249))]
    pub name: String,

    /// The identity the broker gave it; a topic deleted and created again has another. Absent: it
    /// was about to be created.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// Its partitions.
    pub partitions: i32,

    /// Whether this pipeline created it.
    pub created_by_us: bool,
}

/// The REST service.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestStatus {
    /// Where records are posted to, from inside the cluster.
    #[schemars(length(max = 512))]
    pub url: String,
}

/// Batch runs.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchStatus {
    /// When a run was last started by the schedule.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,

    /// When a run last succeeded.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,

    /// The last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,

    /// The value of the annotation `pinpipe.dev/run-batch` for which a run was last started.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_requested: Option<String>,

    /// Its values before that, the latest first: none of them starts a run again.
    #[schemars(length(max = 32), inner(length(max = 63)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requested_before: Vec<String>,
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

    /// Records read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,

    /// Clean records, before the latest of each key was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<i64>,

    /// Clean records of which a value couldn't be read or was out of range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<i64>,

    /// Records that couldn't be keyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<i64>,

    /// How long it took, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// How a batch run ended.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Its answers are published.
    Succeeded,
    /// It gave up; earlier answers stand.
    Failed,
}

/// Reads the termination message of a batch worker's pod, `{"run": …, "outcome": …, "read": …, …}`,
/// into what the status keeps. Nothing of a message in another form is taken: it was the tail of a
/// log.
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
        read: report.read,
        clean: report.clean,
        repaired: report.repaired,
        rejected: report.rejected,
        seconds,
    }
}
