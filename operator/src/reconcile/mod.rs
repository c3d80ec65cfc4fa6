//! One reconcile of one pipeline: observe, validate, build, apply, report.

mod batch_runs;
mod components;
mod deletion;
mod pause;
mod report;
mod resets;
mod suspend;
mod thresholds;
mod topics;
mod unreadable;

use std::{collections::BTreeSet, pin::pin, slice, time::Duration};

use kube::Api;
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{
    build::{self, Desired, Observed, Stage},
    component::Component,
    model::ValidatedPipeline,
    names,
    ownership::Claim,
    validate::{Inputs, Problem, validate},
};
use tokio::sync::SemaphorePermit;

use crate::{
    apply::{Applier, Obstacle},
    context::Context,
    error::{Error, Trying as _},
    finding::Finding,
    kafka::TopicsState,
    observe::{
        children::{Children, Key},
        deployment, secrets,
    },
};

pub use unreadable::unreadable;

/// How long workers wait for their topics.
const TOPICS_FIRST: Duration = Duration::from_secs(2);

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pipeline is ready.
    Ready,
    /// The pipeline is ready, and a batch run is under way. Jobs and their pods aren't watched.
    RunActive,
    /// The pipeline isn't ready, and the status says why.
    NotReady,
    /// The pipeline waits for something that takes seconds.
    Waiting,
    /// The spec can't be done. Nothing was changed.
    Invalid,
    /// The pipeline is paused. Nothing was changed.
    Paused,
    /// The pipeline is gone, or is about to go.
    Gone,
}

impl Outcome {
    /// Value of the metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready | Self::RunActive => "ready",
            Self::NotReady | Self::Waiting => "not_ready",
            Self::Invalid => "invalid",
            Self::Paused => "paused",
            Self::Gone => "gone",
        }
    }
}

/// A pipeline that is being reconciled.
struct Reconciler<'a> {
    context: &'a Context,
    api: Api<PinterestPipeline>,
    resource: PinterestPipeline,
    namespace: String,
    name: String,
    uid: String,
}

/// What was applied.
struct Applied {
    topics: TopicsState,
    /// Children that could not be written.
    obstacles: Vec<(Key, Obstacle)>,
}

/// Brings one pipeline to what its resource says. The `permit` is released while brokers are slow.
pub async fn reconcile(
    context: &Context,
    namespace: &str,
    name: &str,
    permit: SemaphorePermit<'_>,
) -> Result<Outcome, Error> {
    let api: Api<PinterestPipeline> = Api::namespaced(context.client.clone(), namespace);
    // The watch may be older than our last write of the status, from which conditions continue.
    let Some(resource) = api.get_opt(name).await.trying("reading the pipeline")? else {
        return Ok(Outcome::Gone);
    };
    let uid = resource.metadata.uid.clone().unwrap_or_default();
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let reconciler = Reconciler {
        context,
        api,
        resource,
        namespace,
        name,
        uid,
    };
    if reconciler.resource.metadata.deletion_timestamp.is_some() {
        context.rollouts.end(&reconciler.uid);
        return reconciler.delete().await;
    }
    if reconciler.is_paused() {
        context.rollouts.end(&reconciler.uid);
        return reconciler.pause().await;
    }
    Box::pin(reconciler.run(permit)).await
}

