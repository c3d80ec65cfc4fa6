//! A new image is rolled out one component at a time. Pure: what is observed decides, so whichever
//! operator looks goes on where the last one was.
//!
//! Readers go before writers, so that nobody meets records or objects of a later version than its
//! own: batch runs, live sinks, the archive, ingest, the emulator. A component goes once those
//! before it run the image they are to run and all their pods are ready. One that waits keeps its
//! whole pod template, so that it isn't rolled twice; everything else of it, such as the number of
//! pods, is as the resource says. So a rollout that is stuck stops there. Where nothing runs there
//! is nothing to be careful about: in a pipeline that is suspended, or a component whose pods never
//! all became ready as they are.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    MANAGER,
    apply::{Live, config_maps, managed},
    build::{self, Object},
    pass::{replicas, typed},
    status::{
        Finding,
        health::{Rollout, rollout},
    },
    validate::{Replicas, ValidatedPipeline},
};

/// Who waits for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// The component that is on its way to its image.
    goes: Option<String>,
    /// The components that wait for it, and the image each goes on with.
    wait: BTreeMap<String, String>,
}

/// Gives components that must wait the pod templates they have, and leaves out the configurations
/// that go with those they are to have.
pub fn stage(pipeline: &ValidatedPipeline, objects: &mut Vec<Object>, live: &Live) -> Stages {
    let mut stages = Stages::default();
    if pipeline.suspend {
        return stages;
    }
    for component in order(pipeline) {
        let name = pipeline.child(&component);
        let desired = objects
            .iter_mut()
            .find(|object| object.resource.kind == "Deployment" && object.name == name);
        let (Some(desired), Some(found)) = (desired, live.get("Deployment", &name)) else {
            continue;
        };
        let before = image(found).to_owned();
        if image(&desired.body) == before {
            if stages.goes.is_none() && !is_ready(pipeline, &component, live) {
                stages.goes = Some(component);
            }
        } else if stages.goes.is_none() {
            stages.goes = Some(component);
        } else if !never_rolled_out(found)
            && let Some(template) =
                managed::applied(found, MANAGER).map(|mut ours| ours["spec"]["template"].take())
            && template.is_object()
        {
            desired.body["spec"]["template"] = template;
            let mounted = config_maps(&desired.body);
            objects.retain(|object| {
                let labels = &object.body["metadata"]["labels"];
                let other = object.resource.kind != "ConfigMap"
                    || labels[build::COMPONENT_LABEL] != component.as_str();
                other || mounted.contains(&object.name)
            });
            stages.wait.insert(component, before);
        }
    }
    stages
}

/// The components with pods that stay, readers first. Batch runs come and go, each with the image
/// of its time.
fn order(pipeline: &ValidatedPipeline) -> Vec<String> {
    let sinks = pipeline
        .sinks
        .iter()
        .map(|sink| format!("stream-{}", sink.name));
    sinks
        .chain(["archive", "ingest", "emulator"].map(ToOwned::to_owned))
        .collect()
}

/// Whether all pods of a component are those it is to have, and ready; while an autoscaler changes
/// their number, as many as there must be.
fn is_ready(pipeline: &ValidatedPipeline, component: &str, live: &Live) -> bool {
    let least = replicas(pipeline, component).and_then(Replicas::least);
    let found = typed(live, "Deployment", &pipeline.child(component));
    found
        .is_some_and(|found| matches!(rollout(&found, least), Rollout::Complete | Rollout::Scaling))
}

/// Whether the pods of a Deployment never all became ready as they are. One that was there is not
/// forgotten when pods crash or are moved. Source: k8s.io/kubernetes/pkg/controller/deployment,
/// `syncRolloutStatus`.
fn never_rolled_out(deployment: &Value) -> bool {
    let conditions = deployment["status"]["conditions"].as_array();
    let progress = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Progressing");
    progress.is_some_and(|condition| condition["reason"] != "NewReplicaSetAvailable")
}

