//! Plain data in; a [`ValidatedPipeline`], or problems with the paths of their fields, out.
//!
//! Every default is filled in here and nowhere else. Defaults are frozen for `v1alpha1` by the
//! golden test: changing one would change pipelines that nobody edited.

mod aliases;
mod annotations;
mod client_settings;
mod duration;
mod images;
mod ingest;
mod kafka;
mod mounts;
mod network_policy;
mod percentage;
mod pods;
mod policy;
mod quantity;
mod record;
mod resources;
mod s3;
mod secrets;
mod sinks;
mod template;
mod tls;
mod topics;
mod trust;

use std::{collections::BTreeMap, fmt};

use pinpipe_crds::PinterestPipeline;

use crate::{
    component::Component,
    model::{Images, ValidatedPipeline},
    names,
    ownership::Claim,
};

pub use crate::mounts::ANY_KEY;
pub use kafka::for_operator as kafka_for_operator;
pub use secrets::{Inputs, SecretKey, references};

/// A part of a resource that can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.archive.rotate.interval`.
    pub field: &'static str,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Fills in defaults, and finds the problems that the schema and its rules can't find. `images` is
/// the operator's own choice.
pub fn validate(
    pipeline: &PinterestPipeline,
    inputs: &Inputs,
    images: &Images,
) -> Result<ValidatedPipeline, Vec<Problem>> {
    let (metadata, spec) = (&pipeline.metadata, &pipeline.spec);
    let mut problems = Vec::new();
    policy::check(spec, &inputs.policy, images, &mut problems);
    template::check(spec, &mut problems);
    let topics = topics::topics(pipeline, &mut problems);
    aliases::check(spec, &topics, &mut problems);
    let kafka = &spec.broker.kafka;
    client_settings::check(kafka, &mut problems);
    let name = metadata.name.as_deref().unwrap_or_default();
    let mounts = kafka::mounts(kafka);
    let mut sinks = sinks::Sinks {
        pipeline: name,
        template: spec.template.as_ref(),
        kafka: &mounts,
        partitions: topics::partitions(pipeline, &topics),
        inputs,
        problems: &mut problems,
    };
    let streams = spec.stream.iter().flat_map(|stream| &stream.sinks);
    let streams = streams.filter_map(|sink| sinks.stream(sink));
    let streams = streams.collect();
    let archive = spec.archive.as_ref().map(|archive| sinks.archive(archive));
    let batch = spec
        .batch
        .as_ref()
        .and_then(|batch| sinks.batch(batch, spec.archive.as_ref()));
    let max_record_bytes = spec.ingest.as_ref().and_then(|part| part.max_record_bytes);
    let topic_settings = kafka.topics.as_ref();
    let drain_deadline = spec.drain_deadline.as_deref().unwrap_or("5m");
    let drain_seconds = duration::read("spec.drainDeadline", drain_deadline, &mut problems);
    let mut validated = ValidatedPipeline {
        suspend: spec.suspend.unwrap_or(false),
        drain_seconds,
        kafka: kafka::config(kafka),
        deletion_policy: topic_settings
            .and_then(|topics| topics.deletion_policy)
            .unwrap_or_default(),
        topic_management: topic_settings
            .and_then(|topics| topics.management)
            .unwrap_or_default(),
        topics,
        max_record_bytes: unsigned(max_record_bytes, 65_536),
        ingest: spec.ingest.as_ref().map(|part| {
            ingest::ingest(part, spec.template.as_ref(), mounts, |mounts| {
                inputs.secrets_of(&names::child(name, &Component::Ingest), mounts)
            })
        }),
        sinks: streams,
        archive,
        batch,
        emulator: spec
            .emulator
            .as_ref()
            .zip(spec.ingest.as_ref())
            .map(|(part, ingest)| {
                ingest::emulator(part, ingest, spec.template.as_ref(), |mounts| {
                    inputs.secrets_of(&names::child(name, &Component::Emulator), mounts)
                })
            }),
        network_policy: spec
            .network_policy
            .as_ref()
            .map(|policy| network_policy::network_policy(policy, &inputs.operator_namespace)),
        image: images::image(spec.image.as_ref(), images),
        record: BTreeMap::new(),
        removed_annotations: annotations::removed(pipeline),
        topic_conflict: Claim::of(pipeline).conflict(&inputs.claims),
        uid: metadata.uid.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    validated.record = record::compare(&validated, &inputs.record, &mut problems);
    if problems.is_empty() {
        Ok(validated)
    } else {
        Err(problems)
    }
}

/// A number that the schema bounds to fit, or the default.
fn unsigned<S, U: TryFrom<S>>(value: Option<S>, default: U) -> U {
    value
        .and_then(|value| U::try_from(value).ok())
        .unwrap_or(default)
}

#[cfg(test)]
mod released;
#[cfg(test)]
mod tests;
