//! Phase 3: the objects and topics a validated pipeline wants. No client, no clock: same input,
//! same bytes.

mod batch;
mod config;
mod meta;
mod pod;
mod scaling;
mod workers;

use std::collections::BTreeMap;

use kube::{Resource, api::ApiResource};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::validate::{Secrets, ValidatedPipeline};

pub use meta::{
    COMPONENT_LABEL, INSTANCE_LABEL, MANAGED_BY_LABEL, jobs_selector, runs_selector, selector,
};

/// A pod's annotation: what its worker's configuration is. A change of it rolls the pods.
pub const CONFIG_ANNOTATION: &str = "pinpipe.dev/config-hash";
/// A pod's annotation: what its Secrets hold. A change of it rolls the pods.
pub const SECRETS_ANNOTATION: &str = "pinpipe.dev/secrets-hash";

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// All of it that is ours to say.
    pub body: Value,
}

/// Settings of a topic that aren't the user's to make.
const TOPIC_CONFIG: [(&str, &str); 1] = [("message.timestamp.type", "LogAppendTime")];
/// What a dead letter may need beyond the record it holds, bytes: headers that say where it came
/// from and why.
const DEAD_LETTER_HEADERS: u64 = 65_536;
/// Kafka's own `max.message.bytes`.
const DEFAULT_MAX_MESSAGE_BYTES: u64 = 1_048_588;

/// A topic as it should be created.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicWish {
    /// Its name.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// Replicas of each; -1: the broker's default.
    pub replication_factor: i32,
    /// Settings, sorted by name.
    pub config: Vec<(String, String)>,
    /// Whether it is for rejected records.
    pub dead_letters: bool,
}

/// The objects, each after those it depends on.
#[must_use]
pub fn objects(pipeline: &ValidatedPipeline) -> Vec<Object> {
    let mut objects = Vec::new();
    workers::ingest(pipeline, &mut objects);
    for sink in &pipeline.sinks {
        workers::stream(pipeline, sink, &mut objects);
    }
    if let Some(archive) = &pipeline.archive {
        workers::archive(pipeline, archive, &mut objects);
        if let Some(batch) = &pipeline.batch {
            batch::batch(pipeline, archive, batch, &mut objects);
        }
    }
    if let Some(emulator) = &pipeline.emulator {
        workers::emulator(pipeline, emulator, &mut objects);
    }
    objects
}

/// The topics, each followed by its dead-letter topic.
#[must_use]
pub fn topics(pipeline: &ValidatedPipeline) -> Vec<TopicWish> {
    pipeline
        .topics
        .iter()
        .flat_map(|topic| {
            let ours = TOPIC_CONFIG.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let mut config = topic.config.clone();
            config.extend(ours);
            let record_bytes = config
                .get("max.message.bytes")
                .and_then(|bytes| bytes.parse().ok());
            let dead_letter_bytes = record_bytes
                .unwrap_or(DEFAULT_MAX_MESSAGE_BYTES)
                .saturating_add(DEAD_LETTER_HEADERS);
            let mut dead_letter_config = config.clone();
            dead_letter_config.insert(
                "max.message.bytes".to_owned(),
                dead_letter_bytes.to_string(),
            );
            [
                TopicWish {
                    name: topic.name.clone(),
                    partitions: topic.partitions,
                    replication_factor: topic.replication_factor,
                    config: config.into_iter().collect(),
                    dead_letters: false,
                },
                TopicWish {
                    name: dead_letter(&topic.name),
                    partitions: 1,
                    replication_factor: topic.replication_factor,
                    config: dead_letter_config.into_iter().collect(),
                    dead_letters: true,
                },
            ]
        })
        .collect()
}

/// The consumer group of each component that has one.
#[must_use]
pub fn groups(pipeline: &ValidatedPipeline) -> BTreeMap<String, String> {
    let sinks = pipeline
        .sinks
        .iter()
        .map(|sink| (format!("stream-{}", sink.name), sink.name.as_str()));
    let archive = pipeline
        .archive
        .iter()
        .map(|_| ("archive".to_owned(), "archive"));
    sinks
        .chain(archive)
        .map(|(component, sink)| (component, config::group(pipeline, sink)))
        .collect()
}

/// Where users inside the cluster post to.
#[must_use]
pub fn ingest_url(pipeline: &ValidatedPipeline) -> String {
    format!(
        "http://{}.{}.svc:{}",
        pipeline.child("ingest"),
        pipeline.namespace,
        pinpipe_config::HTTP_PORT
    )
}

/// The Secrets each child needs, by the child's name.
pub fn secrets(pipeline: &ValidatedPipeline) -> impl Iterator<Item = (String, &Secrets)> {
    let sinks = pipeline.sinks.iter().map(|sink| {
        (
            pipeline.child(&format!("stream-{}", sink.name)),
            &sink.secrets,
        )
    });
    let archive = pipeline
        .archive
        .iter()
        .map(|archive| (pipeline.child("archive"), &archive.secrets));
    let batch = pipeline
        .batch
        .iter()
        .map(|batch| (pipeline.child("batch"), &batch.secrets));
    sinks.chain(archive).chain(batch)
}

/// The first 32 hex digits of a text's SHA-256.
#[must_use]
pub fn hash(text: &str) -> String {
    let mut hash = hex(&Sha256::digest(text));
    hash.truncate(32);
    hash
}

/// Bytes in hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The dead-letter topic of a topic.
#[must_use]
pub fn dead_letter(topic: &str) -> String {
    format!("{topic}.dlq")
}

/// A typed object in the form it is applied in.
fn object<K: Resource<DynamicType = ()> + Serialize>(typed: &K) -> Object {
    let resource = ApiResource::erase::<K>(&());
    // Kubernetes' types have text keys alone, so they always are JSON; null would be refused by the
    // API server, not lost.
    let body = serde_json::to_value(typed).unwrap_or_default();
    Object {
        name: typed.meta().name.clone().unwrap_or_default(),
        resource,
        body,
    }
}

#[cfg(test)]
mod tests;
