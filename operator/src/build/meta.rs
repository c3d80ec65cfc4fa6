//! Labels, selectors and owners.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource as _;
use pinpipe_crds::PinterestPipeline;

use crate::{MANAGER, validate::ValidatedPipeline};

/// The label that names the pipeline.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// The label of everything the operator made.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The label that names the component: `ingest`, `stream-live`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The label of what belongs to pinpipe.
const NAME_LABEL: (&str, &str) = ("app.kubernetes.io/name", "pinpipe");

/// Selects everything made for a pipeline, and of that only one component where one is named.
#[must_use]
pub fn selector(pipeline: &str, component: Option<&str>) -> String {
    let all = format!("{INSTANCE_LABEL}={pipeline},{MANAGED_BY_LABEL}={MANAGER}");
    component.map_or(all.clone(), |component| {
        format!("{all},{COMPONENT_LABEL}={component}")
    })
}

/// Selects a pipeline's Jobs, whoever made them of the `CronJob`'s template: whatever installs one
/// may have labelled it as its own.
#[must_use]
pub fn jobs_selector(pipeline: &str) -> String {
    let (key, name) = NAME_LABEL;
    format!("{key}={name},{INSTANCE_LABEL}={pipeline}")
}

/// [`jobs_selector`], of batch runs alone: other work on the same data isn't one.
#[must_use]
pub fn runs_selector(pipeline: &str) -> String {
    format!("{},{COMPONENT_LABEL}=batch", jobs_selector(pipeline))
}

/// What selects a component's pods. A selector can't be changed later, so it holds no more than
/// must be.
pub(super) fn pod_selector(
    pipeline: &ValidatedPipeline,
    component: &str,
) -> BTreeMap<String, String> {
    [
        (INSTANCE_LABEL, pipeline.name.as_str()),
        (COMPONENT_LABEL, component),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// [`pod_selector`] as Deployments have it.
pub(super) fn label_selector(pipeline: &ValidatedPipeline, component: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(pod_selector(pipeline, component)),
        match_expressions: None,
    }
}

/// The labels of objects and pods.
pub(super) fn labels(pipeline: &ValidatedPipeline, component: &str) -> BTreeMap<String, String> {
    let mut labels = pod_selector(pipeline, component);
    for (key, value) in [NAME_LABEL, (MANAGED_BY_LABEL, MANAGER)] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The metadata of a child. The pipeline owns it, so it goes when the pipeline does.
pub(super) fn metadata(pipeline: &ValidatedPipeline, component: &str, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(pipeline.namespace.clone()),
        labels: Some(labels(pipeline, component)),
        owner_references: Some(vec![OwnerReference {
            api_version: PinterestPipeline::api_version(&()).into_owned(),
            kind: PinterestPipeline::kind(&()).into_owned(),
            name: pipeline.name.clone(),
            uid: pipeline.uid.clone(),
            controller: Some(true),
            // Setting this would need a permission on the pipeline's finalizers where the API
            // server checks that, for nothing.
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}