fn image(deployment: &Value) -> &str {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

impl Stages {
    /// Says how a component stands, with who waits for it, or that it waits.
    #[must_use]
    pub fn told(&self, component: &str, mut finding: Finding) -> Finding {
        let Some(goes) = &self.goes else {
            return finding;
        };
        if goes == component && !self.wait.is_empty() && !finding.ok {
            let wait: Vec<_> = self.wait.keys().map(String::as_str).collect();
            finding.message = format!(
                "{}; until it is ready the new image of {} waits",
                finding.message,
                wait.join(", ")
            );
        } else if let Some(image) = self.wait.get(component) {
            finding.message = format!(
                "{}; it goes on with the image {image} until {goes} is ready",
                finding.message
            );
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        build::objects,
        status::reasons,
        validate::tests::{validated, whole},
    };

    fn pipeline(tag: &str) -> ValidatedPipeline {
        let mut spec = whole();
        spec["image"] = json!({"tag": tag});
        validated(spec)
    }

    /// As the API server says who owns what; lists are owned as a whole here.
    fn owned(value: &Value) -> Value {
        let fields = value.as_object().into_iter().flatten();
        Value::Object(
            fields
                .map(|(name, value)| (format!("f:{name}"), owned(value)))
                .collect(),
        )
    }

    /// What was applied by tag: complete, unless named in `rolling`.
    fn live(tags: &[(&str, &str)], rolling: &str) -> Live {
        Live::of(tags.iter().filter_map(|(component, tag)| {
            let pipeline = pipeline(tag);
            let name = pipeline.child(component);
            let built = objects(&pipeline).into_iter().find(|o| o.resource.kind == "Deployment" && o.name == name);
            built.map(|object| {
                let mut body = object.body;
                let fields = owned(&body);
                let (wanted, ready) = (body["spec"]["replicas"].clone(), component != &rolling);
                body["metadata"]["managedFields"] = json!([{"manager": MANAGER, "operation": "Apply", "fieldsV1": fields}]);
                body["status"] = json!({"replicas": wanted, "updatedReplicas": wanted, "availableReplicas": if ready { wanted } else { json!(0) }});
                body["spec"]["template"]["spec"]["schedulerName"] = json!("set by the API server");
                (object.resource.kind, body)
            })
        }))
    }

    /// Each component's tag after a pass that wants `2`.
    fn after(live: &Live) -> (Stages, Vec<(String, String)>) {
        let pipeline = pipeline("2");
        let mut objects = objects(&pipeline);
        let stages = stage(&pipeline, &mut objects, live);
        let tags = order(&pipeline).into_iter().map(|component| {
            let name = pipeline.child(&component);
            let found = objects
                .iter()
                .find(|o| o.resource.kind == "Deployment" && o.name == name)
                .unwrap();
            (
                component,
                image(&found.body).rsplit(':').next().unwrap().to_owned(),
            )
        });
        (stages, tags.collect())
    }

    const ALL: [&str; 4] = ["stream-live", "archive", "ingest", "emulator"];

    /// The tags of all components and which of them is not ready → their tags after a pass.
    #[test]
    fn one_component_goes_at_a_time_readers_first() {
        for (case, before, rolling, expected) in [
            (
                "begins with a reader",
                ["1", "1", "1", "1"],
                "",
                ["2", "1", "1", "1"],
            ),
            (
                "waits for it",
                ["2", "1", "1", "1"],
                "stream-live",
                ["2", "1", "1", "1"],
            ),
            ("goes on", ["2", "1", "1", "1"], "", ["2", "2", "1", "1"]),
            (
                "one after the other",
                ["2", "2", "1", "1"],
                "",
                ["2", "2", "2", "1"],
            ),
            ("ends", ["2", "2", "2", "1"], "", ["2", "2", "2", "2"]),
            (
                "one that is not ready gets its turn",
                ["1", "1", "1", "1"],
                "stream-live",
                ["2", "1", "1", "1"],
            ),
            (
                "one that comes later holds up nobody",
                ["1", "1", "1", "1"],
                "emulator",
                ["2", "1", "1", "1"],
            ),
            (
                "is over",
                ["2", "2", "2", "2"],
                "archive",
                ["2", "2", "2", "2"],
            ),
        ] {
            let tags: Vec<_> = ALL.into_iter().zip(before).collect();
            let (_, after) = after(&live(&tags, rolling));
            let after: Vec<_> = after.iter().map(|(_, tag)| tag.as_str()).collect();
            assert_eq!(after, expected, "{case}");
        }
    }

    #[test]
    fn what_never_ran_waits_for_nobody() {
        let (stages, tags) = after(&Live::default());
        assert_eq!(stages, Stages::default());
        assert!(tags.iter().all(|(_, tag)| tag == "2"));
        let (_, tags) = after(&live(&[("stream-live", "1"), ("ingest", "1")], ""));
        let tags: Vec<_> = tags.iter().map(|(_, tag)| tag.as_str()).collect();
        assert_eq!(tags, ["2", "2", "1", "2"], "archive and emulator are added");

        // The pipeline's first image was no good, as far as ingest is concerned.
        let ran = live(&ALL.map(|component| (component, "1")), "");
        let never = ran.objects().map(|object| {
            let reason = if object["metadata"]["name"] == "pinterest-ingest" {
                "ReplicaSetUpdated"
            } else {
                "NewReplicaSetAvailable"
            };
            let mut object = object.clone();
            object["status"]["conditions"] =
                json!([{"type": "Progressing", "status": "True", "reason": reason}]);
            ("Deployment".to_owned(), object)
        });
        let (_, tags) = after(&Live::of(never));
        let tags: Vec<_> = tags.iter().map(|(_, tag)| tag.as_str()).collect();
        assert_eq!(tags, ["2", "1", "2", "1"]);
    }

    #[test]
    fn a_component_that_waits_keeps_its_pods_and_nothing_else() {
        let before = live(&ALL.map(|component| (component, "1")), "");
        let mut pipeline = pipeline("2");
        pipeline.ingest.max_record_bytes = 1000;
        let mut objects = objects(&pipeline);
        let wished = objects.clone();
        stage(&pipeline, &mut objects, &before);
        let ingest = |objects: &[Object]| {
            objects
                .iter()
                .find(|o| o.resource.kind == "Deployment" && o.name == "pinterest-ingest")
                .unwrap()
                .body
                .clone()
        };
        let (kept, wished) = (ingest(&objects), ingest(&wished));
        let found = before.get("Deployment", "pinterest-ingest").unwrap();
        assert!(crate::apply::subset::holds(found, &kept), "no write is due");
        assert!(
            kept["spec"]["template"]["spec"]["schedulerName"].is_null(),
            "nothing is taken over from others"
        );
        assert_ne!(kept["spec"]["template"], wished["spec"]["template"]);
        assert_eq!(kept["spec"]["strategy"], wished["spec"]["strategy"]);
        let configs = objects
            .iter()
            .filter(|o| o.resource.kind == "ConfigMap" && o.name.starts_with("pinterest-ingest-"));
        assert_eq!(configs.count(), 0, "nobody is to be started with it yet");
        let cron_job = objects
            .iter()
            .find(|object| object.resource.kind == "CronJob")
            .unwrap();
        let image = &cron_job.body["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
            [0]["image"];
        assert!(
            image.as_str().unwrap().ends_with(":2"),
            "runs to come are the first readers"
        );
    }

    #[test]
    fn a_pipeline_that_is_suspended_is_not_held_up() {
        let before = live(&ALL.map(|component| (component, "1")), "");
        let mut pipeline = pipeline("2");
        pipeline.suspend = true;
        let mut objects = objects(&pipeline);
        let wished = objects.clone();
        assert_eq!(stage(&pipeline, &mut objects, &before), Stages::default());
        assert_eq!(objects, wished);
    }

    #[test]
    fn who_waits_and_for_whom_is_told() {
        let (stages, _) = after(&live(
            &[("stream-live", "2"), ("archive", "1"), ("ingest", "1")],
            "stream-live",
        ));
        let stuck = stages.told(
            "stream-live",
            Finding::bad(reasons::IMAGE_NOT_PULLABLE, "no image"),
        );
        assert_eq!(
            stuck.message,
            "no image; until it is ready the new image of archive, ingest waits"
        );
        let waits = stages.told(
            "archive",
            Finding::good(reasons::AVAILABLE, "all pods are ready"),
        );
        assert!(
            waits.ok && waits.message.contains("until stream-live is ready"),
            "{waits:?}"
        );
        assert!(waits.message.contains("/stream:1"), "{waits:?}");
        let (over, _) = after(&live(&ALL.map(|component| (component, "2")), "archive"));
        let finding = Finding::bad(reasons::PROGRESSING, "0 of 1");
        assert_eq!(
            over.told("archive", finding.clone()),
            finding,
            "nobody waits"
        );
    }
}
