//! Rollout of a new image, one component at a time.
//!
//! Readers go before writers, so that no worker meets records or objects of a later version than
//! its own: batch runs, stream sinks, the archive, ingest, the emulator. A component gets its new
//! image once those before it run theirs and are ready. A component that waits keeps its whole pod
//! template, so that it isn't rolled twice; its other fields, such as the number of pods, follow
//! the resource. A rollout that is stuck therefore stops there. Nothing waits in a suspended
//! pipeline, nor does a component whose pods have never all been ready.
//!
//! An upgrade of the operator is a new image for every pipeline without a tag of its own. The
//! operator bounds how many of them roll at once; the components of the others keep their images.
//!
//! A component whose way to the brokers has changed keeps its whole pod template, too, until the
//! operator has reached the brokers in the new way: a mistake stops no worker that works.
//!
//! Images are compared with what the operator last applied, not with the live object: an admission
//! webhook may rewrite images.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::{Observed, RunningDeployment, pod};
use crate::{component::Component, model::ValidatedPipeline, names::KAFKA_ANNOTATION};

/// Progress of a new image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Component that is getting its new image.
    pub current: Option<Component>,
    /// Components that wait for it, each with the image it keeps until then. Without a current one
    /// they wait for other pipelines.
    pub waiting: BTreeMap<Component, String>,
    /// Components that reach the brokers as before until the operator has reached them in the new
    /// way.
    pub unreached: BTreeSet<Component>,
}

/// How far a pipeline is with the images it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Every component has its image, or none can roll.
    Done,
    /// No component has its image.
    Before,
    /// Some components have their images.
    Between,
}

/// Stage of a pipeline's rollout.
#[must_use]
pub fn stage(pipeline: &ValidatedPipeline, observed: &Observed) -> Stage {
    if pipeline.suspend {
        return Stage::Done;
    }
    let (mut has_old, mut has_new) = (false, false);
    for component in pipeline.deployments() {
        if let Some(running) = observed.deployments.get(&component) {
            match running_image(pipeline, &component, running) {
                Running::Old(_) => has_old |= running.rolled_out,
                Running::Unknown => {}
                Running::Wanted => has_new = true,
            }
        }
    }
    match (has_old, has_new) {
        (false, _) => Stage::Done,
        (true, false) => Stage::Before,
        (true, true) => Stage::Between,
    }
}

impl Rollout {
    /// Pod template of a component that waits, or that reaches the brokers as before.
    pub(super) fn kept_template(
        &self,
        component: &Component,
        observed: &Observed,
    ) -> Option<PodTemplateSpec> {
        if !self.waiting.contains_key(component) && !self.unreached.contains(component) {
            return None;
        }
        observed.deployments.get(component)?.template.clone()
    }
}

/// Decides which component gets its new image next.
pub(super) fn decide(pipeline: &ValidatedPipeline, observed: &Observed) -> Rollout {
    let mut rollout = Rollout {
        unreached: unreached(pipeline, observed),
        ..Rollout::default()
    };
    if pipeline.suspend {
        return rollout;
    }
    for component in pipeline.deployments() {
        let Some(running) = observed.deployments.get(&component) else {
            continue;
        };
        if rollout.unreached.contains(&component) {
            continue;
        }
        let image = running_image(pipeline, &component, running);
        if rollout.current.is_none() && !observed.keeps_images {
            if !matches!(image, Running::Wanted) || !running.ready {
                rollout.current = Some(component);
            }
        } else if let Running::Old(image) = image
            && running.rolled_out
        {
            rollout.waiting.insert(component, image.clone());
        }
    }
    rollout
}

/// Components that run, and reach other brokers than those of the resource, or in another way,
/// while it isn't known whether that works.
fn unreached(pipeline: &ValidatedPipeline, observed: &Observed) -> BTreeSet<Component> {
    if !observed.unreached_brokers {
        return BTreeSet::new();
    }
    let wanted = pod::kafka_hash(pipeline);
    let running = observed.deployments.iter().filter(|(component, running)| {
        let metadata = running
            .template
            .as_ref()
            .and_then(|it| it.metadata.as_ref());
        let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
        let hash = annotations.and_then(|annotations| annotations.get(KAFKA_ANNOTATION));
        component.runs_on_kafka() && hash.is_some_and(|hash| *hash != wanted)
    });
    running.map(|(component, _)| component.clone()).collect()
}

/// Image a component runs, compared with the one it wants.
enum Running<'a> {
    Wanted,
    Old(&'a String),
    /// It can't be told.
    Unknown,
}

fn running_image<'a>(
    pipeline: &ValidatedPipeline,
    component: &Component,
    running: &'a RunningDeployment,
) -> Running<'a> {
    match running.template.as_ref().and_then(image_of) {
        Some(image) if *image == pod::image(&pipeline.image, worker(component)) => Running::Wanted,
        Some(image) => Running::Old(image),
        None => Running::Unknown,
    }
}

