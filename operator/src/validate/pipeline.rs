//! What validation makes of a resource: everything is said, and nothing of it depends on a client.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity,
};
use pinpipe_crds::{Compression, DeadLetterMode, DeletionPolicy, PullPolicy, StartFrom, WriteMode};
use serde::Serialize;

use super::{
    child,
    pods::{Pods, Replicas},
    requests::Requests,
    reset::SinkReset,
};

/// A resource in which everything is said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValidatedPipeline {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether workers are to be at zero.
    pub suspend: bool,
    /// Components that run although it is suspended: sinks that have something left to read. Not
    /// the resource's to say.
    #[serde(skip)]
    pub draining: BTreeSet<String>,
    /// Components whose Deployments have no pods now, so that no autoscaler would give them any.
    /// Not the resource's to say.
    #[serde(skip)]
    pub at_zero: BTreeSet<String>,
    /// `host:port,…`.
    pub bootstrap_servers: String,
    /// The topics of pins, geos and users.
    pub topics: [Topic; 3],
    /// What becomes of topics when the pipeline is deleted.
    pub deletion_policy: DeletionPolicy,
    /// What becomes of rejected and repaired records.
    pub dead_letters: DeadLetterMode,
    /// The share of rejected records above which a condition says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_threshold: Option<f64>,
    /// The REST service.
    pub ingest: Ingest,
    /// The live sinks, by name.
    pub sinks: Vec<Sink>,
    /// The archive.
    pub archive: Option<Archive>,
    /// Batch runs; only where there is an archive.
    pub batch: Option<Batch>,
    /// The emulator.
    pub emulator: Option<Emulator>,
    /// Where images come from.
    pub image: Image,
    /// What other annotations ask for once.
    #[serde(skip)]
    pub requests: Requests,
    /// What of the annotation that resets sinks can't be done, a sentence each. Nothing else waits
    /// for it.
    pub reset_problems: Vec<String>,
    /// A topic that belongs to an older pipeline, in a sentence: then nothing is deployed.
    pub topic_conflict: Option<String>,
}

/// A topic to be created where it is absent, and given more partitions where it has fewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// Replicas of each; -1: the broker's default.
    pub replication_factor: i32,
    /// Settings it is created with, besides those the operator sets.
    pub config: BTreeMap<String, String>,
}

/// The REST service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ingest {
    /// Pods.
    pub replicas: Replicas,
    /// Bytes.
    pub max_record_bytes: u32,
    /// Per pod.
    pub resources: ResourceRequirements,
    /// All of them.
    pub pods: Pods,
}

/// A live sink.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sink {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub start_from: StartFrom,
    /// Pods.
    pub replicas: Replicas,
    /// What of the wished for number of pods can't be had, in a sentence.
    pub held_back: Option<String>,
    /// Per pod.
    pub resources: ResourceRequirements,
    /// All of them.
    pub pods: Pods,
    /// The schema of its PostgreSQL tables.
    pub schema: String,
    /// What a row of them is.
    pub write_mode: WriteMode,
    /// The lag above which a condition says so, records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_threshold: Option<i64>,
    /// A change of its positions that is asked for.
    pub reset: Option<SinkReset>,
    /// What it needs of Secrets.
    pub secrets: Secrets,
}

/// The archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Archive {
    /// Its bucket.
    pub bucket: String,
    /// Its key prefix.
    pub prefix: String,
    /// How objects are written.
    pub compression: Compression,
    /// Bytes of an object.
    pub rotate_bytes: u64,
    /// Records of an object.
    pub rotate_records: u64,
    /// Seconds an object stays open.
    pub rotate_seconds: u64,
    /// The lag above which a condition says so, records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_threshold: Option<i64>,
    /// `http://host:port`, or AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// A change of its positions that is asked for.
    pub reset: Option<SinkReset>,
    /// Per pod.
    pub resources: ResourceRequirements,
    /// All of them.
    pub pods: Pods,
    /// What it needs of Secrets.
    pub secrets: Secrets,
}

/// Batch runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Five fields.
    pub schedule: String,
    /// A name of the IANA database.
    pub time_zone: String,
    /// Per pod.
    pub resources: ResourceRequirements,
    /// All of them.
    pub pods: Pods,
    /// The disk a run may take.
    pub scratch_size: Quantity,
    /// What a run must not exceed.
    pub quality: pinpipe_config::Quality,
    /// Where tables go.
    pub sinks: Vec<CassandraSink>,
    /// What it needs of Secrets: the object store's and the sinks'.
    pub secrets: Secrets,
}

/// A Cassandra cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CassandraSink {
    /// The sink's name.
    pub name: String,
    /// `host:port` each.
    pub contact_points: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// Of a new keyspace.
    pub replication_factor: u32,
    /// Whether there are credentials.
    pub credentials: bool,
}

/// The emulator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Emulator {
    /// Records a second.
    pub records_per_second: u32,
    /// The seed.
    pub seed: u64,
    /// Per pod.
    pub resources: ResourceRequirements,
    /// All of them.
    pub pods: Pods,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    /// `ghcr.io/pinpipe`.
    pub registry: String,
    /// `0.1.0`.
    pub tag: String,
    /// By worker, where one is pinned: `sha256:…`.
    pub digests: BTreeMap<String, String>,
    /// When they are pulled.
    pub pull_policy: PullPolicy,
    /// Secrets with the registry's credentials.
    pub pull_secrets: Vec<String>,
}

/// A Secret mounted into a component's pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The folder's name below [`pinpipe_config::SECRETS_DIR`].
    pub purpose: String,
    /// The Secret.
    pub secret: String,
    /// Keys and the files they become.
    pub files: Vec<(String, String)>,
}

/// What a component needs of Secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Secrets {
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Tells changed contents from the same. None: something is missing and was never there, so
    /// pods can't start.
    pub digest: Option<String>,
    /// What is missing, a sentence each.
    pub missing: Vec<String>,
}

impl ValidatedPipeline {
    /// Whether a component is to have pods.
    #[must_use]
    pub fn runs(&self, component: &str) -> bool {
        !self.suspend || self.draining.contains(component)
    }

    /// The one component that writes the dead letters: the archive, or without one the first sink
    /// by name.
    #[must_use]
    pub fn dead_letter_writer(&self) -> Option<String> {
        let first = || {
            self.sinks
                .iter()
                .map(|sink| &sink.name)
                .min()
                .map(|name| format!("stream-{name}"))
        };
        self.archive
            .as_ref()
            .map(|_| "archive".to_owned())
            .or_else(first)
    }

    /// `<pipeline>-<component>`.
    #[must_use]
    pub fn child(&self, component: &str) -> String {
        child(&self.name, component)
    }
}
