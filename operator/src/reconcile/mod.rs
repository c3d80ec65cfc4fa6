//! One pass over one pipeline: the four phases in order.

mod components;
pub mod deletion;
mod drain;
mod paused;
mod resets;
mod runs;
mod thresholds;
mod topics;

pub(crate) use components::{replicas, typed};

use std::{collections::BTreeSet, pin::pin, time::Duration};

use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use pinpipe_crds::{IngestStatus, PinterestPipeline, PinterestPipelineStatus, condition_types};
use pinpipe_lease::LeaseError;
use serde_json::json;
use tokio::sync::SemaphorePermit;

use crate::{
    MANAGER,
    apply::Applier,
    build,
    claims::Claim,
    context::Context,
    dereference::{self, Dereferenced},
    said,
    status::{self, Finding, SUMMARY, reasons},
    upgrade, validate,
};
use components::Seen;
use runs::Words;

/// How long workers wait for their topics.
const TOPICS_FIRST: Duration = Duration::from_secs(2);

/// Why a pass was broken off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or can't be reached.
    #[error("{action}: {source}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The pass took too long.
    #[error("the pass took longer than {0:?}")]
    Timeout(Duration),
    /// Another operator may be at work.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl Error {
    /// For the metric: `api`, `timeout` or `lease`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Timeout(_) => "timeout",
            Self::Lease(_) => "lease",
        }
    }
}

/// Says what was tried when the API server failed.
trait Trying<T> {
    fn trying(self, action: &'static str) -> Result<T, Error>;
}

impl<T> Trying<T> for kube::Result<T> {
    fn trying(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Api {
            action,
            source: Box::new(source),
        })
    }
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// The pipeline is ready.
    Ready,
    /// It isn't, and the status says why.
    NotReady,
    /// It isn't, and what it waits for comes within seconds.
    Soon,
    /// Its spec can't be done; nothing was touched.
    Invalid,
    /// It is paused; nothing was touched.
    Paused,
    /// There is nothing to be done: it is gone, or going.
    Gone,
}

/// A pipeline under way.
struct Pass<'a> {
    context: &'a Context,
    api: Api<PinterestPipeline>,
    resource: PinterestPipeline,
    namespace: String,
    name: String,
    uid: String,
}

/// Brings one pipeline to what its resource says. Meanwhile it has a `turn`, which it gives to
/// others while a broker takes its time.
pub async fn run(
    context: &Context,
    namespace: &str,
    name: &str,
    turn: SemaphorePermit<'_>,
) -> Result<Passed, Error> {
    let api: Api<PinterestPipeline> = Api::namespaced(context.client.clone(), namespace);
    // Read anew: what the watch has may be older than our last write of the status, and conditions
    // are made from those before.
    let Some(resource) = api.get_opt(name).await.trying("reading the pipeline")? else {
        return Ok(Passed::Gone);
    };
    let uid = resource.metadata.uid.clone().unwrap_or_default();
    let pass = Pass {
        context,
        api,
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid,
    };
    if pass.resource.metadata.deletion_timestamp.is_some() {
        return pass.delete().await;
    }
    if pass.is_paused() {
        return pass.pause().await;
    }
    Box::pin(pass.run(turn)).await
}

