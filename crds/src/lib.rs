//! The `PinterestPipeline` and `PinterestRun` resources: types, validation rules and status.
//!
//! The schemas contain no defaults. The operator's validate phase fills them in, so that defaults
//! are in one place and a stored resource contains exactly what its author wrote. Every string,
//! list and map is bounded: the API server estimates the cost of CEL rules from these bounds and
//! refuses a definition that could be too expensive.
//!
//! Formats are checked by CEL rules rather than `pattern`, because only a rule has a message that
//! says what to do. [`check_rules`] evaluates the rules without a cluster.

mod archive;
mod autoscaling;
mod batch;
mod broker;
mod common;
mod ingest;
mod network_policy;
pub mod reasons;
mod run;
mod schema;
mod sinks;
mod status;
mod template;
mod tls;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use ingest::scaled_ingest_has_a_cpu_request;
use schema::{DURATION, IS_DURATION, duration_within};

pub use archive::{Archive, Compression, Rotate};
pub use autoscaling::{IngestAutoscaling, SinkAutoscaling};
pub use batch::{
    Batch, BatchPostgres, BatchSink, Cassandra, Quality, REPAIRABLE_FIELDS, RepairLimit,
};
pub use broker::{
    Broker, DeletionPolicy, Kafka, TopicManagement, TopicOverride, TopicOverrides, Topics,
};
pub use common::{
    Amount, Amounts, Image, PullPolicy, Resources, S3, SecretKeyRef, SecretRef,
    ServerSideEncryption,
};
pub use ingest::{
    Alias, Ingest, IngestAuthentication, IngestLimits, IngestService, IngestTls, RecordKind,
    ServiceType,
};
pub use network_policy::{IpBlock, LabelSelector, NetworkPolicy, NetworkPolicyPeer};
pub use run::{
    BackfillBatch, BackfillTarget, ImportLayout, ImportS3, ImportTopic, PinterestRun,
    PinterestRunSpec, PinterestRunStatus, PipelineRef, RedriveOutcome, ResetOffset, ResetTo,
    ResetToEnd, RunAction, RunBackfill, RunBatch, RunCounts, RunImport, RunKindCounts, RunPhase,
    RunProgress, RunRedrive, RunReport, RunReset, RunTopic, TopicAction, run_condition_types,
};
pub use schema::{BrokenRule, check_rules, crd, crds, run_schema, schema, yaml};
pub use sinks::{Postgres, StartFrom, Stream, StreamSink, WriteMode};
pub use status::{
    BatchStatus, Created, IngestStatus, LastRun, Outcome, PinterestPipelineStatus, SinkKind,
    SinkStatus, TopicStatus, condition_types, parse_run_report,
};
pub use template::{
    ConfigMapKeyRef, EnvVar, EnvVarSource, LogLevel, PodSecurity, TaintEffect, Template,
    Toleration, TolerationOperator, TopologySpreadConstraint, WhenUnsatisfiable,
};
pub use tls::{AwsMskIam, Credentials, KafkaAuthentication, Tls};

/// Desired state of a pipeline. Only `broker` is required. A component is deployed if its section
/// is present.
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
    doc = "A pipeline of Pinterest records from a REST service through Kafka to clean tables, raw \
           objects and answers.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether all components work."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "The reason of the condition Ready."
    ),
    printcolumn(
        name = "Ingest",
        type_ = "string",
        json_path = ".status.ingest.url",
        description = "URL for posting records from inside the cluster."
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
        description = "Whether the Kafka topics exist."
    ),
    printcolumn(
        name = "Stream",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="StreamReady")].status"#,
        priority = 1,
        description = "Whether the workers of all stream sinks run."
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
        description = "Whether batch runs start, the last one succeeded and none is overdue."
    ),
    validation = Rule::new(
        "self.metadata.name.size() <= 30 && \
         self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')"
    )
    .message(
        "metadata.name must have at most 30 lowercase letters, digits and '-', begin with a letter \
         and end with a letter or digit: Services and topics are named after it"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.batch) || has(self.archive)").message(
        "spec.batch needs spec.archive: a batch run reads the raw objects that the archive writes; \
         add spec.archive or remove spec.batch"
    ),
    validation = Rule::new("!has(self.emulator) || has(self.ingest)").message(
        "spec.emulator needs spec.ingest, which its records are posted to; add `ingest: {}` or \
         remove spec.emulator"
    ),
    validation = Rule::new(scaled_ingest_has_a_cpu_request()).message(
        "spec.ingest.autoscaling compares CPU usage with the CPU request: add requests.cpu to the \
         resources of spec.ingest.template, or of spec.template where ingest has none of its own"
    )
)]
pub struct PinterestPipelineSpec {
    /// Suspends the pipeline: ingest stops, sinks read the topics to the end, all workers are
    /// scaled to zero, and scheduled batch runs are skipped. A batch run in progress is completed.
    /// Topics and data are kept. When set to `false`, the workers resume where they stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// How long the sinks of a suspended pipeline may take to read the topics to the end before
    /// they are stopped all the same: `90s`, `5m`. Defaults to 5m.
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new(IS_DURATION).message(DURATION),
        validation = Rule::new(duration_within("1s", "24h"))
            .message("drainDeadline must be between 1s and 24h")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_deadline: Option<String>,

    /// The message broker.
    pub broker: Broker,

    /// Ingest, the REST service that accepts records. If absent, others write to the topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingest: Option<Ingest>,

    /// Stream workers, which keep live tables up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,

    /// The archive, which writes raw records to an object store, starting at the earliest record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,

    /// Scheduled batch runs, which clean all raw records, load them into sinks and answer the eight
    /// questions. Requires `archive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,

    /// The emulator: synthetic users who post records to ingest, for trying out a pipeline.
    /// Requires `ingest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<Emulator>,

    /// Settings of the pods of all components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,

    /// What may connect to the pods. If absent, everything may. Needs a network plugin that
    /// enforces
    /// `NetworkPolicies`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,

    /// The workers' images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// The emulator: synthetic users who post records to ingest.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.template) || !has(self.template.trustedCASecretRef)").message(
        "emulator.template can't have trustedCASecretRef, since the emulator connects to ingest \
         alone, whose certificate it knows: remove it"
    )
)]
pub struct Emulator {
    /// Records per second, all three kinds together. Defaults to 100.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records_per_second: Option<i32>,

    /// Where the records come from. Defaults to synthetic users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<EmulatorSource>,

    /// Settings of the pods, laid over those of `spec.template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

/// Where the emulator's records come from.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EmulatorSource {
    /// Synthetic users.
    pub synthetic: Synthetic,
}

/// Synthetic users.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Synthetic {
    /// The seed. The same seed produces the same records. Defaults to 1.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
}
