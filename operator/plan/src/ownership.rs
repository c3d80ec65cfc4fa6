//! Which pipeline a topic belongs to when several name it: the oldest. The others deploy nothing,
//! since each of their workers needs all topics.
//!
//! Names that aren't set contain namespace and pipeline, so only pipelines that set names can
//! collide.

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
    topics: [String; 3],
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
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            uid: metadata.uid.clone().unwrap_or_default(),
            brokers: servers
                .map(|server| qualified(server, &namespace))
                .collect(),
            topics: names::topics(pipeline),
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
                    "createdByUs": false,
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

    /// Whether both name the same topic, be it in one cluster or not.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.uid != other.uid && self.topics.iter().any(|topic| other.topics.contains(topic))
    }

    /// Sentence about a topic that belongs to one of `others`. None: all belong to this pipeline.
    #[must_use]
    pub fn conflict(&self, others: &[Self]) -> Option<String> {
        self.rival(others).map(|(topic, other)| {
            format!(
                "topic {topic} belongs to the pipeline {}/{}, which is older: give this one topics \
                 of its own (spec.broker.kafka.topics.overrides; they can't be changed, so delete \
                 it and create it again), or delete the other",
                other.namespace, other.name
            )
        })
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(
        namespace: &str,
        name: &str,
        second: i64,
        servers: &str,
        topics: &Value,
        ids: &Value,
    ) -> Claim {
        let created = Timestamp::from_second(second).unwrap().to_string();
        Claim::of(
            &serde_json::from_value(json!({
                "apiVersion": "pinpipe.dev/v1alpha1",
                "kind": "PinterestPipeline",
                "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "creationTimestamp": created},
                "spec": {"broker": {"kafka": {"bootstrapServers": servers, "topics": {"overrides": topics}}}},
                "status": {"topics": ids},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn the_older_keeps_a_topic_and_the_younger_is_told_whose_it_is() {
        let pins = json!({"pin": {"name": "pins"}});
        let older = claim("a", "one", 100, "kafka.x:9092", &pins, &json!([]));
        let younger = claim(
            "b",
            "two",
            101,
            "other:1,kafka.x:9092",
            &json!({"user": {"name": "pins"}}),
            &json!([]),
        );
        assert_eq!(older.conflict(std::slice::from_ref(&younger)), None);
        let told = younger.conflict(std::slice::from_ref(&older)).unwrap();
        assert!(
            told.contains("topic pins belongs to the pipeline a/one"),
            "{told}"
        );

        let twin = claim("b", "two", 100, "kafka.x:9092", &pins, &json!([]));
        assert_eq!(
            older.conflict(std::slice::from_ref(&twin)),
            None,
            "of the same second, the UID decides"
        );
        assert!(twin.conflict(std::slice::from_ref(&older)).is_some());
        let oldest = claim("c", "zero", 1, "kafka.x:9092", &pins, &json!([]));
        assert!(
            twin.conflict(&[older, oldest]).unwrap().contains("c/zero"),
            "the oldest owns it"
        );
    }

    #[test]
    fn a_default_name_can_be_taken_by_an_older_override() {
        let older = claim(
            "a",
            "one",
            1,
            "k.x:1",
            &json!({"geo": {"name": "b.two.pin"}}),
            &json!([]),
        );
        let younger = claim("b", "two", 2, "k.x:1", &json!({}), &json!([]));
        assert!(
            younger
                .conflict(&[older])
                .unwrap()
                .contains("topic b.two.pin belongs to")
        );
    }

    #[test]
    fn topics_of_other_clusters_are_others() {
        let pins = json!({"pin": {"name": "pins"}});
        let seen =
            |id: &str| json!([{"name": "pins", "id": id, "partitions": 3, "createdByUs": true}]);
        for (servers, ids, other_servers, other_ids, expected) in [
            ("kafka.x:9092", json!([]), "kafka.y:9092", json!([]), false),
            ("kafka:9092", json!([]), "kafka:9092", json!([]), false),
            (
                "kafka:9092",
                json!([]),
                "kafka.b.svc:9092",
                json!([]),
                false,
            ),
            (
                "kafka:9092",
                json!([]),
                "kafka.a.svc.cluster.local.:9092",
                json!([]),
                true,
            ),
            (
                "Kafka.X.svc:9092",
                json!([]),
                "kafka.x:9092",
                json!([]),
                true,
            ),
            (
                "[fd00::1]:9092",
                json!([]),
                "[fd00::1]:9092",
                json!([]),
                true,
            ),
            ("kafka.x:9092", json!([]), "kafka.x:9093", json!([]), false),
            (
                "kafka.x:9092",
                seen("id"),
                "10.0.0.1:9092",
                seen("id"),
                true,
            ),
            (
                "kafka.x:9092",
                seen("id"),
                "10.0.0.1:9092",
                seen("other"),
                false,
            ),
        ] {
            let older = claim("a", "one", 1, servers, &pins, &ids);
            let younger = claim("b", "two", 2, other_servers, &pins, &other_ids);
            assert_eq!(
                younger.conflict(&[older]).is_some(),
                expected,
                "{servers} {other_servers}"
            );
        }
    }
}
