//! The `PinterestRun` resource: one piece of work on a pipeline's data.

mod import;
mod redrive;
mod reset;
mod status;
mod topic;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use import::{ImportLayout, ImportS3, ImportTopic, RunImport};
pub use redrive::{RedriveOutcome, RunRedrive};
pub use reset::{ResetOffset, ResetTo, ResetToEnd, RunReset};
pub use status::{
    PinterestRunStatus, RunAction, RunCounts, RunKindCounts, RunPhase, RunProgress, RunReport,
    run_condition_types,
};
pub use topic::{RunTopic, TopicAction};

/// One piece of work on a pipeline's data. Immutable: exactly one of `batch`, `backfill`, `import`,
/// `redrive`, `reset` and `topic`.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[kube(
    group = "pinpipe.dev",
    version = "v1alpha1",
    kind = "PinterestRun",
    namespaced,
    shortname = "ppr",
    category = "all",
    status = "PinterestRunStatus",
    selectable = ".spec.pipelineRef.name",
    derive = "PartialEq",
    doc = "One piece of work on the data of a PinterestPipeline of the same namespace, done once.",
    printcolumn(
        name = "Pipeline",
        type_ = "string",
        json_path = ".spec.pipelineRef.name",
        description = "The pipeline whose data it works on."
    ),
    printcolumn(
        name = "Action",
        type_ = "string",
        json_path = ".status.action",
        description = "What it does."
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "How far it is."
    ),
    printcolumn(
        name = "Read",
        type_ = "integer",
        json_path = ".status.total.read",
        description = "Number of records read."
    ),
    printcolumn(
        name = "Clean",
        type_ = "integer",
        json_path = ".status.total.clean",
        description = "Number of clean records."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "What it waits for, or how it ended."
    ),
    printcolumn(
        name = "Started",
        type_ = "date",
        json_path = ".status.startTime",
        priority = 1,
        description = "When it was started."
    ),
    printcolumn(
        name = "Job",
        type_ = "string",
        json_path = ".status.job",
        priority = 1,
        description = "The Job that does the work."
    ),
    validation = Rule::new(
        "self.metadata.name.size() <= 63 && \
         self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')"
    )
    .message(
        "metadata.name must have at most 63 lowercase letters, digits and '-', and begin and end \
         with a letter or digit: the Job is named after it"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message(
        "a run can't be changed: create another one, with another name"
    ),
    validation = Rule::new(
        "(has(self.batch) ? 1 : 0) + (has(self.backfill) ? 1 : 0) + \
         (has(self.__import__) ? 1 : 0) + (has(self.redrive) ? 1 : 0) + \
         (has(self.reset) ? 1 : 0) + (has(self.topic) ? 1 : 0) == 1"
    )
    .message(
        "a run does one thing: set exactly one of batch, backfill, import, redrive, reset and topic"
    )
)]
pub struct PinterestRunSpec {
    /// The pipeline whose data the run works on.
    pub pipeline_ref: PipelineRef,

    /// A batch run, as the schedule starts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<RunBatch>,

    /// A batch run that reads the records of a period again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<RunBackfill>,

    /// A batch run that loads raw objects another tool wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<RunImport>,

    /// Writes dead letters back to their topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<RunRedrive>,

    /// Gives a sink other positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<RunReset>,

    /// Settles what the operator knows of a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<RunTopic>,
}

/// Reference to a pipeline of the same namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRef {
    /// Name of the `PinterestPipeline`. It may be created later.
    #[schemars(length(min = 1, max = 30))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "pipelineRef.name must be the name of a PinterestPipeline: lowercase letters, digits \
             and '-', beginning with a letter and ending with a letter or digit"
        )
    )]
    pub name: String,
}

/// A batch run.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunBatch {
    /// Whether it reads all raw objects again and builds everything from nothing, rather than add
    /// what no run has read yet. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
}

/// A rule for a point in time.
pub(crate) const IS_TIME: &str = "self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:\
                                  [0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$')";
/// What a point in time must be.
pub(crate) const TIME: &str =
    "must be a time as RFC 3339 has it, such as 2026-01-31T00:00:00Z or 2026-01-31T00:00:00+01:00";

/// A batch run over the records of a period. Rows are replaced only by the same or later records.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.from) || has(self.to)").message(
        "backfill needs from, to or both: all records are read again by batch: {full: true}"
    )
)]
pub struct RunBackfill {
    /// Reads records that came to the broker at or after this time, such as `2026-01-31T00:00:00Z`.
    /// Without it: from the first record on.
    #[schemars(length(min = 20, max = 40))]
    #[x_kube(validation = Rule::new(IS_TIME).message(TIME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,

    /// Reads records that came to the broker before this time. Without it: up to the last record
    /// that was read.
    #[schemars(length(min = 20, max = 40))]
    #[x_kube(validation = Rule::new(IS_TIME).message(TIME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,

    /// Where the records are written. Defaults to what batch runs write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<BackfillTarget>,
}

/// Where a backfill writes records: exactly one of `batch` and `sink`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.batch) != has(self.sink)")
        .message("backfill.target must be one thing: set either batch or sink")
)]
pub struct BackfillTarget {
    /// What batch runs write: clean tables, the sinks of batch runs and the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BackfillBatch>,

    /// The live tables of this stream sink, which must be in PostgreSQL with `writeMode: Upsert`. A
    /// row is replaced by the same record or a later one.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "backfill.target.sink must be the name of a sink of spec.stream.sinks of the pipeline"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
}

/// What batch runs write. It has no settings.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackfillBatch {}
