//! The `PinterestPipeline` resource: its type, the rules the API server holds it to, and its
//! status.
//!
//! The schema says what can be written; it fills in no default. Defaults are the operator's
//! validate phase's alone, so that they stand in one place and a stored resource says exactly what
//! its author wrote. Every string, list and map is bounded: the API server estimates what a CEL
//! rule may cost from these bounds and refuses a definition that could cost too much.
//!
//! Rules on the form of a name are CEL rather than `pattern`, because a rule has a message that
//! says what to do and a pattern has none. `kube`'s evaluator runs the same rules without a cluster
//! ([`check_rules`]).

mod archive;
mod batch;
mod broker;
mod common;
mod dead_letters;
mod pods;
pub mod reasons;
mod schema;
mod sinks;
mod status;
mod thresholds;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use archive::{Archive, Compression, Rotate};
pub use batch::{Batch, BatchSink, Cassandra, Quality, REPAIRABLE_FIELDS};
pub use broker::{Broker, DeletionPolicy, Kafka, TopicOverride, TopicOverrides, Topics};
pub use common::{
    Amount, Amounts, Image, ImageDigests, PullPolicy, Resources, S3, SecretKeyRef, SecretRef,
};
pub use dead_letters::{DeadLetterMode, DeadLetters};
pub use pods::{
    IngestAutoscaling, PodSettings, SinkAutoscaling, TaintEffect, Toleration, TolerationOperator,
    TopologySpread, WhenUnsatisfiable,
};
pub use schema::{BrokenRule, check_rules, crd, schema, yaml};
pub use sinks::{Postgres, StartFrom, Stream, StreamSink, WriteMode};
pub use status::{
    BatchStatus, IngestStatus, LastRun, Outcome, PinterestPipelineStatus, TopicStatus,
    condition_types, parse_run_report,
};
pub use thresholds::{LagThresholds, RejectThresholds};

/// Pinterest records on their way from REST posts through Kafka to clean tables and answers. Only
/// `broker` is required; a section that is absent is not deployed. Ingest always is.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "pinpipe.dev",
    version = "v1alpha1",
    kind = "PinterestPipeline",
    namespaced,
    shortname = "pp",
    category = "all",
    status = "PinterestPipelineStatus",
    derive = "PartialEq",
    doc = "A pipeline of Pinterest records: REST posts through Kafka to clean tables, raw objects and answers.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether everything the pipeline consists of works."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready, or what keeps it from being so."
    ),
    printcolumn(
        name = "Ingest",
        type_ = "string",
        json_path = ".status.ingest.url",
        description = "Where records are posted to, from inside the cluster."
    ),
    printcolumn(
        name = "Last Batch",
        type_ = "date",
        json_path = ".status.batch.lastSuccessfulTime",
        description = "When a batch run last succeeded."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Topics",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="TopicsReady")].status"#,
        priority = 1,
        description = "Whether the Kafka topics are there."
    ),
    printcolumn(
        name = "Stream",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="StreamReady")].status"#,
        priority = 1,
        description = "Whether every sink's worker runs."
    ),
    printcolumn(
        name = "Archive",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="ArchiveReady")].status"#,
        priority = 1,
        description = "Whether the archive's worker runs."
    ),
    printcolumn(
        name = "Batch",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="BatchReady")].status"#,
        priority = 1,
        description = "Whether batch runs are scheduled and the last one succeeded."
    ),
    validation = Rule::new("self.metadata.name.size() <= 30 && self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
        "metadata.name must have at most 30 lowercase letters, digits and '-', begin with a letter and end with a letter or digit: \
         Services and topics are named after it"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.batch) || has(self.archive)").message(
        "spec.batch needs spec.archive: a batch run reads the raw objects that the archive writes; add spec.archive or remove spec.batch"
    )
)]
pub struct PinterestPipelineSpec {
    /// Stops ingest, lets sinks read the topics to their ends, scales every worker to zero and
    /// skips scheduled batch runs; one that runs goes on to its end. Topics and data stay; `false`
    /// resumes where the workers stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// The broker that records pass through.
    pub broker: Broker,

    /// The REST service that takes records. Always deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingest: Option<Ingest>,

    /// What becomes of records that are rejected or repaired on their way into sinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeadLetters>,

    /// Workers that keep live tables up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,

    /// The worker that writes raw records to an object store, always from the earliest record on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,

    /// The scheduled run that cleans all raw records, loads them and answers the eight questions.
    /// Needs `archive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,

    /// Synthetic users who post records to ingest, for trying a pipeline out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<Emulator>,

    /// Where the workers' images come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// The REST service that takes records.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || !has(self.autoscaling)")
        .message("ingest.replicas and ingest.autoscaling can't both be set: remove one of them"),
    validation = Rule::new(
        "!has(self.autoscaling) || !has(self.resources) || (has(self.resources.requests) && has(self.resources.requests.cpu)) || \
         (has(self.resources.limits) && has(self.resources.limits.cpu))"
    )
    .message("ingest.autoscaling goes by the share of the CPU time that pods request: set ingest.resources.requests.cpu")
)]
pub struct Ingest {
    /// How many pods. 2 unless set.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// As many pods as their CPU time asks for, in place of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<IngestAutoscaling>,

    /// The size limit of one record, bytes; larger ones are refused, and rejected by every worker.
    /// 65536 unless set.
    #[schemars(range(min = 256, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<i32>,

    /// What a pod asks for and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Where the pods run, as whom, and what stands on them.
    #[serde(flatten)]
    pub pods: PodSettings,
}

/// Synthetic users who post records to ingest.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Emulator {
    /// Records a second, all three kinds together. 100 unless set.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records_per_second: Option<i32>,

    /// The seed of the synthetic users: the same seed gives the same records. 1 unless set.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,

    /// What the pod asks for and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Where the pods run, as whom, and what stands on them.
    #[serde(flatten)]
    pub pods: PodSettings,
}
