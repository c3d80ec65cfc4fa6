//! Names that several phases must agree on: labels, annotations, children, topics, consumer groups,
//! and the hashes some of them end in.

use pinpipe_crds::{PinterestPipeline, TopicOverride};
use sha2::{Digest as _, Sha256};

use crate::component::Component;

/// Field manager of every write, and value of the label [`MANAGED_BY_LABEL`].
pub const MANAGER: &str = "pinpipe-operator";

/// Label that names the pipeline an object belongs to.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label of every object the operator makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Label that names a [`Component`].
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Label, with its value, of everything that belongs to pinpipe.
pub const NAME_LABEL: (&str, &str) = ("app.kubernetes.io/name", "pinpipe");

/// Annotation of every child: hash of what the operator last applied.
pub const APPLIED_ANNOTATION: &str = "pinpipe.dev/applied-hash";
/// Annotation of a Deployment: image that the operator last applied, which an admission webhook may
/// have rewritten.
pub const IMAGE_ANNOTATION: &str = "pinpipe.dev/applied-image";
/// Pod annotation: hash of the worker's configuration. A change of it rolls the pods.
pub const CONFIG_ANNOTATION: &str = "pinpipe.dev/config-hash";
/// Pod annotation: hash of how the worker reaches Kafka.
pub const KAFKA_ANNOTATION: &str = "pinpipe.dev/kafka-hash";
/// Annotation of a batch run's Job: hash of the Job as the pipeline wanted it when it was made.
pub const TEMPLATE_ANNOTATION: &str = "pinpipe.dev/template-hash";
/// Pipeline annotation: the operator changes nothing while it is set.
pub const PAUSED_ANNOTATION: &str = "pinpipe.dev/paused";

/// Kinds of record, in the order in which topics are listed everywhere.
pub const KINDS: [&str; 3] = ["pin", "geo", "user"];

/// Label selector of everything made for a pipeline, or of one component of it.
#[must_use]
pub fn selector(pipeline: &str, component: Option<&Component>) -> String {
    let all = format!("{INSTANCE_LABEL}={pipeline},{MANAGED_BY_LABEL}={MANAGER}");
    match component {
        Some(component) => format!("{all},{COMPONENT_LABEL}={component}"),
        None => all,
    }
}

/// Label selector of a pipeline's Jobs. Not by [`MANAGED_BY_LABEL`]: a Job that somebody made from
/// the `CronJob`'s template may carry another value.
#[must_use]
pub fn jobs_selector(pipeline: &str) -> String {
    let (key, name) = NAME_LABEL;
    format!("{key}={name},{INSTANCE_LABEL}={pipeline}")
}

/// Label selector of a pipeline's batch runs; other Jobs on the same data are not batch runs.
#[must_use]
pub fn runs_selector(pipeline: &str) -> String {
    format!(
        "{},{COMPONENT_LABEL}={}",
        jobs_selector(pipeline),
        Component::Batch
    )
}

/// Label selector of the batch runs of all pipelines.
#[must_use]
pub fn all_runs_selector() -> String {
    let (key, name) = NAME_LABEL;
    format!("{key}={name},{COMPONENT_LABEL}={}", Component::Batch)
}

/// Name of a component's objects: `<pipeline>-<component>`.
#[must_use]
pub fn child(pipeline: &str, component: &Component) -> String {
    format!("{pipeline}-{component}")
}

/// Name of the `ConfigMap` that records the settings a pipeline can't change: `<pipeline>-record`.
#[must_use]
pub fn record(pipeline: &str) -> String {
    format!("{pipeline}-record")
}

/// Consumer group of a sink: `<namespace>.<pipeline>.<sink>`.
#[must_use]
pub fn group(namespace: &str, pipeline: &str, sink: &str) -> String {
    format!("{namespace}.{pipeline}.{sink}")
}

/// Names of a pipeline's topics, in the order of [`KINDS`].
#[must_use]
pub fn topics(pipeline: &PinterestPipeline) -> [String; 3] {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let namespace = pipeline.metadata.namespace.as_deref().unwrap_or_default();
    let mut kinds = KINDS.iter();
    topic_overrides(pipeline).map(|own| {
        let kind = kinds.next().copied().unwrap_or_default();
        own.name
            .unwrap_or_else(|| format!("{namespace}.{name}.{kind}"))
    })
}

/// What the resource says about each topic alone, in the order of [`KINDS`].
#[must_use]
pub fn topic_overrides(pipeline: &PinterestPipeline) -> [TopicOverride; 3] {
    let topics = pipeline.spec.broker.kafka.topics.as_ref();
    let overrides = topics
        .and_then(|topics| topics.overrides.clone())
        .unwrap_or_default();
    [overrides.pin, overrides.geo, overrides.user].map(Option::unwrap_or_default)
}

/// Dead-letter topic of a topic.
#[must_use]
pub fn dead_letter(topic: &str) -> String {
    format!("{topic}.dlq")
}

/// First 32 hex digits of a text's SHA-256.
#[must_use]
pub fn hash(text: &str) -> String {
    let mut hash = hex(&Sha256::digest(text));
    hash.truncate(32);
    hash
}

/// Bytes as lower-case hex digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
