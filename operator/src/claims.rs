//! Which pipeline a topic belongs to, where several name it: the oldest. The others stay away from
//! it, and so from everything, since each of their workers needs all topics.
//!
//! Names that aren't set hold namespace and pipeline, so only pipelines that name topics can meet.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use pinpipe_crds::PinterestPipeline;

use crate::validate;

/// The topics a pipeline names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    namespace: String,
    name: String,
    /// None sorts first: who has no time was not created by an API server, as in tests and files.
    created: Option<Timestamp>,
    uid: String,
    /// Where its broker is, as pods of any namespace would name it.
    brokers: BTreeSet<String>,
    topics: [String; 3],
    /// The identities the broker gave those of the topics that were seen.
    ids: BTreeMap<String, String>,
}

impl Claim {
    /// What a pipeline claims.
    #[must_use]
    pub fn of(pipeline: &PinterestPipeline) -> Self {
        let metadata = &pipeline.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let servers = pipeline.spec.broker.kafka.bootstrap_servers.split(',');
        let seen = pipeline.status.iter().flat_map(|status| &status.topics);
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            uid: metadata.uid.clone().unwrap_or_default(),
            brokers: servers
                .map(|server| qualified(server, &namespace))
                .collect(),
            topics: validate::topic_names(pipeline),
            ids: seen
                .filter_map(|topic| Some((topic.name.clone(), topic.id.clone()?)))
                .collect(),
            namespace,
        }
    }

    /// Whether a pipeline that claims these topics may claim one of ours.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.uid != other.uid && self.topics.iter().any(|topic| other.topics.contains(topic))
    }

    /// Which of the topics belongs to which of `others`, in a sentence; None: all are ours.
    #[must_use]
    pub fn conflict(&self, others: &[Self]) -> Option<String> {
        self.rival(others).map(|(topic, other)| {
            format!(
                "topic {topic} belongs to the pipeline {}/{}, which is older: give this one topics of its own \
                 (spec.broker.kafka.topics.overrides; they can't be changed, so delete it and create it anew), or delete the other",
                other.namespace, other.name
            )
        })
    }

    /// One of the topics that isn't ours, and the oldest of `others` it belongs to.
    fn rival<'a>(&'a self, others: &'a [Self]) -> Option<(&'a str, &'a Self)> {
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

    /// Leaves of `others` out who takes a topic from us and isn't there any more: a watch may be
    /// late, and what comes of a conflict is that workers go.
    pub async fn without_ghosts(
        &self,
        client: &Client,
        mut others: Vec<Self>,
    ) -> kube::Result<Vec<Self>> {
        while let Some((_, other)) = self.rival(&others) {
            let api: Api<PinterestPipeline> = Api::namespaced(client.clone(), &other.namespace);
            let there = api
                .get_metadata_opt(&other.name)
                .await?
                .and_then(|found| found.metadata.uid);
            if there.as_ref() == Some(&other.uid) {
                break;
            }
            let gone = other.uid.clone();
            others.retain(|claim| claim.uid != gone);
        }
        Ok(others)
    }

    /// Whether a topic of this name is one topic to both: in one cluster, as far as addresses tell,
    /// or by its identity.
    fn is_same(&self, other: &Self, topic: &str) -> bool {
        let known = self.ids.get(topic);
        !self.brokers.is_disjoint(&other.brokers)
            || (known.is_some() && known == other.ids.get(topic))
    }

    fn seniority(&self) -> (Option<Timestamp>, &str) {
        (self.created, &self.uid)
    }
}

/// `host:port` with the host as it is called from everywhere: a Service's short name means another
/// one in each namespace.
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
