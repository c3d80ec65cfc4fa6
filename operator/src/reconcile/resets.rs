//! An event when a worker is first given a reset.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use pinpipe_config::CONFIG_KEY;
use pinpipe_crds::reasons;
use pinpipe_plan::{
    build::Object,
    model::{SinkReset, ValidatedPipeline},
};
use serde_json::Value;

use super::Reconciler;
use crate::observe::children::Children;

/// A reset that no worker was given before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewReset {
    sink: String,
    request: String,
    /// `ConfigMap` that contains it.
    config_map: String,
}

/// Resets in `objects` that no `ConfigMap` of the children contains.
pub(super) fn new(
    pipeline: &ValidatedPipeline,
    objects: &[Object],
    children: &Children,
) -> Vec<NewReset> {
    let components = pipeline.deployments();
    let resets = components
        .iter()
        .filter_map(|component| Some((component.sink()?.to_owned(), pipeline.reset(component)?)));
    let new = resets.filter(|(_, reset)| !children.objects().any(|object| holds(object, reset)));
    new.filter_map(|(sink, reset)| {
        let config = objects.iter().find(|object| holds(&object.body, reset))?;
        let request = reset.request.clone();
        Some(NewReset {
            sink,
            request,
            config_map: config.name.clone(),
        })
    })
    .collect()
}

/// Whether an object is a worker's configuration with this reset.
fn holds(object: &Value, reset: &SinkReset) -> bool {
    object["data"][CONFIG_KEY]
        .as_str()
        .is_some_and(|yaml| yaml.contains(&reset.reset.id))
}

impl Reconciler<'_> {
    /// Publishes an event for each of these resets that has been applied.
    pub(super) async fn report_resets(&self, resets: &[NewReset], children: &Children) {
        for NewReset {
            sink,
            request,
            config_map,
        } in resets
        {
            if children.get("ConfigMap", config_map).is_none() {
                continue;
            }
            let (namespace, name) = (&self.namespace, &self.name);
            tracing::info!(namespace, name, sink, request, "a sink is given a reset");
            let message = format!("the sink {sink} is given a reset of its positions: {request}");
            let config_map = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("ConfigMap".to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(config_map.clone()),
                ..ObjectReference::default()
            };
            let (type_, reason) = (EventType::Normal, reasons::SINK_RESET);
            self.event(type_, reason, "Reset", &message, Some(config_map))
                .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::{
        build::{Observed, build},
        names::RESET_ANNOTATION,
        samples::{all_there, images, pipeline, whole},
        validate::validate,
    };

    use super::*;

    fn requested(annotation: &str) -> (ValidatedPipeline, Vec<Object>) {
        let mut pipeline = pipeline(whole());
        let annotations = [(RESET_ANNOTATION.to_owned(), annotation.to_owned())];
        pipeline.metadata.annotations = Some(annotations.into());
        let validated = validate(&pipeline, &all_there(&pipeline), &images()).unwrap();
        let objects = build(&validated, &Observed::default()).objects;
        (validated, objects)
    }

    #[test]
    fn a_reset_is_new_until_a_configuration_contains_it() {
        let (pipeline, objects) = requested("live=earliest,archive=latest");
        let first = new(&pipeline, &objects, &Children::default());
        let found: Vec<_> = first.iter().map(|reset| reset.request.as_str()).collect();
        assert_eq!(found, ["live=earliest", "archive=latest"]);
        assert_eq!(
            (first[0].sink.as_str(), first[1].sink.as_str()),
            ("live", "archive")
        );
        for reset in &first {
            assert!(reset.config_map.starts_with("pinterest-"), "{reset:?}");
        }

        let live = objects
            .iter()
            .map(|o| (o.resource.kind.clone(), o.body.clone()));
        let children = Children::of(live);
        assert_eq!(new(&pipeline, &objects, &children), []);
        let (other, objects) = requested("live=earliest#2");
        assert_eq!(new(&other, &objects, &children).len(), 1);
    }
}
