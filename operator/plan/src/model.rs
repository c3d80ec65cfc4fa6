//! A pipeline with every default filled in. Nothing in it depends on a client.

use std::{collections::BTreeMap, num::NonZeroU32, ops::Not};

use k8s_openapi::{
    api::networking::v1::NetworkPolicyPeer, apimachinery::pkg::api::resource::Quantity,
};
use pinpipe_crds::{
    Alias, Compression, DeletionPolicy, PullPolicy, ServiceType, StartFrom, TopicManagement,
    WriteMode,
};
use serde::Serialize;

use crate::{component::Component, names};

pub use crate::{
    mounts::{Mount, Secrets},
    pods::{Pods, Spread},
};

/// A resource that passed validation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValidatedPipeline {
    /// Namespace of the resource and of everything made for it.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// UID of the resource.
    pub uid: String,
    /// Whether workers are scaled to zero once their topics are drained.
    pub suspend: bool,
    /// How long the sinks of a suspended pipeline may take to read the topics to the end, seconds.
    pub drain_seconds: u64,
    /// The Kafka cluster, as workers' configurations have it.
    pub kafka: pinpipe_config::Kafka,
    /// Topics of pins, geos and users.
    pub topics: [Topic; 3],
    /// Who creates and changes the topics.
    pub topic_management: TopicManagement,
    /// What happens to the topics when the pipeline is deleted.
    pub deletion_policy: DeletionPolicy,
    /// Size limit of a record, bytes.
    pub max_record_bytes: u32,
    /// The REST service.
    pub ingest: Option<Ingest>,
    /// Stream sinks, in the order of the resource.
    pub sinks: Vec<Sink>,
    /// The archive of raw records.
    pub archive: Option<Archive>,
    /// Batch runs. Present only together with the archive.
    pub batch: Option<Batch>,
    /// The emulator.
    pub emulator: Option<Emulator>,
    /// What may connect to the pods. None: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
    /// Images of the workers.
    pub image: Image,
    /// Settings that can't be changed, those of removed sections included, by key.
    #[serde(skip)]
    pub record: BTreeMap<String, String>,
    /// Annotations that do nothing any more, each by its path, and a sentence about it. They hold
    /// up nothing else.
    #[serde(skip)]
    pub removed_annotations: Vec<(&'static str, String)>,
    /// Sentence about a topic that belongs to another pipeline. Nothing is deployed then.
    pub topic_conflict: Option<String>,
}

impl ValidatedPipeline {
    /// Name of a component's objects: `<pipeline>-<component>`.
    #[must_use]
    pub fn child(&self, component: &Component) -> String {
        names::child(&self.name, component)
    }

    /// The one component that writes rejected records to the dead-letter topics: the archive, or
    /// else the first sink by name.
    #[must_use]
    pub fn dead_letter_writer(&self) -> Option<Component> {
        if self.archive.is_some() {
            return Some(Component::Archive);
        }
        let first = self.sinks.iter().map(|sink| &sink.name).min();
        first.map(|name| Component::stream(name))
    }

    /// Components with a Deployment, readers of the topics before writers.
    #[must_use]
    pub fn deployments(&self) -> Vec<Component> {
        let sinks = self.sinks.iter().map(|sink| Component::stream(&sink.name));
        let archive = self.archive.iter().map(|_| Component::Archive);
        let ingest = self.ingest.iter().map(|_| Component::Ingest);
        let emulator = self.emulator.iter().map(|_| Component::Emulator);
        sinks.chain(archive).chain(ingest).chain(emulator).collect()
    }

    /// Components that consume the topics, each with its consumer group.
    #[must_use]
    pub fn groups(&self) -> BTreeMap<Component, String> {
        let consumers = self.deployments().into_iter();
        consumers
            .filter_map(|component| {
                let group = names::group(&self.namespace, &self.name, component.sink()?);
                Some((component, group))
            })
            .collect()
    }

    /// Replica settings of a component that may have several pods.
    #[must_use]
    pub fn replicas(&self, component: &Component) -> Option<&Replicas> {
        match component {
            Component::Ingest => self.ingest.as_ref().map(|ingest| &ingest.replicas),
            Component::Stream(name) => self.sink(name).map(|sink| &sink.replicas),
            Component::Archive | Component::Batch | Component::Emulator => None,
        }
    }

