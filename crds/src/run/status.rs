//! The status of a run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RecordKind;

/// Types of the conditions of a run.
pub mod run_condition_types {
    /// True once the run has succeeded.
    pub const COMPLETE: &str = "Complete";
    /// True while the run waits or is under way. Otherwise absent.
    pub const RECONCILING: &str = "Reconciling";
    /// True once the run has failed or was refused. Otherwise absent.
    pub const STALLED: &str = "Stalled";
}

/// Observed state of a run.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PinterestRunStatus {
    /// The generation of the spec that this status was computed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How far the run is. `Succeeded`, `Failed` and `Refused` are final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RunPhase>,

    /// What the run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RunAction>,

    /// What identifies the run's work: its name and a hash of its namespace, name and spec. The
    /// store keeps the ids of finished runs, so that applying a run again repeats nothing.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// The Job that does the work. Absent of resets and of runs about a topic, which have none.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,

    /// The store of the sink, as the pipeline named it when a reset was started.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,

    /// When the work was started.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,

    /// When the run ended.
    #[schemars(schema_with = "crate::schema::time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,

    /// What the run waits for, or how it ended and what to do.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// How far the run is, while its Job is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RunProgress>,

    /// Numbers of records of all kinds together, once the run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<RunCounts>,

    /// Numbers of records by kind, once the run has ended.
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<RunKindCounts>,

    /// Where the report is, once the run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<RunReport>,

    /// Conditions: `Complete`, and `Reconciling` or `Stalled`, as defined by kstatus, until the run
    /// has succeeded.
    #[schemars(schema_with = "crate::schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum RunPhase {
    /// It waits for what the message says.
    Queued,
    /// Its work is under way.
    Running,
    /// Its work is done.
    Succeeded,
    /// Its work failed.
    Failed,
    /// It can't be done, and was never started.
    Refused,
}

impl RunPhase {
    /// Whether the run never changes any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Refused)
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum RunAction {
    /// Reads what no batch run has read yet.
    Batch,
    /// Builds everything again from all raw objects.
    FullBatch,
    /// Reads the records of a period again.
    Backfill,
    /// Loads raw objects another tool wrote.
    Import,
    /// Writes dead letters back to their topics.
    Redrive,
    /// Gives a sink other positions.
    Reset,
    /// Forgets a topic that somebody deleted.
    ForgetTopic,
    /// Takes a topic for one that the operator created.
    AdoptTopic,
}

/// How far a run is.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunProgress {
    /// What it does: `Read`, `Clean`, `Merge`, `Query`, `Load` or `Publish`.
    #[schemars(length(max = 32))]
    pub step: String,

    /// Number of records read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,

    /// Number of records to be read, at most. Absent where it isn't known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<i64>,
}

/// Where the report of a run is.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// `ConfigMap` with the report (key `report`) and the answers (key `answers`), as far as they
    /// fit. Absent of a Job of the schedule.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<String>,

    /// The whole report in the object store.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// Numbers of records of one kind.
#[derive(KubeSchema, Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunKindCounts {
    /// The kind.
    pub kind: RecordKind,

    /// Records read; of a re-drive, dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,

    /// Clean records, including superseded ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<i64>,

    /// Clean records with a value that was unreadable or out of range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<i64>,

    /// Records without a readable key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<i64>,

    /// Rows that sinks refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<i64>,

    /// Of a re-drive: records written back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redriven: Option<i64>,

    /// Of a re-drive: dead letters that were selected, but not written back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<i64>,
}

/// Numbers of records of a run.
#[derive(KubeSchema, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunCounts {
    /// Records read; of a re-drive, dead letters that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,

    /// Clean records, including superseded ones; of a re-drive, records written back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<i64>,

    /// Clean records with a value that was unreadable or out of range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<i64>,

    /// Records without a readable key; of a re-drive, those that would be rejected again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<i64>,
}
