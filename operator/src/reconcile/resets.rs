//! Telling of resets: an event when a worker is first handed one.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use pinpipe_config::CONFIG_KEY;
use serde_json::Value;

use super::Pass;
use crate::{
    apply::Live,
    build::Object,
    status::reasons,
    validate::{SinkReset, ValidatedPipeline},
};

/// A reset that no worker had been handed before this pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewReset {
    sink: String,
    request: String,
    /// What hands it over.
    config_map: String,
}

/// The resets of `objects` that are in no `ConfigMap` of `live`.
pub(super) fn new(pipeline: &ValidatedPipeline, objects: &[Object], live: &Live) -> Vec<NewReset> {
    let sinks = pipeline
        .sinks
        .iter()
        .filter_map(|sink| Some((sink.name.as_str(), sink.reset.as_ref()?)));
    let archive = pipeline
        .archive
        .iter()
        .filter_map(|archive| Some(("archive", archive.reset.as_ref()?)));
    let new = sinks
        .chain(archive)
        .filter(|(_, asked)| !live.objects().any(|object| holds(object, asked)));
    new.filter_map(|(sink, asked)| {
        let config = objects.iter().find(|object| holds(&object.body, asked))?;
        Some(NewReset {
            sink: sink.to_owned(),
            request: asked.request.clone(),
            config_map: config.name.clone(),
        })
    })
    .collect()
}

/// Whether an object is a worker's configuration with this reset in it.
fn holds(object: &Value, asked: &SinkReset) -> bool {
    object["data"][CONFIG_KEY]
        .as_str()
        .is_some_and(|yaml| yaml.contains(&asked.reset.id))
}

impl Pass<'_> {
    /// An event for each that has been handed over since.
    pub(super) async fn tell_of_resets(&self, resets: &[NewReset], live: &Live) {
        for NewReset {
            sink,
            request,
            config_map,
        } in resets
        {
            if live.get("ConfigMap", config_map).is_none() {
                continue;
            }
            tracing::info!(
                namespace = self.namespace,
                name = self.name,
                sink,
                request,
                "a sink is told to reset its positions"
            );
            let note = format!("the sink {sink} is told to change its positions: {request}");
            // Named, so that two resets within minutes aren't taken for one event that repeats.
            let config_map = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("ConfigMap".to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(config_map.clone()),
                ..ObjectReference::default()
            };
            self.event(
                EventType::Normal,
                reasons::SINK_RESET,
                "Reset",
                &note,
                Some(config_map),
            )
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::objects,
        validate::{
            RESET_ANNOTATION,
            tests::{all_there, images, pipeline, whole},
            validate,
        },
    };

    #[test]
    fn a_reset_is_new_until_a_configuration_holds_it() {
        let mut asked = pipeline(whole());
        asked.metadata.annotations = Some(
            [(
                RESET_ANNOTATION.to_owned(),
                "live=earliest,archive=latest".to_owned(),
            )]
            .into(),
        );
        let validated = validate(&asked, &all_there(&asked), &images()).unwrap();
        let objects = objects(&validated);
        let first = new(&validated, &objects, &Live::default());
        let told: Vec<_> = first
            .iter()
            .map(|reset| (reset.sink.as_str(), reset.request.as_str()))
            .collect();
        assert_eq!(
            told,
            [("live", "live=earliest"), ("archive", "archive=latest")]
        );
        for reset in &first {
            assert!(reset.config_map.starts_with("pinterest-"), "{reset:?}");
        }

        let live = Live::of(
            objects
                .iter()
                .map(|object| (object.resource.kind.clone(), object.body.clone())),
        );
        assert_eq!(new(&validated, &objects, &live), []);
        let mut other = pipeline(whole());
        other.metadata.annotations =
            Some([(RESET_ANNOTATION.to_owned(), "live=earliest#2".to_owned())].into());
        let validated = validate(&other, &all_there(&other), &images()).unwrap();
        assert_eq!(
            new(&validated, &crate::build::objects(&validated), &live).len(),
            1
        );
    }
}