    /// Secrets of a component. None: it needs none, or isn't deployed.
    #[must_use]
    pub fn secrets(&self, component: &Component) -> Option<&Secrets> {
        match component {
            Component::Archive => self.archive.as_ref().map(|archive| &archive.secrets),
            Component::Batch => self.batch.as_ref().map(|batch| &batch.secrets),
            Component::Stream(name) => self.sink(name).map(|sink| &sink.secrets),
            Component::Ingest => self.ingest.as_ref()?.secrets.as_ref(),
            Component::Emulator => self.emulator.as_ref()?.secrets.as_ref(),
        }
    }

    /// Where clients inside the cluster post records. None without ingest.
    #[must_use]
    pub fn ingest_url(&self) -> Option<String> {
        let scheme = if self.ingest.as_ref()?.tls {
            "https"
        } else {
            "http"
        };
        let (child, port) = (self.child(&Component::Ingest), pinpipe_config::HTTP_PORT);
        Some(format!("{scheme}://{child}.{}.svc:{port}", self.namespace))
    }

    fn sink(&self, name: &str) -> Option<&Sink> {
        self.sinks.iter().find(|sink| sink.name == name)
    }
}

/// A topic to be created where it is absent, and given more partitions where it has fewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition; -1 is the broker's default.
    pub replication_factor: i32,
    /// Settings it is created with, besides those the operator sets.
    pub config: BTreeMap<String, String>,
}

/// The REST service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ingest {
    /// Number of pods.
    pub replicas: Replicas,
    /// Whether requests need a bearer token.
    #[serde(skip_serializing_if = "Not::not")]
    pub tokens: bool,
    /// Whether the port for records takes TLS.
    #[serde(skip_serializing_if = "Not::not")]
    pub tls: bool,
    /// How the Service is exposed, where that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_type: Option<ServiceType>,
    /// Annotations of the Service besides the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_annotations: BTreeMap<String, String>,
    /// Requests a second of each client to each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<NonZeroU32>,
    /// Open connections of each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<NonZeroU32>,
    /// Further names of the topics in paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Alias>,
    /// Pod settings.
    pub pods: Pods,
    /// Secrets its pods mount. None: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
}

/// A stream sink.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sink {
    /// Its name.
    pub name: String,
    /// Where a new sink begins to read.
    pub start_from: StartFrom,
    /// Number of pods.
    pub replicas: Replicas,
    /// Sentence about the number of pods where the topics have too few partitions for it.
    pub held_back: Option<String>,
    /// Pod settings.
    pub pods: Pods,
    /// Schema of its PostgreSQL tables.
    pub schema: String,
    /// TLS of its connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<pinpipe_config::Tls>,
    /// Whether a row is the latest of its key or one record.
    pub write_mode: WriteMode,
    /// Secrets its pods mount.
    pub secrets: Secrets,
}

/// The archive of raw records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Archive {
    /// Bucket.
    pub bucket: String,
    /// Prefix of every object's key.
    pub prefix: String,
    /// Compression of new objects.
    pub compression: Compression,
    /// Size at which an object is closed, bytes before compression.
    pub rotate_bytes: u64,
    /// Number of records at which an object is closed.
    pub rotate_records: u64,
    /// Age at which an object is closed, seconds.
    pub rotate_seconds: u64,
    /// The object store, as workers' configurations have it.
    pub s3: pinpipe_config::S3,
    /// Pod settings.
    pub pods: Pods,
    /// Secrets its pod mounts.
    pub secrets: Secrets,
}

/// Batch runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Cron schedule.
    pub schedule: String,
    /// Time zone of the schedule, a name of the IANA database.
    pub time_zone: String,
    /// Time after which a run is stopped, seconds.
    pub deadline_seconds: u64,
    /// Pod settings.
    pub pods: Pods,
    /// Disk space of a run.
    pub scratch_size: Quantity,
    /// Limits above which a run fails.
    pub quality: pinpipe_config::Quality,
    /// Stores that a run loads.
    pub sinks: Vec<BatchSink>,
    /// Secrets a run's pod mounts: the object store's and the sinks'.
    pub secrets: Secrets,
}

