//! Labels, selectors and owner references of children.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource as _;
use pinpipe_crds::PinterestPipeline;

use crate::{
    component::Component,
    model::ValidatedPipeline,
    names::{COMPONENT_LABEL, INSTANCE_LABEL, MANAGED_BY_LABEL, MANAGER, NAME_LABEL},
};

/// Labels that select a component's pods. A Deployment's selector can't be changed later, so it
/// holds no more than it must: the name keeps out pods of other programs, since instance and
/// component alone may be those of, for instance, a Helm release named as the pipeline.
pub(super) fn pod_selector(
    pipeline: &ValidatedPipeline,
    component: &Component,
) -> BTreeMap<String, String> {
    let (name_label, name) = NAME_LABEL;
    [
        (name_label, name.to_owned()),
        (INSTANCE_LABEL, pipeline.name.clone()),
        (COMPONENT_LABEL, component.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// [`pod_selector`] as workloads have it.
pub(super) fn label_selector(pipeline: &ValidatedPipeline, component: &Component) -> LabelSelector {
    LabelSelector {
        match_labels: Some(pod_selector(pipeline, component)),
        match_expressions: None,
    }
}

/// Labels of objects and pods.
pub(super) fn labels(
    pipeline: &ValidatedPipeline,
    component: &Component,
) -> BTreeMap<String, String> {
    let mut labels = labels_of_all(pipeline);
    labels.extend(pod_selector(pipeline, component));
    labels
}

/// Labels of every object.
fn labels_of_all(pipeline: &ValidatedPipeline) -> BTreeMap<String, String> {
    let instance = (INSTANCE_LABEL, pipeline.name.as_str());
    [instance, NAME_LABEL, (MANAGED_BY_LABEL, MANAGER)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Metadata of a component's main object: [`named`] by the component.
pub(super) fn metadata(pipeline: &ValidatedPipeline, component: &Component) -> ObjectMeta {
    named(pipeline, component, pipeline.child(component))
}

/// Metadata of an object that belongs to no component.
pub(super) fn of_pipeline(pipeline: &ValidatedPipeline, name: String) -> ObjectMeta {
    owned(pipeline, name, labels_of_all(pipeline))
}

/// Metadata of a component's child.
pub(super) fn named(
    pipeline: &ValidatedPipeline,
    component: &Component,
    name: String,
) -> ObjectMeta {
    owned(pipeline, name, labels(pipeline, component))
}

/// Metadata of a child. The pipeline owns it, so it is deleted together with the pipeline.
fn owned(
    pipeline: &ValidatedPipeline,
    name: String,
    labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(pipeline.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: PinterestPipeline::api_version(&()).into_owned(),
            kind: PinterestPipeline::kind(&()).into_owned(),
            name: pipeline.name.clone(),
            uid: pipeline.uid.clone(),
            controller: Some(true),
            // Where the API server checks it, setting this needs permission to update the
            // pipeline's finalizers, and nothing would be gained.
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}
