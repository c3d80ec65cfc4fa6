//! Findings about components: by their Deployments, their pods, and what their workers report.

use std::collections::BTreeMap;

use k8s_openapi::api::{autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod};
use pinpipe_crds::{SinkKind, reasons};
use pinpipe_plan::{
    build::{Observed, Rollout},
    component::Component,
    model::{Replicas, Sink, ValidatedPipeline},
    names::{COMPONENT_LABEL, INSTANCE_LABEL},
};

use super::Reconciler;
use crate::{
    apply::Obstacle,
    finding::Finding,
    observe::{
        children::{Children, Key},
        deployment::progress,
        pods,
    },
    status::{Findings, deployment, sinks::SinkFinding},
};

/// Remark about a component that keeps its pods although `spec.broker` has changed.
const UNREACHED: &str = "it keeps its pods, which reach Kafka as before, until the operator has \
    reached the brokers of spec.broker; see TopicsReady";

/// What is known about the components after applying.
pub(super) struct ComponentView<'a> {
    pub(super) children: &'a Children,
    pub(super) observed: &'a Observed,
    pub(super) rollout: &'a Rollout,
    pub(super) pods: &'a [Pod],
    /// Problems that workers report.
    pub(super) problems: &'a BTreeMap<Component, Finding>,
}

impl Reconciler<'_> {
    /// Findings about all parts of the pipeline.
    pub(super) fn findings(
        &self,
        pipeline: &ValidatedPipeline,
        view: &ComponentView<'_>,
        topics: Finding,
        batch: Option<Finding>,
        suspension: Option<Finding>,
    ) -> Findings {
        let component = |component| self.component(pipeline, view, &component);
        let ingest = pipeline.ingest.as_ref().map(|_| {
            let mut ingest = component(Component::Ingest);
            let note = scaling_problem(view.children, &pipeline.child(&Component::Ingest));
            if let Some(note) = note.filter(|_| ingest.ok && !pipeline.suspend) {
                ingest.message = format!("{}; {note}", ingest.message);
            }
            ingest
        });
        let sinks = self.sinks(pipeline, view);
        Findings {
            suspension,
            annotations: annotations(pipeline),
            topics,
            ingest,
            stream: stream(pipeline, view, &sinks),
            archive: sinks
                .iter()
                .find(|sink| sink.kind == SinkKind::Archive)
                .map(|sink| sink.finding.clone()),
            sinks,
            batch,
            emulator: pipeline
                .emulator
                .is_some()
                .then(|| component(Component::Emulator)),
        }
    }

    /// Findings about each stream sink, in the order of the resource, and then the archive.
    fn sinks(&self, pipeline: &ValidatedPipeline, view: &ComponentView<'_>) -> Vec<SinkFinding> {
        let streams = pipeline.sinks.iter().map(|sink| {
            let notes = sink_notes(pipeline, view, sink);
            (Component::stream(&sink.name), SinkKind::Postgres, notes)
        });
        let archive = pipeline.archive.iter().map(|_| {
            let notes = Vec::new();
            (Component::Archive, SinkKind::Archive, notes)
        });
        let sinks = streams.chain(archive).map(|(component, kind, notes)| {
            let mut finding = self.component(pipeline, view, &component);
            if finding.ok && !pipeline.suspend {
                finding.message = [vec![finding.message], notes].concat().join("; ");
            }
            let deployment = view.children.deployment(pipeline, &component);
            let status = deployment.and_then(|deployment| deployment.status);
            SinkFinding {
                kind,
                finding,
                replicas: view.children.replicas(pipeline, &component).unwrap_or(0),
                ready_replicas: status.and_then(|status| status.ready_replicas).unwrap_or(0),
                component,
            }
        });
        sinks.collect()
    }

    fn component(
        &self,
        pipeline: &ValidatedPipeline,
        view: &ComponentView<'_>,
        component: &Component,
    ) -> Finding {
        let missing = pipeline
            .secrets(component)
            .and_then(|secrets| secrets.missing.first());
        if let Some(missing) = missing {
            let message = format!("{missing} (namespace {})", self.namespace);
            return Finding::bad(reasons::SECRET_MISSING, message);
        }
        let Some(found) = view.children.deployment(pipeline, component) else {
            let name = pipeline.child(component);
            let message = format!("Deployment {name} is about to be created");
            return Finding::bad(reasons::PROGRESSING, message);
        };
        let is_sink = component.sink().is_some();
        if view.observed.unsuitable_topics && is_sink && !pipeline.suspend {
            let message = "no pods, since records of a topic can't be ordered; see TopicsReady";
            return Finding::bad(reasons::TOPIC_UNSUITABLE, message);
        }
        let is_own = |pod: &&Pod| pods::component(pod).as_ref() == Some(component);
        let pods: Vec<&Pod> = view.pods.iter().filter(is_own).collect();
        let is_draining = view.observed.draining.contains(component);
        let is_stopped = pipeline.suspend && !is_draining;
        let least = pipeline.replicas(component).and_then(Replicas::least);
        let finding = deployment::finding(
            &progress(&found, least),
            &pods,
            view.problems.get(component),
            is_stopped,
            &self.place(component),
        );
        if finding.ok && pipeline.suspend && is_draining {
            let message = "it reads its topics to the end because spec.suspend is set";
            return Finding::good(reasons::DRAINING, message);
        }
        with_rollout(view.rollout, component, finding)
    }

    /// Options of kubectl that select a component's pods.
    fn place(&self, component: &Component) -> String {
        let Self {
            namespace, name, ..
        } = self;
        format!("-n {namespace} -l {INSTANCE_LABEL}={name},{COMPONENT_LABEL}={component}")
    }
}

