//! Sample pipelines for tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::collections::BTreeMap;

use pinpipe_crds::{PinterestPipeline, PinterestRun};
use serde_json::{Value, json};

use crate::{
    model::{Images, ValidatedPipeline},
    validate::{Inputs, SecretKey, references, validate},
};

/// Images of an operator without settings of its own.
#[must_use]
pub fn images() -> Images {
    Images {
        registry: "ghcr.io/pinpipe".into(),
        tag: "0.1.0".into(),
        digests: BTreeMap::new(),
        repositories: BTreeMap::new(),
    }
}

/// Pipeline `pinterest` in namespace `data` with this spec; a broker is added where it has none.
#[must_use]
pub fn pipeline(mut spec: Value) -> PinterestPipeline {
    if spec["broker"].is_null() {
        spec["broker"] = json!({"kafka": {"bootstrapServers": "kafka:9092"}});
    }
    serde_json::from_value(json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestPipeline",
        "metadata": {"name": "pinterest", "namespace": "data", "uid": "0001", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

/// Run of the pipeline `pinterest` in namespace `data` that does this; its UID is its name.
#[must_use]
pub fn run(name: &str, action: Value) -> PinterestRun {
    let mut spec = action;
    spec["pipelineRef"] = json!({"name": "pinterest"});
    serde_json::from_value(json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestRun",
        "metadata": {"name": name, "namespace": "data", "uid": name, "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

/// Spec with every section, and in each only what is required.
#[must_use]
pub fn whole() -> Value {
    json!({
        "ingest": {},
        "stream": {"sinks": [
            {"name": "live", "postgres": {"urlSecretRef": {"name": "warehouse", "key": "uri"}}},
        ]},
        "archive": {"bucket": "raw", "s3": {"credentialsSecretRef": {"name": "s3"}}},
        "batch": {"schedule": "0 10 * * *", "sinks": [
            {"name": "serving", "cassandra": {
                "contactPoints": ["c:9042"],
                "credentialsSecretRef": {"name": "cassandra"},
            }},
        ]},
        "emulator": {},
    })
}

/// Observations of a cluster that has every Secret the pipeline refers to.
#[must_use]
pub fn all_there(pipeline: &PinterestPipeline) -> Inputs {
    let references = references(&pipeline.spec).into_iter();
    let keys = references.flat_map(|(secret, keys)| {
        keys.into_iter()
            .map(move |key| ((secret.clone(), key), SecretKey::Present))
    });
    Inputs {
        secrets: keys.collect(),
        operator_namespace: "pinpipe-system".into(),
        ..Inputs::default()
    }
}

/// A pipeline with this spec and all Secrets, validated.
#[must_use]
pub fn validated(spec: Value) -> ValidatedPipeline {
    let pipeline = pipeline(spec);
    validate(&pipeline, &all_there(&pipeline), &images()).unwrap()
}