/// A store that batch runs load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum BatchSink {
    /// A Cassandra cluster.
    Cassandra(CassandraSink),
    /// A PostgreSQL database.
    Postgres(PostgresSink),
}

/// A PostgreSQL database that batch runs load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PostgresSink {
    /// Name of the sink.
    pub name: String,
    /// TLS of its connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<pinpipe_config::Tls>,
    /// Schema of its tables.
    pub schema: String,
    /// Secret and key with its URL, as a worker's messages name them.
    pub secret: String,
}

/// A Cassandra cluster that batch runs load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CassandraSink {
    /// Name of the sink.
    pub name: String,
    /// Contact points, `host:port` each.
    pub contact_points: Vec<String>,
    /// Keyspace.
    pub keyspace: String,
    /// Number of replicas by datacenter with which the keyspace is created; empty: one replica.
    pub replication: BTreeMap<String, u32>,
    /// Whether it has a Secret with user name and password.
    pub credentials: bool,
    /// TLS of its connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<pinpipe_config::Tls>,
}

/// The emulator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Emulator {
    /// Records posted a second.
    pub records_per_second: u32,
    /// Seed of the made-up records.
    pub seed: u64,
    /// Pod settings.
    pub pods: Pods,
    /// Secrets its pods mount, for posting to ingest. None: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
}

/// What may connect to a pipeline's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NetworkPolicy {
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// Sources besides the pipeline's own. Empty: all.
    pub allow_from: Vec<NetworkPolicyPeer>,
}

/// The operator's own choice of images, used where a pipeline makes none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Registry and path, such as `ghcr.io/pinpipe`.
    pub registry: String,
    /// Tag, such as `0.1.0`.
    pub tag: String,
    /// Digest (`sha256:…`) by worker.
    pub digests: BTreeMap<String, String>,
    /// Full name of the image by worker, where it isn't `<registry>/<worker>`.
    pub repositories: BTreeMap<String, String>,
}

/// What an operator permits pipelines to choose. The default permits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Registries that pipelines may name, each with everything below it; empty permits all.
    pub allowed_registries: Vec<String>,
    /// Whether pipelines may not name a `ServiceAccount`.
    pub forbid_service_account_name: bool,
}

/// Images of a pipeline's workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    /// Registry and path, such as `ghcr.io/pinpipe`.
    pub registry: String,
    /// Tag, such as `0.1.0`.
    pub tag: String,
    /// Digest (`sha256:…`) by worker, where one is pinned.
    pub digests: BTreeMap<String, String>,
    /// Full name of the image by worker, where it isn't `<registry>/<worker>`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub repositories: BTreeMap<String, String>,
    /// Pull policy.
    pub pull_policy: PullPolicy,
}

/// Number of a component's pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Replicas {
    /// This many.
    Fixed(i32),
    /// Set by a `HorizontalPodAutoscaler` that the operator makes.
    Autoscaled {
        /// Lower bound.
        min: i32,
        /// Upper bound.
        max: i32,
        /// Value the autoscaler aims at.
        target: Target,
    },
    /// Set by an autoscaler of the user's, such as KEDA.
    LeftAlone,
}

impl Replicas {
    /// Fewest pods that count as available where an autoscaler sets the number.
    #[must_use]
    pub fn least(&self) -> Option<i32> {
        match self {
            Self::Fixed(_) => None,
            Self::Autoscaled { min, .. } => Some(*min),
            Self::LeftAlone => Some(1),
        }
    }

    /// Whether there may be more than one pod.
    #[must_use]
    pub fn may_be_several(&self) -> bool {
        match self {
            Self::Fixed(pods) => *pods > 1,
            Self::Autoscaled { max, .. } => *max > 1,
            Self::LeftAlone => true,
        }
    }
}

/// Value an autoscaler aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Target {
    /// CPU time used, in percent of the time requested.
    Cpu(i32),
    /// Lag of each pod, in records.
    Lag(i64),
}
