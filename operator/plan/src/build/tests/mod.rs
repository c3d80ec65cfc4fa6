//! What is built for which spec.

mod changes;
mod configuration;
mod inspect;
mod network;
mod objects;
mod pods;
mod replicas;
mod topics;

use serde_json::Value;

use super::{Object, Observed, build};
use crate::{
    model::ValidatedPipeline,
    samples::{validated, whole},
};

/// Objects of a pipeline in an empty cluster.
fn objects(pipeline: &ValidatedPipeline) -> Vec<Object> {
    build(pipeline, &Observed::default()).objects
}

fn ids(objects: &[Object]) -> Vec<String> {
    objects
        .iter()
        .map(|object| format!("{}/{}", object.resource.kind, object.name))
        .collect()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Value {
    &objects
        .iter()
        .find(|object| object.resource.kind == kind && object.name == name)
        .unwrap()
        .body
}

/// Objects of the whole spec after `mutate`.
fn with(mutate: impl FnOnce(&mut Value)) -> Vec<Object> {
    let mut spec = whole();
    mutate(&mut spec);
    objects(&validated(spec))
}
