//! Claims of pipelines that no entry decides yet: the oldest pipeline may make it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use pinpipe_crds::PinterestPipeline;
use serde_json::{Value, json};

use crate::names;

/// The topics a pipeline names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Namespace of the pipeline.
    pub namespace: String,
    /// Name of the pipeline.
    pub name: String,
    /// UID of the pipeline.
    pub uid: String,
    /// Creation time of the pipeline; None, in tests and files, is the oldest.
    created: Option<Timestamp>,
    /// Addresses of the brokers, as pods of any namespace would write them.
    brokers: BTreeSet<String>,
    topics: Vec<String>,
    /// Topics whose names were set by hand.
    overrides: BTreeSet<String>,
    /// Topic ids, by name, of the topics that were observed.
    ids: BTreeMap<String, String>,
}

impl Claim {
    /// Claim of a pipeline.
    #[must_use]
    pub fn of(pipeline: &PinterestPipeline) -> Self {
        let metadata = &pipeline.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let servers = pipeline.spec.broker.kafka.bootstrap_servers.split(',');
        let observed = pipeline.status.iter().flat_map(|status| &status.topics);
        let overrides = names::topic_overrides(pipeline).into_iter();
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            uid: metadata.uid.clone().unwrap_or_default(),
            brokers: servers
                .map(|server| qualified(server, &namespace))
                .collect(),
            topics: names::topics(pipeline).into(),
            overrides: overrides.filter_map(|own| own.name).collect(),
            ids: observed
                .filter_map(|topic| Some((topic.name.clone(), topic.id.clone()?)))
                .collect(),
            namespace,
        }
    }

    /// Claim of a resource that this version can't read as a whole, by the fields that a claim is
    /// made from. None: those can't be read either. Its workers still run, so the topics stay its.
    #[must_use]
    pub fn of_unreadable(resource: &Value) -> Option<Self> {
        let (metadata, kafka) = (&resource["metadata"], &resource["spec"]["broker"]["kafka"]);
        let mut overrides = json!({});
        for kind in names::KINDS {
            let name = &kafka["topics"]["overrides"][kind]["name"];
            if !name.is_null() {
                overrides[kind] = json!({"name": name});
            }
        }
        let observed = resource["status"]["topics"].as_array();
        let observed: Vec<_> = observed
            .into_iter()
            .flatten()
            .map(|topic| {
                json!({
                    "name": topic["name"],
                    "id": topic["id"],
                    "partitions": 0,
                    "created": "Unknown",
                })
            })
            .collect();
        let readable = json!({
            "apiVersion": resource["apiVersion"],
            "kind": resource["kind"],
            "metadata": {
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "creationTimestamp": metadata["creationTimestamp"],
            },
            "spec": {"broker": {"kafka": {
                "bootstrapServers": kafka["bootstrapServers"],
                "topics": {"overrides": overrides},
            }}},
            "status": {"topics": observed},
        });
        serde_json::from_value(readable).ok().as_ref().map(Self::of)
    }

    /// `<namespace>/<name>` of the pipeline.
    #[must_use]
    pub fn pipeline(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether the pipeline names a topic, or its dead-letter topic.
    #[must_use]
    pub fn names(&self, topic: &str) -> bool {
        let is_it = |own: &String| topic == own || topic == names::dead_letter(own);
        self.topics.iter().any(is_it)
    }

    /// The claim without topics that the pipeline holds already.
    #[must_use]
    pub fn without(mut self, is_held: impl Fn(&str) -> bool) -> Self {
        self.topics.retain(|topic| !is_held(topic));
        self
    }

    /// Topics with a name set by hand that begins with a namespace's name and a dot, as the default
    /// names in that namespace do; each with the namespace, which may not exist.
    pub fn foreign_namespaces(&self) -> impl Iterator<Item = (&str, &str)> {
        let set = self.topics.iter();
        let set = set.filter(|topic| self.overrides.contains(*topic));
        let split = set.filter_map(|topic| Some((topic.as_str(), topic.split_once('.')?.0)));
        split.filter(|(_, namespace)| *namespace != self.namespace && is_label(namespace))
    }

    /// Whether both name the same topic, be it in one cluster or not.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.uid != other.uid && self.topics.iter().any(|topic| other.topics.contains(topic))
    }

    /// Sentence about a topic that belongs to one of `others`. None: all belong to this pipeline.
    #[must_use]
    pub fn conflict(&self, others: &[Self]) -> Option<String> {
        let (topic, other) = self.rival(others)?;
        let owner = format!("{}, which is older", other.pipeline());
        Some(conflict(topic, &owner))
    }

    /// First topic that belongs to one of `others`, and the oldest pipeline it belongs to.
    #[must_use]
    pub fn rival<'a>(&'a self, others: &'a [Self]) -> Option<(&'a str, &'a Self)> {
        let mut older: Vec<&Self> = others
            .iter()
            .filter(|other| other.seniority() < self.seniority())
            .collect();
        older.sort_by_key(|other| other.seniority());
        older.into_iter().find_map(|other| {
            let topic = self
                .topics
                .iter()
                .find(|topic| other.topics.contains(topic) && self.is_same(other, topic))?;
            Some((topic.as_str(), other))
        })
    }

    /// Whether the name means one topic: the same cluster by its addresses, or the same topic id.
    fn is_same(&self, other: &Self, topic: &str) -> bool {
        let known = self.ids.get(topic);
        !self.brokers.is_disjoint(&other.brokers)
            || (known.is_some() && known == other.ids.get(topic))
    }

    fn seniority(&self) -> (Option<Timestamp>, &str) {
        (self.created, &self.uid)
    }
}

/// Sentence about a topic that belongs to the pipeline `owner`, `<namespace>/<name>`.
#[must_use]
pub fn conflict(topic: &str, owner: &str) -> String {
    format!(
        "topic {topic} belongs to the pipeline {owner}: give this one topics of its own \
         (spec.broker.kafka.topics.overrides; they can't be changed, so delete it and create it \
         again), point it at another Kafka cluster, or delete the other"
    )
}

/// Whether a text can be the name of a namespace.
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(is_inner)
}

/// `host:port` with the host as pods of any namespace would write it: the short name of a Service
/// means another one in each namespace.
fn qualified(server: &str, namespace: &str) -> String {
    let server = server.trim().to_ascii_lowercase();
    let (host, port) = server.rsplit_once(':').unwrap_or((&server, ""));
    let host = host.trim_end_matches('.');
    let host = host.strip_suffix(".cluster.local").unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    if host.contains(['.', ':']) {
        format!("{host}:{port}")
    } else {
        format!("{host}.{namespace}:{port}")
    }
}