/// Adds to a finding that others wait for the component's image, or that it waits itself, for that
/// or for brokers.
fn with_rollout(rollout: &Rollout, component: &Component, mut finding: Finding) -> Finding {
    if rollout.unreached.contains(component) {
        finding.message = format!("{}; {UNREACHED}", finding.message);
        return finding;
    }
    let Some(current) = &rollout.current else {
        if let Some(image) = rollout.waiting.get(component) {
            finding.message = format!(
                "{}; it keeps the image {image} while other pipelines get theirs",
                finding.message
            );
        }
        return finding;
    };
    if current == component && !rollout.waiting.is_empty() && !finding.ok {
        let waiting: Vec<_> = rollout.waiting.keys().map(ToString::to_string).collect();
        let waiting = waiting.join(", ");
        finding.message = format!(
            "{}; the new image of {waiting} waits until it is ready",
            finding.message
        );
    } else if let Some(image) = rollout.waiting.get(component) {
        finding.message = format!(
            "{}; it keeps the image {image} until {current} is ready",
            finding.message
        );
    }
    finding
}

/// Finding about all stream sinks together. None: there are none.
fn stream(
    pipeline: &ValidatedPipeline,
    view: &ComponentView<'_>,
    sinks: &[SinkFinding],
) -> Option<Finding> {
    let streams = sinks.iter().filter_map(|sink| {
        let Component::Stream(name) = &sink.component else {
            return None;
        };
        let message = format!("sink {name}: {}", sink.finding.message);
        Some(Finding {
            message,
            ..sink.finding.clone()
        })
    });
    let worst = Finding::worst(streams.collect())?;
    if !worst.ok || pipeline.suspend {
        return Some(worst);
    }
    let notes = pipeline.sinks.iter().flat_map(|sink| {
        let is_unreached = view
            .rollout
            .unreached
            .contains(&Component::stream(&sink.name));
        let unreached = is_unreached.then(|| UNREACHED.to_owned());
        let notes = sink_notes(pipeline, view, sink)
            .into_iter()
            .chain(unreached);
        notes.map(|note| format!("; sink {}: {note}", sink.name))
    });
    let message = format!(
        "all pods of all sinks are ready{}",
        notes.collect::<String>()
    );
    Some(Finding::good(reasons::AVAILABLE, message))
}

/// Remarks about the number of a sink's pods, without its name.
fn sink_notes(pipeline: &ValidatedPipeline, view: &ComponentView<'_>, sink: &Sink) -> Vec<String> {
    let child = pipeline.child(&Component::stream(&sink.name));
    let held_back = sink.held_back.as_ref().map(|note| format!("it has {note}"));
    let scaling = scaling_problem(view.children, &child);
    held_back.into_iter().chain(scaling).collect()
}

/// Annotations that do nothing any more.
fn annotations(pipeline: &ValidatedPipeline) -> Option<Finding> {
    let removed = pipeline.removed_annotations.iter();
    let messages: Vec<_> = removed
        .map(|(path, sentence)| format!("{path}: {sentence}"))
        .collect();
    let message = messages.join("; ");
    (!message.is_empty()).then(|| Finding::bad(reasons::ANNOTATION_REMOVED, message))
}

/// Sentence about an autoscaler that reports that it can't scale. None, too, where there is none,
/// or where it ignores a Deployment without pods.
fn scaling_problem(children: &Children, child: &str) -> Option<String> {
    let scaler: HorizontalPodAutoscaler = children.typed("HorizontalPodAutoscaler", child)?;
    let mut conditions = scaler.status?.conditions?.into_iter();
    let active = conditions.find(|condition| condition.type_ == "ScalingActive")?;
    let reason = active.reason.filter(|reason| reason != "ScalingDisabled");
    let reason = reason.filter(|_| active.status == "False")?;
    Some(format!(
        "its HorizontalPodAutoscaler {child} can't scale it ({reason}; see kubectl describe hpa \
         {child})"
    ))
}

