//! The objects and topics that a validated pipeline wants, given what was observed of the cluster.
//!
//! There is no client and no clock here: the same input gives the same bytes. Everything that
//! depends on the cluster (what drains, what is at zero, which images run) is part of [`Observed`];
//! nothing is edited after it was built.

mod autoscaler;
mod config_map;
mod cron_job;
mod deployment;
mod disruption_budget;
mod inspect;
mod labels;
mod merge;
mod network_policy;
mod pod;
mod rollout;
mod run;
mod run_live;
mod run_output;
mod service;
mod topics;
mod trust;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, PodTemplateSpec},
        rbac::v1::{RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, core::ApiResource};
use pinpipe_config::Reset;
use serde::Serialize;
use serde_json::Value;

use crate::{component::Component, model::ValidatedPipeline, names};

pub use cron_job::STARTING_DEADLINE_SECONDS;
pub use inspect::{INSPECTION, Inspection, InspectionPod, inspection_pod, registry_and_tag};
pub use rollout::{Rollout, Stage, stage};
pub use run::{NoJob, run_job};
pub use run_live::{live_digest, live_sink_of};
pub use run_output::run_output;
pub use topics::{DesiredTopic, topics};

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// API version and kind.
    pub resource: ApiResource,
    /// Name.
    pub name: String,
    /// Every field that the operator owns.
    pub body: Value,
}

/// Observations of the cluster that decide how objects are built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Components that run although the pipeline is suspended: sinks that haven't read their topics
    /// to the end.
    pub draining: BTreeSet<Component>,
    /// Components that may have several pods and whose Deployments ask for none. A
    /// `HorizontalPodAutoscaler` ignores those.
    pub at_zero: BTreeSet<Component>,
    /// Whether components keep their images, because too many other pipelines roll.
    pub keeps_images: bool,
    /// Whether records of the topics can't be ordered. Sinks have no pods then: they would keep
    /// older records instead of later ones.
    pub unsuitable_topics: bool,
    /// Whether the operator hasn't reached the brokers that the resource names, or can't use a
    /// Secret for them. Workers that reach others keep to those then.
    pub unreached_brokers: bool,
    /// A reset that a sink's worker is to carry out.
    pub reset: Option<(Component, Reset)>,
    /// Deployments that exist.
    pub deployments: BTreeMap<Component, RunningDeployment>,
}

/// A Deployment that exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunningDeployment {
    /// Pod template as the operator last applied it. None: it can't be told.
    pub template: Option<PodTemplateSpec>,
    /// Whether enough pods of the current template are ready.
    pub ready: bool,
    /// Whether all pods of the current template have ever been ready.
    pub rolled_out: bool,
}

/// Everything a pipeline wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Record of the settings that can't be changed. No other object is applied before it; topics
    /// may be created before.
    pub record: Object,
    /// Objects, each after those it depends on.
    pub objects: Vec<Object>,
    /// Which component gets its new image, and which wait: for that one, or for other pipelines.
    pub rollout: Rollout,
}

/// What building an object needs.
struct Builder<'a> {
    pipeline: &'a ValidatedPipeline,
    observed: &'a Observed,
    rollout: Rollout,
    objects: Vec<Object>,
}

/// Builds everything a pipeline wants.
#[must_use]
pub fn build(pipeline: &ValidatedPipeline, observed: &Observed) -> Desired {
    let rollout = rollout::decide(pipeline, observed);
    let mut builder = Builder {
        pipeline,
        observed,
        rollout,
        objects: Vec::new(),
    };
    if let Some(ingest) = &pipeline.ingest {
        builder.ingest(ingest);
    }
    for sink in &pipeline.sinks {
        builder.stream(sink);
    }
    if let Some(archive) = &pipeline.archive {
        builder.archive(archive);
        if let Some(batch) = &pipeline.batch {
            builder.batch(archive, batch);
        }
    }
    if let Some(emulator) = &pipeline.emulator {
        builder.emulator(emulator);
    }
    Desired {
        record: record(pipeline),
        objects: builder.objects,
        rollout: builder.rollout,
    }
}

impl Builder<'_> {
    fn push<K: Resource<DynamicType = ()> + Serialize>(&mut self, typed: &K) {
        self.objects.push(object(typed));
    }
}

/// Metadata of an object of the batch component.
#[must_use]
pub(crate) fn metadata_of_batch(pipeline: &ValidatedPipeline) -> ObjectMeta {
    labels::metadata(pipeline, &Component::Batch)
}

/// Gives a `ServiceAccount` the Role of the same name.
fn role_binding(metadata: ObjectMeta, account: &str) -> RoleBinding {
    RoleBinding {
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: metadata.name.clone().unwrap_or_default(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: metadata.namespace.clone(),
            api_group: None,
        }]),
        metadata,
    }
}

fn record(pipeline: &ValidatedPipeline) -> Object {
    object(&ConfigMap {
        metadata: labels::of_pipeline(pipeline, names::record(&pipeline.name)),
        data: Some(pipeline.record.clone()),
        ..ConfigMap::default()
    })
}

/// A typed object in the form in which it is applied.
fn object<K: Resource<DynamicType = ()> + Serialize>(typed: &K) -> Object {
    let resource = ApiResource::erase::<K>(&());
    // The keys of Kubernetes' types are text, so they always serialise; the API server would refuse
    // a null.
    let body = serde_json::to_value(typed).unwrap_or_default();
    Object {
        name: typed.meta().name.clone().unwrap_or_default(),
        resource,
        body,
    }
}

#[cfg(test)]
mod tests;
