//! Writes the status, and events about what changed in it.

use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::Timestamp,
};
use kube::{
    Resource as _,
    api::{Patch, PatchParams},
    runtime::events::EventType,
};
use pinpipe_crds::{
    IngestStatus, PinterestPipeline, PinterestPipelineStatus, condition_types, reasons,
};
use pinpipe_plan::{
    build::{Observed, Rollout},
    model::ValidatedPipeline,
    names::MANAGER,
    validate::Problem,
};
use serde_json::json;

use super::{
    Applied, Outcome, Reconciler, batch_runs,
    components::{self, ComponentView},
    suspend::Suspension,
};
use crate::{
    error::{Error, Trying as _},
    finding::Finding,
    observe::{children::Children, definition, pods, runs::Run, worker_health},
    status::{self, SUMMARY, events, events::Note},
};

/// Part of the API server's refusal of a field that the definition lacks. Source:
/// sigs.k8s.io/structured-merge-diff, `typed`.
const UNKNOWN_FIELD: &str = "field not declared in schema";

/// What the status is made from, besides what was applied.
pub(super) struct Input<'a> {
    pub(super) pipeline: &'a ValidatedPipeline,
    pub(super) children: &'a Children,
    pub(super) observed: &'a Observed,
    pub(super) rollout: &'a Rollout,
    pub(super) suspension: Option<Finding>,
    pub(super) runs: &'a [Run],
}