impl Reconciler<'_> {
    async fn run(mut self, permit: SemaphorePermit<'_>) -> Result<Outcome, Error> {
        self.report_start().await?;
        let mut children = self.children().await?;
        let pipeline = match self.validate(&children).await? {
            Ok(pipeline) => pipeline,
            Err(problems) => {
                self.context.rollouts.end(&self.uid);
                return self.report_invalid(&problems).await;
            }
        };
        if let Some(conflict) = &pipeline.topic_conflict {
            self.context.rollouts.end(&self.uid);
            self.withdraw(&mut children).await?;
            return self.report_conflict(conflict).await;
        }
        self.keep_finalizer(pipeline.deletion_policy).await?;
        let suspension = self.suspension(&pipeline, &children).await?;
        self.report_suspension(&suspension).await?;
        let mut observed = observed(&pipeline, &children, suspension.draining.clone());
        observed.keeps_images = self.keeps_images(&pipeline, &observed);
        let desired = build::build(&pipeline, &observed);
        let resets = resets::new(&pipeline, &desired.objects, &children);
        let applied = self
            .apply(&pipeline, &desired, &mut children, permit)
            .await?;
        self.report_resets(&resets, &children).await;
        let runs = self.runs(&pipeline).await?;
        let runs = self.replace_stuck_runs(&pipeline, &children, runs).await?;
        let requested_run = self
            .start_requested_run(&pipeline, &children, &runs)
            .await?;
        let report = report::Input {
            pipeline: &pipeline,
            children: &children,
            observed: &observed,
            rollout: &desired.rollout,
            suspension: suspension.finding,
            runs: &runs,
            requested_run,
        };
        self.report(report, applied).await
    }

    async fn children(&self) -> Result<Children, Error> {
        let client = &self.context.client;
        let children = Children::list(client, &self.namespace, &self.name, &self.uid).await;
        children.trying("listing children")
    }

    /// Observes what validation needs, and validates.
    async fn validate(
        &self,
        children: &Children,
    ) -> Result<Result<ValidatedPipeline, Vec<Problem>>, Error> {
        let spec = &self.resource.spec;
        let secrets = secrets::read(&self.context.client, &self.namespace, spec).await;
        let inputs = Inputs {
            secrets: secrets.trying("reading Secrets")?,
            previous: children.secret_digests(),
            record: children.record(&self.name),
            policy: self.context.settings.policy.clone(),
            claims: self.claims_of_others().await?,
        };
        Ok(validate(
            &self.resource,
            &inputs,
            &self.context.settings.images,
        ))
    }

    /// Claims of other pipelines that share a topic name. A watch may lag behind, and a conflict
    /// deletes workers, so whichever pipeline would win a topic is looked up first.
    async fn claims_of_others(&self) -> Result<Vec<Claim>, Error> {
        let claim = Claim::of(&self.resource);
        let mut others = self.context.pipelines.meeting(&claim);
        while let Some((_, rival)) = claim.rival(&others) {
            let client = self.context.client.clone();
            let api: Api<PinterestPipeline> = Api::namespaced(client, &rival.namespace);
            let found = api.get_metadata_opt(&rival.name).await;
            let found = found.trying("reading the pipeline that a topic belongs to")?;
            let uid = rival.uid.clone();
            if found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&uid)) {
                break;
            }
            others.retain(|other| other.uid != uid);
        }
        Ok(others)
    }

    /// Deletes all children except the record: those that run would read and write another
    /// pipeline's topics.
    async fn withdraw(&self, children: &mut Children) -> Result<(), Error> {
        let needed = BTreeSet::from([self.record()]);
        self.applier().prune(&[], &needed, children).await
    }

    /// Kind and name of the record.
    fn record(&self) -> Key {
        ("ConfigMap".to_owned(), names::record(&self.name))
    }

    /// Applies topics and objects, and deletes the children that are no longer desired. Topics come
    /// before the workers that use them, so that no broker creates them with its own settings; but
    /// workers don't wait long for a slow broker.
    async fn apply(
        &mut self,
        pipeline: &ValidatedPipeline,
        desired: &Desired,
        children: &mut Children,
        permit: SemaphorePermit<'_>,
    ) -> Result<Applied, Error> {
        let applier = self.applier();
        let mut needed = self.needed_by_runs(pipeline, children).await?;
        needed.insert(self.record());
        let record = slice::from_ref(&desired.record);
        if let Some((key, obstacle)) = applier.apply(record, children).await?.first() {
            return Ok(self.without_record(components::unwritten(key, obstacle)));
        }
        let mut topics = pin!(self.apply_topics(pipeline, &desired.topics));
        let early = tokio::time::timeout(TOPICS_FIRST, &mut topics).await;
        let obstacles = applier.apply(&desired.objects, children).await?;
        applier.prune(&desired.objects, &needed, children).await?;
        let topics = if let Ok(topics) = early {
            topics?
        } else {
            drop(permit);
            topics.await?
        };
        Ok(Applied { topics, obstacles })
    }

    /// Nothing is applied before the record, without which a removed section could be added again
    /// with other settings.
    fn without_record(&self, finding: Finding) -> Applied {
        let status = self.resource.status.as_ref();
        let topics = status.map_or_else(Vec::new, |status| status.topics.clone());
        Applied {
            topics: TopicsState { topics, finding },
            obstacles: Vec::new(),
        }
    }

    /// Whether too many other pipelines roll. A tag of the pipeline's own is rolled at once.
    fn keeps_images(&self, pipeline: &ValidatedPipeline, observed: &Observed) -> bool {
        let image = self.resource.spec.image.as_ref();
        let tag = image.and_then(|image| image.tag.as_deref());
        let stage = match tag {
            Some(tag) if !tag.is_empty() => Stage::Done,
            _ => build::stage(pipeline, observed),
        };
        let context = self.context;
        let exists = |uid: &str| context.pipelines.contains(uid);
        !context.rollouts.permit(&self.uid, stage, exists)
    }

    fn applier(&self) -> Applier {
        Applier {
            client: self.context.client.clone(),
            metrics: self.context.metrics.clone(),
            lease: self.context.lease.clone(),
            namespace: self.namespace.clone(),
            pipeline: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// Observations that decide how objects are built.
fn observed(
    pipeline: &ValidatedPipeline,
    children: &Children,
    draining: BTreeSet<Component>,
) -> Observed {
    let deployments = pipeline.deployments().into_iter();
    let deployments = deployments.filter_map(|component| {
        let running = deployment::running(children, pipeline, &component)?;
        Some((component, running))
    });
    Observed {
        draining,
        at_zero: children.at_zero(pipeline),
        keeps_images: false,
        deployments: deployments.collect(),
    }
}