/// Attributes children that could not be written to their components.
pub(super) fn attribute(
    findings: &mut Findings,
    pipeline: &ValidatedPipeline,
    obstacles: Vec<(Key, Obstacle)>,
) {
    for (key, obstacle) in obstacles {
        let finding = unwritten(&key, &obstacle);
        let component = component_of(pipeline, &key.1);
        let mut sinks = findings.sinks.iter_mut();
        if let Some(sink) = sinks.find(|sink| sink.component == component) {
            sink.finding = finding.clone();
        }
        match component {
            Component::Stream(_) => findings.stream = Some(finding),
            Component::Archive => findings.archive = Some(finding),
            Component::Batch => findings.batch = Some(finding),
            Component::Emulator => findings.emulator = Some(finding),
            Component::Ingest => findings.ingest = Some(finding),
        }
    }
}

/// Finding about a child that could not be written.
pub(super) fn unwritten((kind, name): &Key, obstacle: &Obstacle) -> Finding {
    match obstacle {
        Obstacle::Foreign => Finding::bad(
            reasons::CHILD_CONFLICT,
            format!(
                "{kind} {name} exists and doesn't belong to this pipeline, so it was left alone: \
                 delete or rename it"
            ),
        ),
        Obstacle::Refused(why) => Finding::bad(
            reasons::CHILD_REFUSED,
            format!("the API server refuses {kind} {name}: {why}"),
        ),
    }
}

/// Component of a child, by its name; a `ConfigMap`'s ends in a hash.
fn component_of(pipeline: &ValidatedPipeline, child: &str) -> Component {
    let components = pipeline.deployments().into_iter().chain([Component::Batch]);
    let matching = components.filter(|component| {
        let rest = child.strip_prefix(&pipeline.child(component));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    // Of stream-a and stream-a-b the longer name is meant.
    matching
        .max_by_key(|component| component.to_string().len())
        .unwrap_or(Component::Ingest)
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::samples::{validated, whole};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rollout_is_part_of_the_messages_of_those_it_concerns() {
        let live = Component::stream("live");
        let waiting = [
            (Component::Archive, "r/stream:1"),
            (Component::Ingest, "r/ingest:1"),
        ];
        let waiting = waiting
            .map(|(component, image)| (component, image.to_owned()))
            .into();
        let rollout = Rollout {
            current: Some(live.clone()),
            waiting,
            ..Rollout::default()
        };
        let stuck = Finding::bad(reasons::IMAGE_NOT_PULLABLE, "no image");
        let stuck = with_rollout(&rollout, &live, stuck);
        assert_eq!(
            stuck.message,
            "no image; the new image of archive, ingest waits until it is ready"
        );
        let good = Finding::good(reasons::AVAILABLE, "all pods are ready");
        let waits = with_rollout(&rollout, &Component::Archive, good.clone());
        assert!(
            waits.ok && waits.message.contains("until stream-live is ready"),
            "{waits:?}"
        );
        assert!(waits.message.contains("r/stream:1"), "{waits:?}");
        let held = Rollout {
            current: None,
            ..rollout
        };
        let held = with_rollout(&held, &Component::Archive, good.clone());
        assert!(
            held.ok && held.message.ends_with("while other pipelines get theirs"),
            "{held:?}"
        );
        let unreached = Rollout {
            unreached: [live.clone()].into(),
            ..Rollout::default()
        };
        let kept = with_rollout(&unreached, &live, good.clone());
        assert!(kept.ok && kept.message.contains("TopicsReady"), "{kept:?}");
        assert_eq!(with_rollout(&Rollout::default(), &live, good.clone()), good);
    }

    #[test]
    fn a_child_belongs_to_the_component_it_is_named_after() {
        let mut spec = whole();
        let url = json!({"name": "w", "key": "u"});
        let sink = |name: &str| json!({"name": name, "postgres": {"urlSecretRef": url}});
        spec["stream"]["sinks"] = json!([sink("a"), sink("a-b")]);
        let pipeline = validated(spec);
        for (child, component) in [
            ("pinterest-ingest", "ingest"),
            ("pinterest-ingest-0123456789", "ingest"),
            ("pinterest-stream-a", "stream-a"),
            ("pinterest-stream-a-b", "stream-a-b"),
            ("pinterest-stream-a-b-0123456789", "stream-a-b"),
            ("pinterest-batch", "batch"),
        ] {
            assert_eq!(
                component_of(&pipeline, child).to_string(),
                component,
                "{child}"
            );
        }
    }
}