impl Reconciler<'_> {
    /// Reports how everything is after a reconcile.
    pub(super) async fn report(
        &self,
        input: Input<'_>,
        applied: Applied,
    ) -> Result<Outcome, Error> {
        let Input {
            pipeline,
            children,
            observed,
            rollout,
            suspension,
            runs,
        } = input;
        let (batch_status, batch, loads) = self.batch(pipeline, children, runs).await?;
        let is_stopped = pipeline.suspend && observed.draining.is_empty();
        let pods = if is_stopped {
            Vec::new()
        } else {
            self.pods().await?
        };
        let answers = worker_health::problems(&self.context.pod_client, &pods);
        let problems = self.permit.released(answers).await;
        let view = ComponentView {
            children,
            observed,
            rollout,
            pods: &pods,
            problems: &problems,
        };
        let mut findings =
            self.findings(pipeline, &view, applied.topics.finding, batch, suspension);
        components::attribute(&mut findings, pipeline, applied.obstacles);
        let known = self.resource.status.iter();
        let known: Vec<_> = known.flat_map(|status| status.sinks.clone()).collect();
        let mut sinks = status::sinks::statuses(&known, &findings.sinks);
        if let Some(batch) = &pipeline.batch {
            let loaded = status::sinks::batch_statuses(&known, &batch.sinks, loads.as_ref());
            sinks.extend(loaded);
        }
        let conditions = findings.conditions();
        let is_ready = conditions.first().is_some_and(|(_, finding)| finding.ok);
        self.write_status(conditions, |status| {
            status.topics = applied.topics.topics;
            status.sinks = sinks;
            status.ingest = pipeline.ingest_url().map(|url| IngestStatus { url });
            status.batch = batch_status.filter(|batch| !batch_runs::is_empty(batch));
        })
        .await?;
        Ok(if is_ready && runs.iter().any(Run::is_active) {
            Outcome::RunActive
        } else if is_ready {
            Outcome::Ready
        } else if observed.draining.is_empty() {
            Outcome::NotReady
        } else {
            Outcome::Waiting
        })
    }

    /// Reports that the pipeline is being reconciled before anything is done. Whoever reads objects
    /// by kstatus takes one without a status for one that is ready.
    pub(super) async fn report_start(&mut self) -> Result<(), Error> {
        let mut status = self.resource.status.clone().unwrap_or_default();
        if !status.conditions.is_empty() {
            return Ok(());
        }
        let generation = self.resource.metadata.generation;
        let finding = Finding::bad(reasons::PROGRESSING, "the first reconcile is under way");
        let summary = status::summary(finding);
        status.conditions = status::conditions(&[], summary, generation, Timestamp::now());
        status.observed_generation = generation;
        self.write_and_continue(status).await
    }

    /// Reports a spec that can't be done.
    pub(super) async fn report_invalid(&self, problems: &[Problem]) -> Result<Outcome, Error> {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let message = format!("{}; nothing was changed", problems.join("; "));
        self.write_ready(Finding::bad(reasons::INVALID_SPEC, message))
            .await?;
        Ok(Outcome::Invalid)
    }

    /// Reports that a topic belongs to another pipeline.
    pub(super) async fn report_conflict(&self, conflict: &str) -> Result<Outcome, Error> {
        let message = format!("{conflict}; until then this one has no workers");
        let finding = Finding::bad(reasons::TOPIC_CONFLICT, message);
        let mut findings = status::summary(finding.clone());
        findings.push((condition_types::TOPICS_READY, finding));
        self.write_status(findings, |status| {
            status.ingest = None;
            status.sinks.clear();
        })
        .await?;
        Ok(Outcome::NotReady)
    }

    /// Reports how a suspension ended before the workers are stopped, if that can't be found out
    /// afterwards.
    pub(super) async fn report_suspension(&mut self, suspension: &Suspension) -> Result<(), Error> {
        let Some(finding) = suspension
            .finding
            .as_ref()
            .filter(|_| suspension.report_first)
        else {
            return Ok(());
        };
        let mut status = self.resource.status.clone().unwrap_or_default();
        let findings = vec![(condition_types::SUSPENDED, finding.clone())];
        let generation = self.resource.metadata.generation;
        let new = status::conditions(&status.conditions, findings, generation, Timestamp::now());
        status
            .conditions
            .retain(|condition| condition.type_ != condition_types::SUSPENDED);
        status.conditions.extend(new);
        self.write_and_continue(status).await
    }

    /// Writes the state of the pipeline as a whole; its other conditions stay.
    pub(super) async fn write_ready(&self, finding: Finding) -> Result<(), Error> {
        let before = self
            .resource
            .status
            .iter()
            .flat_map(|status| &status.conditions);
        let others = before.filter(|condition| !SUMMARY.contains(&condition.type_.as_str()));
        let others: Vec<_> = others.cloned().collect();
        self.write_status(status::summary(finding), |status| {
            status.conditions.extend(others);
        })
        .await
    }

    /// Writes the status if it changes, with an event if `Ready` changes, or `BatchReady`, on which
    /// `Ready` doesn't depend.
    pub(super) async fn write_status(
        &self,
        findings: Vec<(&'static str, Finding)>,
        fill: impl FnOnce(&mut PinterestPipelineStatus),
    ) -> Result<(), Error> {
        let before = self.resource.status.clone().unwrap_or_default();
        let generation = self.resource.metadata.generation;
        let now = Timestamp::now();
        let mut status = PinterestPipelineStatus {
            conditions: status::conditions(&before.conditions, findings, generation, now),
            observed_generation: generation,
            ..before.clone()
        };
        fill(&mut status);
        if status == before {
            return Ok(());
        }
        self.patch_status(&status).await?;
        let (before, now) = (&before.conditions, &status.conditions);
        let changed = [
            status::changed_ready(before, now),
            status::changed_batch(before, now),
        ];
        for condition in changed.into_iter().flatten() {
            let (reason, message) = (&condition.reason, &condition.message);
            self.event(type_of(condition), reason, "Reconcile", message, None)
                .await;
        }
        Ok(())
    }

    /// Writes a status in the middle of a reconcile, which continues from it.
    pub(super) async fn write_and_continue(
        &mut self,
        status: PinterestPipelineStatus,
    ) -> Result<(), Error> {
        let written = self.patch_status(&status).await?.metadata;
        // Finalizers are only written if nobody else wrote the resource meanwhile, so this version
        // is needed. The spec stays as it was read.
        let metadata = &mut self.resource.metadata;
        metadata.resource_version = written.resource_version;
        metadata.finalizers = written.finalizers;
        self.resource.status = Some(status);
        Ok(())
    }

    pub(super) async fn patch_status(
        &self,
        status: &PinterestPipelineStatus,
    ) -> Result<PinterestPipeline, Error> {
        self.context.check_lease()?;
        let body = json!({
            "apiVersion": PinterestPipeline::api_version(&()),
            "kind": PinterestPipeline::kind(&()),
            // The UID keeps it from another pipeline that has the name by now.
            "metadata": {"name": self.name, "uid": self.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        let patched = self
            .api
            .patch_status(&self.name, &params, &Patch::Apply(&body))
            .await;
        if let Err(kube::Error::Api(refusal)) = &patched
            && refusal.message.contains(UNKNOWN_FIELD)
        {
            return Err(Error::OldDefinition {
                message: refusal.message.clone(),
                remedy: definition::remedy(),
            });
        }
        let written = patched.trying("writing the status")?;
        self.context
            .metrics
            .wrote("apply", "pinterestpipelines/status");
        Ok(written)
    }

    /// Publishes an event about the pipeline.
    pub(super) async fn event(
        &self,
        type_: EventType,
        reason: &str,
        action: &str,
        message: &str,
        secondary: Option<ObjectReference>,
    ) {
        let note = Note {
            type_,
            reason,
            action,
            message,
            secondary,
        };
        events::publish(self.context, &self.resource.object_ref(&()), note).await;
    }

    /// The workers' pods.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>, Error> {
        let mut pods = self.labelled_pods().await?;
        pods.retain(|pod| pods::is_worker(pod, &self.name));
        Ok(pods)
    }

    /// Every pod with the pipeline's labels.
    pub(super) async fn labelled_pods(&self) -> Result<Vec<Pod>, Error> {
        let pods = pods::list(&self.context.client, &self.namespace, &self.name).await;
        pods.trying("listing pods")
    }
}

/// Type of the event about a changed condition.
fn type_of(condition: &Condition) -> EventType {
    let is_good =
        condition.status == "True" && condition.reason != reasons::DRAIN_DEADLINE_EXCEEDED;
    if is_good || reasons::PASSING.contains(&condition.reason.as_str()) {
        EventType::Normal
    } else {
        EventType::Warning
    }
}
