//! The broker and its topics.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{HOST_PORT, or_else, unchanged};

fn topic_fixed(kind: &str) -> String {
    format!(
        "spec.broker.kafka.topics.overrides.{kind}.name can't be changed, since the workers' positions belong to their topics: create \
         another pipeline with the new name; this one's topics and data stay when it is deleted"
    )
}

/// No two of the kinds have the same name set. The stand-ins for names that aren't set are no
/// topics' names.
fn names_differ() -> String {
    let name = |kind: &str| or_else("self", &format!("{kind}.name"), &format!("/{kind}"));
    let [pin, geo, user] = ["pin", "geo", "user"].map(name);
    format!("({pin}) != ({geo}) && ({geo}) != ({user}) && ({user}) != ({pin})")
}

/// The broker that records pass through.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Broker {
    /// An Apache Kafka cluster, reached in plain text.
    pub kafka: Kafka,
}

/// An Apache Kafka cluster.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(unchanged("topics.overrides.pin.name")).message(topic_fixed("pin").as_str()),
    validation = Rule::new(unchanged("topics.overrides.geo.name")).message(topic_fixed("geo").as_str()),
    validation = Rule::new(unchanged("topics.overrides.user.name")).message(topic_fixed("user").as_str())
)]
pub struct Kafka {
    /// `host:port` of one or more brokers, with commas between them.
    #[schemars(length(min = 3, max = 1024))]
    #[x_kube(
        validation = Rule::new(format!("self.matches('^{HOST_PORT}(,{HOST_PORT})*$')"))
            .message("bootstrapServers must be host:port, or several with commas between them: kafka-0.example:9092,kafka-1.example:9092")
    )]
    pub bootstrap_servers: String,

    /// How the pipeline's topics are created. Of topics that are there already only partitions are
    /// changed: raised, where this pipeline created them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<Topics>,
}

/// How topics are created.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Topics {
    /// Partitions of each topic of records. 3 unless set. May be raised later; a topic never loses
    /// partitions, and one that this pipeline did not create keeps what it has.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,

    /// Replicas of each partition; -1 is the broker's default, which holds unless set.
    #[schemars(range(min = -1, max = 100))]
    #[x_kube(validation = Rule::new("self != 0").message("replicationFactor must be -1 (the broker's default) or at least 1"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,

    /// Settings a topic of records is created with, such as `retention.ms`. Differences of an
    /// existing topic are reported, not changed.
    #[schemars(schema_with = "crate::schema::config_map")]
    #[x_kube(
        validation = Rule::new("!('message.timestamp.type' in self)").message(
            "topics.config can't hold message.timestamp.type: pinpipe sets it to LogAppendTime, by which later records are told from earlier ones"
        ),
        validation = Rule::new("!('cleanup.policy' in self) || self['cleanup.policy'] == 'delete'").message(
            "topics.config cleanup.policy must be delete: a compacted topic loses records before every sink has them"
        ),
        validation = Rule::new("self.all(key, key.matches('^[a-z][a-z0-9.]{0,99}$'))").message(
            "topics.config keys must be names of Kafka topic settings, such as retention.ms"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,

    /// What becomes of topics when the pipeline is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,

    /// What differs for the topic of one kind of record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<TopicOverrides>,
}

/// What becomes of topics when the pipeline is deleted: they stay (`Retain`, unless set), or those
/// it created go (`Delete`).
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum DeletionPolicy {
    /// They stay, with everything in them.
    #[default]
    Retain,
    /// Those this pipeline created are deleted, dead-letter topics too, and every record in them.
    /// Others stay.
    Delete,
}

/// What differs for the topic of one kind of record.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(names_differ())
        .message("topics.overrides: two kinds of record can't share a topic; give each its own name")
)]
pub struct TopicOverrides {
    /// Pins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<TopicOverride>,

    /// Where pins were posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geo: Option<TopicOverride>,

    /// Who posted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<TopicOverride>,
}

/// One topic.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicOverride {
    /// The topic's name; `<namespace>.<pipeline>.<kind>` unless set. Its dead-letter topic has
    /// `.dlq` behind it. Can't be changed later.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$') && self != '.' && self != '..' && !self.endsWith('.dlq')").message(
            "a topic's name must consist of letters, digits, '.', '_' and '-', and not end in .dlq, which its dead-letter topic does"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Partitions of this topic. May be raised later.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
}
