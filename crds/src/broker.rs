//! The broker and its topics.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    KafkaAuthentication, Tls,
    schema::{HOST_PORT, or_else, unchanged},
};

fn immutable_topic(kind: &str) -> String {
    format!(
        "spec.broker.kafka.topics.overrides.{kind}.name can't be changed, since the workers' \
         positions belong to their topics: create another pipeline with the new name; this one's \
         topics and data stay when it is deleted"
    )
}

/// A CEL rule: tokens of AWS's identities, of which one is the operator's, are sent to MSK alone.
fn msk_alone_gets_tokens() -> String {
    "!has(self.authentication) || !has(self.authentication.awsMskIam) || has(self.tls) && \
     self.bootstrapServers.matches('^([a-zA-Z0-9.-]+[.]kafka(-serverless)?[.]' + \
     self.authentication.awsMskIam.region + '[.]amazonaws[.]com([.]cn)?:[0-9]+(,|$))+$')"
        .to_owned()
}

/// A CEL rule: no two kinds have the same topic name. Absent names are replaced by distinct texts
/// that are not valid topic names.
fn names_differ() -> String {
    let name = |kind: &str| or_else("self", &format!("{kind}.name"), &format!("/{kind}"));
    let [pin, geo, user] = ["pin", "geo", "user"].map(name);
    format!("({pin}) != ({geo}) && ({geo}) != ({user}) && ({user}) != ({pin})")
}

/// The message broker.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Broker {
    /// An Apache Kafka cluster.
    pub kafka: Kafka,
}

/// An Apache Kafka cluster.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(msk_alone_gets_tokens()).message(
        "authentication.awsMskIam needs tls, and bootstrapServers of MSK in its region, since \
         whoever gets a token may connect with it: \
         b-1.c.abc.kafka.eu-west-1.amazonaws.com:9098"
    ),
    validation = Rule::new(unchanged("topics.overrides.pin.name"))
        .message(immutable_topic("pin").as_str()),
    validation = Rule::new(unchanged("topics.overrides.geo.name"))
        .message(immutable_topic("geo").as_str()),
    validation = Rule::new(unchanged("topics.overrides.user.name"))
        .message(immutable_topic("user").as_str())
)]
pub struct Kafka {
    /// `host:port` of one or more brokers, comma-separated.
    #[schemars(length(min = 3, max = 1024))]
    #[x_kube(
        validation = Rule::new(format!("self.matches('^{HOST_PORT}(,{HOST_PORT})*$')"))
            .message(
                "bootstrapServers must be host:port, or several separated by commas: \
                 kafka-0.example:9092,kafka-1.example:9092"
            )
    )]
    pub bootstrap_servers: String,

    /// TLS of the connections to the brokers. Without it they are plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// How the operator and the workers authenticate by SASL. Without it they don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<KafkaAuthentication>,

    /// Settings of the operator's and the workers' Kafka clients, such as `linger.ms`. Names are
    /// librdkafka's; those that can't affect delivery, authentication or memory are accepted.
    #[schemars(schema_with = "crate::schema::client_settings")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<BTreeMap<String, String>>,

    /// How the pipeline's topics are created. Existing topics are not changed, except that the
    /// partition count of topics created by this pipeline may be raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<Topics>,
}

/// Settings of topics.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(existing_topics_have_no_settings()).message(
        "topics.management Existing leaves topics as they are: remove partitions, \
         replicationFactor, config and deletionPolicy from topics, and partitions from \
         topics.overrides"
    )
)]
pub struct Topics {
    /// Who creates and changes the topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<TopicManagement>,

    /// Partitions of each record topic. Defaults to 3. May be raised later, which affects only
    /// topics created by this pipeline. Lowering it has no effect on existing topics.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,

    /// Replicas of each partition. Defaults to -1, the broker's default.
    #[schemars(range(min = -1, max = 100))]
    #[x_kube(
        validation = Rule::new("self != 0")
            .message("replicationFactor must be -1 (the broker's default) or at least 1")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,

    /// Kafka settings of new record topics, such as `retention.ms`. Existing topics are not
    /// changed; differences are reported.
    #[schemars(schema_with = "crate::schema::config_map")]
    #[x_kube(
        validation = Rule::new("!('message.timestamp.type' in self)").message(
            "topics.config can't contain message.timestamp.type: pinpipe sets it to LogAppendTime, \
             by which it orders records"
        ),
        validation = Rule::new(
            "!('cleanup.policy' in self) || self['cleanup.policy'] == 'delete'"
        )
        .message(
            "topics.config cleanup.policy must be delete: a compacted topic loses records before \
             every sink has them"
        ),
        validation = Rule::new("self.all(key, key.matches('^[a-z][a-z0-9.]{0,99}$'))").message(
            "topics.config keys must be names of Kafka topic settings, such as retention.ms"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,

    /// What happens to topics when the pipeline is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,

    /// Settings for the topic of one kind of record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<TopicOverrides>,
}

/// A CEL rule: nothing is said about topics that are left as they are.
fn existing_topics_have_no_settings() -> String {
    let settings = [
        "partitions",
        "replicationFactor",
        "config",
        "deletionPolicy",
    ];
    let none = settings
        .map(|setting| format!("!has(self.{setting})"))
        .join(" && ");
    let overrides = ["pin", "geo", "user"].map(|kind| {
        format!("(!has(self.overrides.{kind}) || !has(self.overrides.{kind}.partitions))")
    });
    format!(
        "!has(self.management) || self.management != 'Existing' || \
         ({none} && (!has(self.overrides) || ({})))",
        overrides.join(" && ")
    )
}

/// Who creates and changes the topics: the operator (`Managed`, default), or somebody else
/// (`Existing`), so that the operator needs no right to do so.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum TopicManagement {
    /// The operator creates topics that don't exist, and may give more partitions to topics that
    /// it created.
    #[default]
    Managed,
    /// The operator never creates, changes or deletes a topic. Topics and their dead-letter topics
    /// must exist.
    Existing,
}

/// What happens to topics when the pipeline is deleted: `Retain` (default) keeps all topics,
/// `Delete` deletes those that the pipeline created.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum DeletionPolicy {
    /// All topics and their records are kept.
    #[default]
    Retain,
    /// Topics created by this pipeline are deleted with all their records, including dead-letter
    /// topics. Other topics are kept.
    Delete,
}

/// Settings for the topics of single kinds of record.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(names_differ())
        .message("topics.overrides: two kinds of record can't share a topic; set distinct names")
)]
pub struct TopicOverrides {
    /// The topic of pins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<TopicOverride>,

    /// The topic of geo records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geo: Option<TopicOverride>,

    /// The topic of users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<TopicOverride>,
}

/// Settings for one topic.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicOverride {
    /// The topic's name. Defaults to `<namespace>.<pipeline>.<kind>`. The dead-letter topic has the
    /// suffix `.dlq`. Immutable.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^[A-Za-z0-9._-]+$') && self != '.' && self != '..' && \
             !self.endsWith('.dlq')"
        )
        .message(
            "a topic's name must consist of letters, digits, '.', '_' and '-', and not end in \
             .dlq, the suffix of dead-letter topics"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Partitions of this topic. May be raised later.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
}