impl Pass<'_> {
    async fn run(mut self, turn: SemaphorePermit<'_>) -> Result<Passed, Error> {
        self.first_look().await?;
        let (context, applier) = (self.context, self.applier());
        let mut live = applier.live().await.trying("listing children")?;
        let secrets =
            dereference::secrets(&self.context.client, &self.namespace, &self.resource.spec).await;
        let found = Dereferenced {
            secrets: secrets.trying("reading Secrets")?,
            previous: dereference::previous(live.objects()),
            claims: self.claims_of_others().await?,
        };
        let mut pipeline =
            match validate::validate(&self.resource, &found, &self.context.settings.images) {
                Ok(pipeline) => pipeline,
                Err(problems) => {
                    let message = problems
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("; ");
                    let finding = Finding::bad(
                        reasons::INVALID_SPEC,
                        format!("{message}; nothing was changed"),
                    );
                    self.write_ready(finding).await?;
                    return Ok(Passed::Invalid);
                }
            };

        if let Some(conflict) = &pipeline.topic_conflict {
            // Whatever of ours runs would read and write what is another's: batch runs under way,
            // too.
            context.may_write()?;
            applier
                .prune(&[], &BTreeSet::new(), &mut live)
                .await
                .trying("deleting children")?;
            self.write_conflict(conflict).await?;
            return Ok(Passed::NotReady);
        }

        self.keep_finalizer(pipeline.deletion_policy).await?;
        let drain = self.drain(&pipeline, &live).await?;
        if let Some(finding) = drain.finding.as_ref().filter(|_| drain.tell_first) {
            self.tell_first(finding).await?;
        }
        pipeline.draining = drain.components;
        pipeline.at_zero = components::at_zero(&pipeline, &live);
        let mut objects = build::objects(&pipeline);
        let stages = upgrade::stage(&pipeline, &mut objects, &live);
        let resets = resets::new(&pipeline, &objects, &live);
        let needed = self.needed_by_runs(&pipeline, &live).await?;
        // Topics come before the workers that use them, so that no broker makes them up with
        // settings of its own; but a broker that is away must not keep workers from being looked
        // after.
        let (topics, obstacles) = {
            let mut topics = pin!(self.topics(&pipeline));
            let early = tokio::time::timeout(TOPICS_FIRST, &mut topics).await;
            context.may_write()?;
            let obstacles = applier
                .write(&objects, &mut live)
                .await
                .trying("writing children")?;
            context.may_write()?;
            applier
                .prune(&objects, &needed, &mut live)
                .await
                .trying("deleting children")?;
            let topics = if let Ok(topics) = early {
                topics?
            } else {
                // What is left to be done after that is little.
                drop(turn);
                topics.await?
            };
            (topics, obstacles)
        };

        self.tell_of_resets(&resets, &live).await;

        let requested = self.start_run(&pipeline, &live).await?;
        let (mut batch_status, mut batch) = self.batch(&pipeline, &live).await?;
        match requested {
            // Kept without spec.batch, too, so that no run of long ago starts when that comes back.
            Ok(words) if words != Words::default() => {
                let status = batch_status.get_or_insert_default();
                (status.last_requested, status.requested_before) = (words.last, words.before);
            }
            Ok(_) => {}
            Err(finding) => batch = Some(finding),
        }
        let pods = if pipeline.suspend && pipeline.draining.is_empty() {
            Vec::new()
        } else {
            self.pods().await?
        };
        let said = said::ask(&context.pods, &pods).await;
        let thresholds = self
            .thresholds(&pipeline, &pods, &said, &topics.topics)
            .await;
        let seen = Seen {
            live: &live,
            pods: &pods,
            said: &said,
            stages: &stages,
        };
        let mut findings = self.findings(&pipeline, &seen, topics.finding, batch, drain.finding);
        components::blame(&mut findings, &pipeline, obstacles);
        let conditions = findings.conditions();
        let ready = conditions.first().is_some_and(|(_, finding)| finding.ok);
        let before = self
            .resource
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        self.write_status(conditions, |status| {
            status.conditions.extend(thresholds.clone());
            status.topics = topics.topics;
            status.ingest = Some(IngestStatus {
                url: build::ingest_url(&pipeline),
            });
            status.batch = batch_status;
        })
        .await?;
        self.tell_of_thresholds(&before, &thresholds).await;
        Ok(if ready {
            Passed::Ready
        } else if pipeline.draining.is_empty() {
            Passed::NotReady
        } else {
            Passed::Soon
        })
    }

    /// Says that the pipeline is looked at, before anything else is done: whoever reads objects by
    /// kstatus takes one without a status for one that is as it should be.
    async fn first_look(&mut self) -> Result<(), Error> {
        let mut status = self.resource.status.clone().unwrap_or_default();
        if !status.conditions.is_empty() {
            return Ok(());
        }
        let generation = self.resource.metadata.generation;
        let finding = Finding::bad(
            reasons::PROGRESSING,
            "the operator looks at the pipeline for the first time",
        );
        status.conditions =
            status::conditions(&[], status::summary(finding), generation, Timestamp::now());
        status.observed_generation = generation;
        self.note(status).await
    }

    /// Writes how a suspension ended, before what it is about is stopped.
    async fn tell_first(&mut self, finding: &Finding) -> Result<(), Error> {
        let mut status = self.resource.status.clone().unwrap_or_default();
        let findings = vec![(condition_types::SUSPENDED, finding.clone())];
        let generation = self.resource.metadata.generation;
        let new = status::conditions(&status.conditions, findings, generation, Timestamp::now());
        status
            .conditions
            .retain(|condition| condition.type_ != condition_types::SUSPENDED);
        status.conditions.extend(new);
        self.note(status).await
    }

    fn applier(&self) -> Applier {
        Applier {
            client: self.context.client.clone(),
            metrics: self.context.metrics.clone(),
            namespace: self.namespace.clone(),
            pipeline: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// Writes how the pipeline as a whole stands, where that differs; the other conditions stay.
    async fn write_ready(&self, finding: Finding) -> Result<(), Error> {
        let before = self
            .resource
            .status
            .iter()
            .flat_map(|status| &status.conditions);
        let others = before
            .filter(|condition| !SUMMARY.contains(&condition.type_.as_str()))
            .cloned();
        let others: Vec<_> = others.collect();
        self.write_status(status::summary(finding), |status| {
            status.conditions.extend(others)
        })
        .await
    }

    /// What other pipelines claim.
    async fn claims_of_others(&self) -> Result<Vec<Claim>, Error> {
        let claim = Claim::of(&self.resource);
        let claims = claim
            .without_ghosts(&self.context.client, self.context.watched.meeting(&claim))
            .await;
        claims.trying("reading the pipeline a topic belongs to")
    }

    /// Writes that a topic is an older pipeline's.
    async fn write_conflict(&self, conflict: &str) -> Result<(), Error> {
        let finding = Finding::bad(
            reasons::TOPIC_CONFLICT,
            format!("{conflict}; until then this one has no workers"),
        );
        let mut findings = status::summary(finding.clone());
        findings.push((condition_types::TOPICS_READY, finding));
        self.write_status(findings, |status| status.ingest = None)
            .await
    }

    /// Writes the status where it differs, and tells of it where the pipeline as a whole stands
    /// otherwise than before.
    async fn write_status(
        &self,
        findings: Vec<(&'static str, Finding)>,
        fill: impl FnOnce(&mut PinterestPipelineStatus),
    ) -> Result<(), Error> {
        let before = self.resource.status.clone().unwrap_or_default();
        let generation = self.resource.metadata.generation;
        let mut status = before.clone();
        status.conditions =
            status::conditions(&before.conditions, findings, generation, Timestamp::now());
        status.observed_generation = generation;
        fill(&mut status);
        if status == before {
            return Ok(());
        }
        self.patch_status(&status).await?;
        if let Some(ready) = status::ready_anew(&before.conditions, &status.conditions) {
            let well = ready.status == "True" && ready.reason != reasons::DRAIN_DEADLINE_EXCEEDED;
            let type_ = if well || reasons::PASSING.contains(&ready.reason.as_str()) {
                EventType::Normal
            } else {
                EventType::Warning
            };
            self.event(type_, &ready.reason, "Reconcile", &ready.message, None)
                .await;
        }
        Ok(())
    }

    /// Writes an event.
    async fn event(
        &self,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
        secondary: Option<ObjectReference>,
    ) {
        told(
            self.context,
            &self.resource.object_ref(&()),
            type_,
            reason,
            action,
            note,
            secondary,
        )
        .await;
    }

    /// Writes a status in the middle of the pass, which goes on from there.
    async fn note(&mut self, status: PinterestPipelineStatus) -> Result<(), Error> {
        let written = self.patch_status(&status).await?.metadata;
        // Finalizers are written where nobody else has written since; what the resource asks for is
        // done as it was read.
        let metadata = &mut self.resource.metadata;
        (metadata.resource_version, metadata.finalizers) =
            (written.resource_version, written.finalizers);
        self.resource.status = Some(status);
        Ok(())
    }

    async fn patch_status(
        &self,
        status: &PinterestPipelineStatus,
    ) -> Result<PinterestPipeline, Error> {
        self.context.may_write()?;
        let body = json!({
            "apiVersion": PinterestPipeline::api_version(&()),
            "kind": PinterestPipeline::kind(&()),
            // Of this pipeline alone, not of one that has its name by now.
            "metadata": {"name": self.name, "uid": self.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        let patched = self
            .api
            .patch_status(&self.name, &params, &Patch::Apply(&body))
            .await;
        let written = patched.trying("writing the status")?;
        self.context
            .metrics
            .wrote("apply", "pinterestpipelines/status");
        Ok(written)
    }
}

/// Writes an event. One that can't be written costs nobody their pass.
async fn told(
    context: &Context,
    about: &ObjectReference,
    type_: EventType,
    reason: &str,
    action: &str,
    note: &str,
    secondary: Option<ObjectReference>,
) {
    let note = Some(status::shorten(note));
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note,
        action: action.to_owned(),
        secondary,
    };
    match context.recorder.publish(&event, about).await {
        Ok(()) => context.metrics.wrote("create", "events"),
        Err(error) => tracing::warn!(%error, reason, "an event can't be written"),
    }
}

/// Whether a pod has come to its end by itself.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