fn image_of(template: &PodTemplateSpec) -> Option<&String> {
    template.spec.as_ref()?.containers.first()?.image.as_ref()
}

/// Name of a component's image.
fn worker(component: &Component) -> &'static str {
    match component {
        Component::Archive | Component::Stream(_) => "stream",
        Component::Batch => "batch",
        Component::Emulator => "emulator",
        Component::Ingest => "ingest",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        build::{Object, build},
        samples::{validated, whole},
    };

    fn pipeline(tag: &str) -> ValidatedPipeline {
        let mut spec = whole();
        spec["image"] = json!({"tag": tag});
        validated(spec)
    }

    fn deployment<'a>(objects: &'a [Object], name: &str) -> Option<&'a Value> {
        let mut objects = objects.iter();
        objects
            .find(|object| object.resource.kind == "Deployment" && object.name == name)
            .map(|object| &object.body)
    }

    /// Deployments that were applied with these tags, all ready but the one in `rolling`.
    fn observed(tags: &[(Component, &str)], rolling: Option<&Component>) -> Observed {
        let deployments = tags.iter().map(|(component, tag)| {
            let pipeline = pipeline(tag);
            let objects = build(&pipeline, &Observed::default()).objects;
            let body = deployment(&objects, &pipeline.child(component)).unwrap();
            let template = serde_json::from_value(body["spec"]["template"].clone()).unwrap();
            let running = RunningDeployment {
                template: Some(template),
                ready: rolling != Some(component),
                rolled_out: true,
            };
            (component.clone(), running)
        });
        Observed {
            deployments: deployments.collect(),
            ..Observed::default()
        }
    }

    /// The rollout, and each component's tag, after a reconcile that wants tag `2`.
    fn after(observed: &Observed) -> (Rollout, Vec<String>) {
        let pipeline = pipeline("2");
        let desired = build(&pipeline, observed);
        let tags = all().into_iter().map(|component| {
            let body = deployment(&desired.objects, &pipeline.child(&component)).unwrap();
            let image = &body["spec"]["template"]["spec"]["containers"][0]["image"];
            image
                .as_str()
                .unwrap()
                .rsplit(':')
                .next()
                .unwrap()
                .to_owned()
        });
        (desired.rollout, tags.collect())
    }

    fn all() -> [Component; 4] {
        [
            Component::stream("live"),
            Component::Archive,
            Component::Ingest,
            Component::Emulator,
        ]
    }

    fn at(tags: [&str; 4], rolling: Option<&Component>) -> Observed {
        observed(&all().into_iter().zip(tags).collect::<Vec<_>>(), rolling)
    }

    /// Tags before and the component that is not ready → tags after.
    #[test]
    fn one_component_is_rolled_at_a_time_readers_first() {
        let live = Component::stream("live");
        for (case, before, rolling, expected) in [
            (
                "begins with a reader",
                ["1", "1", "1", "1"],
                None,
                ["2", "1", "1", "1"],
            ),
            (
                "waits for it",
                ["2", "1", "1", "1"],
                Some(&live),
                ["2", "1", "1", "1"],
            ),
            ("goes on", ["2", "1", "1", "1"], None, ["2", "2", "1", "1"]),
            (
                "one after the other",
                ["2", "2", "1", "1"],
                None,
                ["2", "2", "2", "1"],
            ),
            ("ends", ["2", "2", "2", "1"], None, ["2", "2", "2", "2"]),
            (
                "rolls one that isn't ready",
                ["1", "1", "1", "1"],
                Some(&live),
                ["2", "1", "1", "1"],
            ),
            (
                "a later one holds up nothing",
                ["1", "1", "1", "1"],
                Some(&Component::Emulator),
                ["2", "1", "1", "1"],
            ),
            (
                "is over",
                ["2", "2", "2", "2"],
                Some(&Component::Archive),
                ["2", "2", "2", "2"],
            ),
        ] {
            assert_eq!(after(&at(before, rolling)).1, expected, "{case}");
        }
    }

    #[test]
    fn a_pipeline_that_keeps_its_images_rolls_nothing() {
        let mut held = at(["1", "1", "1", "1"], None);
        held.keeps_images = true;
        let (rollout, tags) = after(&held);
        assert_eq!(tags, ["1", "1", "1", "1"]);
        assert_eq!((rollout.current, rollout.waiting.len()), (None, 4));
        let mut done = at(["2", "2", "2", "2"], Some(&Component::Ingest));
        done.keeps_images = true;
        assert_eq!(after(&done), (Rollout::default(), vec!["2".to_owned(); 4]));
    }

    #[test]
    fn the_stage_is_that_of_images_alone() {
        let live = Component::stream("live");
        for (tags, rolling, expected) in [
            (["1", "1", "1", "1"], None, Stage::Before),
            (["2", "1", "1", "1"], Some(&live), Stage::Between),
            (["2", "2", "2", "2"], Some(&live), Stage::Done),
        ] {
            assert_eq!(
                stage(&pipeline("2"), &at(tags, rolling)),
                expected,
                "{tags:?}"
            );
        }
        let mut suspended = pipeline("2");
        suspended.suspend = true;
        let before = at(["1", "1", "1", "1"], None);
        assert_eq!(stage(&suspended, &before), Stage::Done);
        assert_eq!(stage(&pipeline("2"), &Observed::default()), Stage::Done);
    }

    #[test]
    fn a_component_that_never_ran_waits_for_nothing() {
        let (rollout, tags) = after(&Observed::default());
        assert_eq!(rollout, Rollout::default());
        assert_eq!(tags, ["2", "2", "2", "2"]);
        let two = [(Component::stream("live"), "1"), (Component::Ingest, "1")];
        assert_eq!(after(&observed(&two, None)).1, ["2", "2", "1", "2"]);

        let mut never = at(["1", "1", "1", "1"], None);
        never
            .deployments
            .get_mut(&Component::Ingest)
            .unwrap()
            .rolled_out = false;
        assert_eq!(
            after(&never).1,
            ["2", "1", "2", "1"],
            "its first image was no good"
        );
    }

    #[test]
    fn a_component_that_waits_keeps_its_pod_template_and_nothing_else() {
        let before = at(["1", "1", "1", "1"], None);
        let mut pipeline = pipeline("2");
        pipeline.max_record_bytes = 1000;
        pipeline.ingest.as_mut().unwrap().replicas = crate::model::Replicas::Fixed(7);
        let objects = build(&pipeline, &before).objects;
        let kept = deployment(&objects, "pinterest-ingest").unwrap();
        let template = before.deployments[&Component::Ingest].template.as_ref();
        assert_eq!(kept["spec"]["template"], json!(template));
        assert_eq!(kept["spec"]["replicas"], 7);
        let configs = objects.iter().filter(|object| {
            object.resource.kind == "ConfigMap" && object.name.starts_with("pinterest-ingest-")
        });
        assert_eq!(
            configs.count(),
            0,
            "no pod may start with the new configuration yet"
        );
        let cron_job = objects
            .iter()
            .find(|object| object.resource.kind == "CronJob")
            .unwrap();
        let template = &cron_job.body["spec"]["jobTemplate"]["spec"]["template"];
        let image = template["spec"]["containers"][0]["image"].as_str().unwrap();
        assert!(
            image.ends_with(":2"),
            "future batch runs are the first readers"
        );
    }

    #[test]
    fn a_component_keeps_to_its_brokers_until_the_new_ones_are_reached() {
        let mut observed = at(["1", "1", "1", "1"], None);
        let mut moved = pipeline("1");
        moved.kafka.bootstrap_servers = "elsewhere:9092".to_owned();
        let template = |component: &Component, observed: &Observed| {
            let objects = build(&moved, observed).objects;
            deployment(&objects, &moved.child(component)).unwrap()["spec"]["template"].clone()
        };
        for component in all() {
            let before = json!(observed.deployments[&component].template);
            observed.unreached_brokers = true;
            let rollout = build(&moved, &observed).rollout;
            let keeps = component.runs_on_kafka();
            assert_eq!(rollout.unreached.contains(&component), keeps, "{component}");
            let after = template(&component, &observed);
            assert_eq!(after, before, "{component}");
            let same = build(&pipeline("1"), &observed).rollout;
            assert_eq!(same.unreached, BTreeSet::new());
            observed.unreached_brokers = false;
            let after = template(&component, &observed);
            assert_eq!(after == before, !keeps, "{component}");
        }
    }

    #[test]
    fn a_suspended_pipeline_waits_for_nothing() {
        let mut pipeline = pipeline("2");
        pipeline.suspend = true;
        let suspended = build(&pipeline, &at(["1", "1", "1", "1"], None));
        assert_eq!(suspended, build(&pipeline, &Observed::default()));
    }

    #[test]
    fn the_rollout_names_the_component_that_is_rolled_and_those_that_wait() {
        let live = Component::stream("live");
        let tags = [
            (live.clone(), "2"),
            (Component::Archive, "1"),
            (Component::Ingest, "1"),
        ];
        let (rollout, _) = after(&observed(&tags, Some(&live)));
        assert_eq!(rollout.current, Some(live));
        let waiting: Vec<_> = rollout.waiting.keys().collect();
        assert_eq!(waiting, [&Component::Archive, &Component::Ingest]);
        assert!(rollout.waiting[&Component::Archive].ends_with("/stream:1"));
    }
}
