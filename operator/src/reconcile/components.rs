//! The components' part of a pass: how each stands, by its Deployment, its pods, what they say, and
//! batch runs.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use pinpipe_crds::{BatchStatus, condition_types};
use serde::de::DeserializeOwned;

use super::{Error, Pass, Trying as _};
use crate::{
    apply::{Key, Live, Obstacle},
    build, said,
    status::{Finding, Findings, batch, health, reasons},
    upgrade::Stages,
    validate::{RESET_ANNOTATION, RESET_FORMS, Replicas, ValidatedPipeline},
};

/// What a pass saw of the components.
pub(super) struct Seen<'a> {
    pub(super) live: &'a Live,
    pub(super) pods: &'a [Pod],
    /// What workers say is the matter, by component.
    pub(super) said: &'a BTreeMap<String, Finding>,
    pub(super) stages: &'a Stages,
}

impl Pass<'_> {
    /// How each component stands.
    pub(super) fn findings(
        &self,
        pipeline: &ValidatedPipeline,
        seen: &Seen<'_>,
        topics: Finding,
        batch: Option<Finding>,
        suspension: Option<Finding>,
    ) -> Findings {
        let component = |name: &str| {
            let pods: Vec<&Pod> = seen
                .pods
                .iter()
                .filter(|pod| said::component(pod) == Some(name))
                .collect();
            let finding = self.component(pipeline, seen.live, name, &pods, seen.said.get(name));
            seen.stages.told(name, finding)
        };
        let sinks = pipeline.sinks.iter().map(|sink| {
            let mut finding = component(&format!("stream-{}", sink.name));
            finding.message = format!("sink {}: {}", sink.name, finding.message);
            finding
        });
        let stream = match Finding::worst(sinks.collect()) {
            Some(finding) if finding.ok && !pipeline.suspend => {
                let notes = pipeline.sinks.iter().flat_map(|sink| {
                    let held_back = sink
                        .held_back
                        .as_ref()
                        .map(|words| format!("; sink {} has {words}", sink.name));
                    let unscaled =
                        unscaled(seen.live, &pipeline.child(&format!("stream-{}", sink.name)));
                    held_back
                        .into_iter()
                        .chain(unscaled.map(|words| format!("; sink {}: {words}", sink.name)))
                });
                let message = format!(
                    "all pods of all sinks are ready{}",
                    notes.collect::<String>()
                );
                Some(Finding::good(reasons::AVAILABLE, message))
            }
            other => other,
        };
        let mut ingest = component("ingest");
        if let Some(words) = unscaled(seen.live, &pipeline.child("ingest"))
            .filter(|_| ingest.ok && !pipeline.suspend)
        {
            ingest.message = format!("{}; {words}", ingest.message);
        }
        Findings {
            suspension,
            requests: requests(pipeline),
            topics,
            ingest,
            stream,
            archive: pipeline.archive.is_some().then(|| component("archive")),
            batch,
            emulator: pipeline.emulator.is_some().then(|| component("emulator")),
        }
    }

    /// Every pod of the pipeline, batch runs' among them.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>, Error> {
        let params = ListParams::default().labels(&build::selector(&self.name, None));
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        Ok(api.list(&params).await.trying("listing pods")?.items)
    }

    fn component(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
        component: &str,
        pods: &[&Pod],
        said: Option<&Finding>,
    ) -> Finding {
        let name = pipeline.child(component);
        let secrets = build::secrets(pipeline)
            .find(|(child, _)| *child == name)
            .map(|(_, secrets)| secrets);
        if let Some(missing) = secrets.and_then(|secrets| secrets.missing.first()) {
            return Finding::bad(
                reasons::SECRET_MISSING,
                format!("{missing} (namespace {})", self.namespace),
            );
        }
        let Some(deployment) = typed::<Deployment>(live, "Deployment", &name) else {
            return Finding::bad(
                reasons::PROGRESSING,
                format!("Deployment {name} is about to be created"),
            );
        };
        let runs = pipeline.runs(component);
        let least = replicas(pipeline, component).and_then(Replicas::least);
        let finding = health::finding(
            &health::rollout(&deployment, least),
            pods,
            said,
            !runs,
            &self.place(component),
        );
        if finding.ok && runs && pipeline.suspend {
            return Finding::good(
                reasons::DRAINING,
                "the topics are read to their ends, since spec.suspend is set",
            );
        }
        finding
    }

    /// Where `kubectl` finds a component's pods.
    fn place(&self, component: &str) -> String {
        let Self {
            namespace, name, ..
        } = self;
        format!(
            "-n {namespace} -l app.kubernetes.io/instance={name},app.kubernetes.io/component={component}"
        )
    }

    /// How batch runs stand. The pods of a run are asked once, when it has ended.
    pub(super) async fn batch(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
    ) -> Result<(Option<BatchStatus>, Option<Finding>), Error> {
        let Some(wanted) = &pipeline.batch else {
            return Ok((None, None));
        };
        let client = &self.context.client;
        let params = ListParams::default().labels(&build::runs_selector(&self.name));
        let jobs: Api<Job> = Api::namespaced(client.clone(), &self.namespace);
        let jobs = jobs.list(&params).await.trying("listing Jobs")?.items;

        let status = self.resource.status.as_ref();
        let before = status.and_then(|status| status.batch.as_ref());
        let known = before.and_then(|batch| batch.last_run.as_ref());
        let old_message = status
            .and_then(|status| {
                status
                    .conditions
                    .iter()
                    .find(|c| c.type_ == condition_types::BATCH_READY)
            })
            .filter(|condition| condition.reason == reasons::RUN_FAILED)
            .map(|condition| condition.message.clone());
        let ended =
            batch::last_ended(&jobs).filter(|(name, _)| known.is_none_or(|run| run.name != *name));
        let (last_run, said) = match ended {
            Some((job, outcome)) => {
                let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
                let params =
                    ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
                let pods = pods
                    .list(&params)
                    .await
                    .trying("listing a run's pods")?
                    .items;
                let (run, said) =
                    batch::last_run(job, outcome, batch::termination_message(&pods).as_deref());
                (Some(run), said)
            }
            None => (None, None),
        };
        let new = last_run.is_some();
        let cron_job = typed::<CronJob>(live, "CronJob", &pipeline.child("batch"));
        let status = batch::status(cron_job.as_ref(), before, last_run);
        let mut finding = if let Some(missing) = wanted.secrets.missing.first() {
            Finding::bad(
                reasons::SECRET_MISSING,
                format!("{missing} (namespace {})", self.namespace),
            )
        } else {
            let place = format!("-n {}", self.namespace);
            batch::finding(
                pipeline.suspend,
                status.last_run.as_ref(),
                said.as_deref(),
                &place,
            )
        };
        if let Some(message) = old_message.filter(|_| !new && finding.reason == reasons::RUN_FAILED)
        {
            // What the run said was read once and stands in the condition.
            finding.message = message;
        }
        Ok((Some(status), Some(finding)))
    }
}

