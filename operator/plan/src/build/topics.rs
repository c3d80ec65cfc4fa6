//! The topics of a pipeline.

use pinpipe_crds::{RecordKind, TopicManagement};

use crate::{model::ValidatedPipeline, names};

/// Settings of every topic that users can't change.
const FIXED_CONFIG: [(&str, &str); 1] = [("message.timestamp.type", "LogAppendTime")];
/// Room for the headers of a dead letter beside the record it holds, bytes.
const DEAD_LETTER_HEADERS: u64 = 65_536;
/// Kafka's default `max.message.bytes`.
const DEFAULT_MAX_MESSAGE_BYTES: u64 = 1_048_588;

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DesiredTopic {
    /// Kind of its records, or of its dead letters' records.
    pub kind: RecordKind,
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition; -1 is the broker's default.
    pub replication_factor: i32,
    /// Settings, sorted by name.
    pub config: Vec<(String, String)>,
    /// Whether it is a dead-letter topic.
    pub dead_letters: bool,
    /// Whether the operator may create and change it.
    pub managed: bool,
}

/// Topics of a pipeline, each followed by its dead-letter topic.
#[must_use]
pub fn topics(pipeline: &ValidatedPipeline) -> Vec<DesiredTopic> {
    let kinds = [RecordKind::Pin, RecordKind::Geo, RecordKind::User];
    let topics = kinds.into_iter().zip(&pipeline.topics);
    let topics = topics.flat_map(|(kind, topic)| {
        let mut config = topic.config.clone();
        config.extend(FIXED_CONFIG.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let record_bytes = config
            .get("max.message.bytes")
            .and_then(|bytes| bytes.parse().ok());
        let record_bytes: u64 = record_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES);
        let dead_letter_bytes = record_bytes.saturating_add(DEAD_LETTER_HEADERS).to_string();
        let mut dead_letter_config = config.clone();
        dead_letter_config.insert("max.message.bytes".to_owned(), dead_letter_bytes);
        let records = DesiredTopic {
            kind,
            name: topic.name.clone(),
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            config: config.into_iter().collect(),
            dead_letters: false,
            managed: pipeline.topic_management == TopicManagement::Managed,
        };
        let dead_letters = DesiredTopic {
            name: names::dead_letter(&topic.name),
            partitions: 1,
            config: dead_letter_config.into_iter().collect(),
            dead_letters: true,
            ..records.clone()
        };
        [records, dead_letters]
    });
    topics.collect()
}
