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

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use crate::{
    apply::{Applier, Obstacle},
    context::{Context, Permit},
    error::{Error, Trying as _},
    kafka::TopicsState,
    observe::{
        child_cache::Of,
        children::{Children, Key},
        deployment, secrets,
    },
};
use kube::Api;
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{
    build::{self, Desired, Observed},
    component::Component,
    model::ValidatedPipeline,
    ownership::Claim,
    validate::{Inputs, Problem, validate},
};
use tokio::time::timeout;

pub use deletion::release_unreadable;

/// How long workers wait for their topics.
const TOPICS_FIRST: Duration = Duration::from_secs(2);

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pipeline is ready.
    Ready,
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
            Self::Ready => "ready",
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
    permit: Arc<Permit<'a>>,
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

/// Brings one pipeline to what its resource says. The `permit` is released while brokers and pods
/// are queried.
pub async fn reconcile<'a>(
    context: &'a Context,
    namespace: &str,
    name: &str,
    permit: Permit<'a>,
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
        permit: Arc::new(permit),
        api,
        resource,
        namespace,
        name,
        uid,
    };
    if reconciler.resource.metadata.deletion_timestamp.is_some() {
        return reconciler.delete().await;
    }
    if reconciler.is_paused() {
        return reconciler.pause().await;
    }
    Box::pin(reconciler.run()).await
}

impl<'a> Reconciler<'a> {
    async fn run(mut self) -> Result<Outcome, Error> {
        self.report_start().await?;
        let mut children = self.children().await?;
        let pipeline = match self.validate(&children).await? {
            Ok(pipeline) => pipeline,
            Err(problems) => return self.report_invalid(&problems).await,
        };
        if let Some(conflict) = &pipeline.topic_conflict {
            self.withdraw(&mut children).await?;
            return self.report_conflict(conflict).await;
        }
        self.keep_finalizer(pipeline.deletion_policy).await?;
        let suspension = self.suspension(&pipeline, &children).await?;
        self.report_suspension(&suspension).await?;
        let observed = observed(&pipeline, &children, suspension.draining.clone());
        let desired = build::build(&pipeline, &observed);
        let resets = resets::new(&pipeline, &desired.objects, &children);
        let applied = self.apply(&pipeline, &desired, &mut children).await?;
        self.report_resets(&resets, &children).await;
        let requested_run = self.start_requested_run(&pipeline, &children).await?;
        let report = report::Input {
            pipeline: &pipeline,
            children: &children,
            observed: &observed,
            rollout: &desired.rollout,
            suspension: suspension.finding,
            requested_run,
        };
        self.report(report, applied).await
    }

    async fn children(&self) -> Result<Children, Error> {
        let Context {
            client,
            children,
            pipelines,
            ..
        } = self.context;
        let children = children.children(client, self.of(), pipelines.count());
        children.await.trying("listing children")
    }

    fn of(&self) -> Of<'_> {
        Of {
            namespace: &self.namespace,
            name: &self.name,
            uid: &self.uid,
        }
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

    /// Deletes all children: those that run would read and write another pipeline's topics.
    async fn withdraw(&self, children: &mut Children) -> Result<(), Error> {
        self.applier().prune(&[], &BTreeSet::new(), children).await
    }

    /// Applies topics and objects, and deletes the children that are no longer desired. Topics come
    /// before the workers that use them, so that no broker creates them with its own settings; but
    /// workers don't wait long for a slow broker.
    async fn apply(
        &mut self,
        pipeline: &ValidatedPipeline,
        desired: &Desired,
        children: &mut Children,
    ) -> Result<Applied, Error> {
        let needed = self.needed_by_runs(pipeline, children).await?;
        let (applier, permit) = (self.applier(), Arc::clone(&self.permit));
        let mut topics = pin!(self.apply_topics(pipeline, &desired.topics));
        let early = permit.released(timeout(TOPICS_FIRST, &mut topics)).await;
        let obstacles = applier.apply(&desired.objects, children).await?;
        applier.prune(&desired.objects, &needed, children).await?;
        let topics = match early {
            Ok(topics) => topics?,
            Err(_) => permit.released(topics).await?,
        };
        Ok(Applied { topics, obstacles })
    }

    fn applier(&self) -> Applier<'a> {
        Applier {
            client: self.context.client.clone(),
            metrics: self.context.metrics.clone(),
            cache: &self.context.children,
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
        deployments: deployments.collect(),
    }
}