/// What annotations ask for that can't be done.
fn requests(pipeline: &ValidatedPipeline) -> Option<Finding> {
    let resets = (!pipeline.reset_problems.is_empty()).then(|| {
        let problems = pipeline.reset_problems.join("; ");
        (
            reasons::INVALID_RESET,
            format!("{RESET_ANNOTATION}: {problems}; a request is {RESET_FORMS}"),
        )
    });
    let problems: Vec<_> = resets.iter().chain(&pipeline.requests.problems).collect();
    let (reason, _) = problems.first()?;
    let messages: Vec<_> = problems
        .iter()
        .map(|(_, message)| message.as_str())
        .collect();
    Some(Finding::bad(reason, messages.join("; ")))
}

/// How many pods a component is to have, where there may be several.
pub(crate) fn replicas<'a>(
    pipeline: &'a ValidatedPipeline,
    component: &str,
) -> Option<&'a Replicas> {
    match component.strip_prefix("stream-") {
        Some(name) => pipeline
            .sinks
            .iter()
            .find(|sink| sink.name == name)
            .map(|sink| &sink.replicas),
        None => (component == "ingest").then_some(&pipeline.ingest.replicas),
    }
}

/// The components that may have several pods and whose Deployments have none.
pub(super) fn at_zero(pipeline: &ValidatedPipeline, live: &Live) -> BTreeSet<String> {
    let sinks = pipeline
        .sinks
        .iter()
        .map(|sink| format!("stream-{}", sink.name));
    let components = sinks.chain(["ingest".to_owned()]);
    let has_none = |component: &String| {
        let deployment = live.get("Deployment", &pipeline.child(component));
        deployment.is_some_and(|deployment| deployment["spec"]["replicas"] == 0)
    };
    components.filter(has_none).collect()
}

/// That a component's autoscaler says it can't scale it. None, too, where there is none, or it
/// leaves alone what has no pods.
fn unscaled(live: &Live, child: &str) -> Option<String> {
    let scaler = typed::<HorizontalPodAutoscaler>(live, "HorizontalPodAutoscaler", child)?;
    let active = scaler
        .status?
        .conditions?
        .into_iter()
        .find(|condition| condition.type_ == "ScalingActive")?;
    let reason = active
        .reason
        .filter(|reason| active.status == "False" && reason != "ScalingDisabled")?;
    Some(format!(
        "its HorizontalPodAutoscaler {child} can't scale it ({reason}; kubectl describe hpa {child} says more)"
    ))
}

/// A live child as its type. None, too, where it doesn't fit: then it is looked at again when it
/// changes.
pub(crate) fn typed<K: DeserializeOwned>(live: &Live, kind: &str, name: &str) -> Option<K> {
    serde_json::from_value(live.get(kind, name)?.clone()).ok()
}

/// Puts a child that could not be written down to its component.
pub(super) fn blame(
    findings: &mut Findings,
    pipeline: &ValidatedPipeline,
    obstacles: Vec<(Key, Obstacle)>,
) {
    for ((kind, name), obstacle) in obstacles {
        let finding = match obstacle {
            Obstacle::Foreign => Finding::bad(
                reasons::CHILD_CONFLICT,
                format!(
                    "{kind} {name} is there and not this pipeline's, so it was left alone: delete or rename it"
                ),
            ),
            Obstacle::Refused(why) => Finding::bad(
                reasons::CHILD_REFUSED,
                format!("the API server refuses {kind} {name}: {why}"),
            ),
        };
        let component = name
            .strip_prefix(&pipeline.name)
            .and_then(|rest| rest.strip_prefix('-'))
            .unwrap_or_default();
        match component.split('-').next().unwrap_or_default() {
            "stream" => findings.stream = Some(finding),
            "archive" => findings.archive = Some(finding),
            "batch" => findings.batch = Some(finding),
            "emulator" => findings.emulator = Some(finding),
            _ => findings.ingest = finding,
        }
    }
}
