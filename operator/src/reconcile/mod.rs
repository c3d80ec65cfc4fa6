//! One reconcile of one pipeline: observe, validate, claim topics, build, apply, report.

mod batch_runs;
mod components;
mod deletion;
mod pause;
mod report;
mod runs;
mod suitability;
mod suspend;
mod topics;
mod unreadable;
mod work;

use std::{collections::BTreeSet, pin::pin, slice, sync::Arc, time::Duration};

use kube::Api;
use pinpipe_crds::{PinterestPipeline, condition_types, reasons};
use pinpipe_plan::{
    build::{self, Desired, Observed, Stage},
    model::ValidatedPipeline,
    names,
    ownership::Claim,
    requests::Requests,
    validate::{Inputs, Problem, validate},
};
use pinpipe_runtime::kafka::Access;
use tokio::{select, sync::OnceCell, time::sleep};

use crate::{
    apply::{Applier, Obstacle},
    context::Context,
    error::{Error, Trying as _},
    kafka::{BrokerError, Suitability, TopicsState},
    observe::{
        child_cache::Of,
        children::{Children, Key},
        deployment, secrets,
    },
    permits::Permit,
};

pub use runs::runs_without_pipeline;
use suspend::Suspension;
pub use unreadable::unreadable;

/// How long objects wait for their topics. After that they are applied all the same, and the
/// topics are awaited afterwards.
const TOPICS_FIRST: Duration = Duration::from_secs(2);

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pipeline is ready.
    Ready,
    /// The pipeline is ready, and a run is under way, whose pods aren't watched.
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
    permit: Arc<Permit<'a>>,
    api: Api<PinterestPipeline>,
    resource: PinterestPipeline,
    namespace: String,
    name: String,
    uid: String,
    /// How to reach the Kafka cluster, once its Secrets are read.
    kafka: OnceCell<Result<Access, BrokerError>>,
}

/// What was applied.
struct Applied {
    topics: TopicsState,
    /// Children that could not be written.
    obstacles: Vec<(Key, Obstacle)>,
}

/// What was built, and from what.
struct Built {
    observed: Observed,
    desired: Desired,
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
    // Not from the watch, which may lag behind our last write of the status: new conditions keep
    // the transition times of those in it.
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
        kafka: OnceCell::new(),
    };
    if reconciler.resource.metadata.deletion_timestamp.is_some() {
        context.rollouts.end(&reconciler.uid);
        return reconciler.delete().await;
    }
    if reconciler.is_paused() {
        context.rollouts.end(&reconciler.uid);
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
            Err(problems) => {
                self.context.rollouts.end(&self.uid);
                self.hold_runs(reasons::INVALID_SPEC).await?;
                return self.report_invalid(&problems).await;
            }
        };
        self.keep_finalizer(pipeline.deletion_policy).await?;
        let suspension = self.suspension(&pipeline, &children).await?;
        self.report_suspension(&suspension).await?;
        let requests = self.requests(&pipeline);
        let (observed, desired, applied) = {
            let permit = Arc::clone(&self.permit);
            let topics = build::topics(&pipeline);
            let mut topics = pin!(self.apply_topics(&topics, &requests.topics));
            // Topics come before the workers that use them, so that no broker creates them with its
            // own settings; but workers don't wait long for a slow broker.
            let early = select! {
                biased;
                topics = &mut topics => Some(topics?),
                () = asks_slow_broker(&permit) => None,
            };
            if early.is_none() {
                permit.acquire().await;
            }
            if let Some(conflict) = conflict(early.as_ref(), &pipeline, &children) {
                return self.withdraw(&conflict, &mut children).await;
            }
            let mut built = self
                .build_and_apply(
                    &pipeline,
                    &requests,
                    early.as_ref(),
                    &suspension,
                    &mut children,
                )
                .await?;
            let mut topics = if let Some(topics) = early {
                topics
            } else {
                permit.release();
                topics.await?
            };
            if let Some(conflict) = topics.conflict() {
                return self.withdraw(conflict, &mut children).await;
            }
            suitability::remember(&mut topics, self.condition(condition_types::TOPICS_READY));
            if topics.claimed && !built.desired.rollout.unreached.is_empty() {
                permit.acquire().await;
                built = self
                    .build_and_apply(
                        &pipeline,
                        &requests,
                        Some(&topics),
                        &suspension,
                        &mut children,
                    )
                    .await?;
            }
            let Built {
                observed,
                desired,
                obstacles,
            } = built;
            (observed, desired, Applied { topics, obstacles })
        };
        let runs = self.runs(&pipeline).await?;
        // What is wrong with a run must not keep the status of the pipeline from being written.
        let (runs, replaced) = self.replace_stuck_runs(&pipeline, &children, runs).await;
        let asked = (&requests, &applied.topics);
        let advanced = Box::pin(self.advance_runs(&pipeline, &children, &runs, asked)).await;
        let report = report::Input {
            pipeline: &pipeline,
            children: &children,
            observed: &observed,
            rollout: &desired.rollout,
            suspension: suspension.finding,
            runs: &runs,
        };
        let outcome = self.report(report, applied).await?;
        replaced.and(advanced)?;
        Ok(match outcome {
            Outcome::Ready if !requests.is_empty() => Outcome::RunActive,
            outcome => outcome,
        })
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
        let found = secrets::read(&self.context.client, &self.namespace, spec).await;
        let found = found.trying("reading Secrets")?;
        // Unless something has asked for it before.
        let _ = self.kafka.set(found.kafka);
        let inputs = Inputs {
            secrets: found.keys,
            deployed: children.workloads(),
            record: children.record(&self.name),
            policy: self.context.settings.policy.clone(),
            claims: self.context.pipelines.meeting(&Claim::of(&self.resource)),
            operator_namespace: self.context.settings.namespace.clone(),
        };
        Ok(validate(
            &self.resource,
            &inputs,
            &self.context.settings.images,
        ))
    }

    /// How to reach the pipeline's Kafka cluster. Its Secrets are read once in a reconcile.
    async fn kafka_access(&self) -> Result<Result<Access, BrokerError>, Error> {
        let spec = &self.resource.spec;
        let read = || secrets::kafka(&self.context.client, &self.namespace, spec);
        let access = self.kafka.get_or_try_init(read).await;
        access.cloned().trying("reading Kafka's Secrets")
    }

    /// Deletes all children but the record, since those that run would read and write another
    /// pipeline's topics, and reports why.
    async fn withdraw(&self, conflict: &str, children: &mut Children) -> Result<Outcome, Error> {
        self.context.rollouts.end(&self.uid);
        let needed = BTreeSet::from([self.record()]);
        self.applier().prune(&[], &needed, children).await?;
        self.end_runs(true).await?;
        self.hold_runs(reasons::TOPIC_CONFLICT).await?;
        self.report_conflict(conflict).await
    }

    /// Kind and name of the record.
    fn record(&self) -> Key {
        ("ConfigMap".to_owned(), names::record(&self.name))
    }

    /// Builds and applies what the pipeline wants, given what is known of its topics and what runs
    /// ask for.
    async fn build_and_apply(
        &self,
        pipeline: &ValidatedPipeline,
        requests: &Requests,
        topics: Option<&TopicsState>,
        suspension: &Suspension,
        children: &mut Children,
    ) -> Result<Built, Error> {
        let mut observed = self.observed(pipeline, children, topics, suspension);
        observed.reset.clone_from(&requests.reset);
        let desired = build::build(pipeline, &observed);
        let obstacles = self.apply(pipeline, &desired, children).await?;
        Ok(Built {
            observed,
            desired,
            obstacles,
        })
    }

    /// Applies objects, and deletes the children that are no longer desired. Returns those that
    /// could not be written. Nothing is applied before the record, without which a removed section
    /// could be added again with other settings.
    async fn apply(
        &self,
        pipeline: &ValidatedPipeline,
        desired: &Desired,
        children: &mut Children,
    ) -> Result<Vec<(Key, Obstacle)>, Error> {
        let applier = self.applier();
        let mut needed = self.needed_by_runs(pipeline, children).await?;
        needed.insert(self.record());
        let record = slice::from_ref(&desired.record);
        let unwritten = applier.apply(record, children).await?;
        if !unwritten.is_empty() {
            return Ok(unwritten);
        }
        let obstacles = applier.apply(&desired.objects, children).await?;
        applier.prune(&desired.objects, &needed, children).await?;
        Ok(obstacles)
    }

    /// Observations that decide how objects are built.
    fn observed(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
        topics: Option<&TopicsState>,
        suspension: &Suspension,
    ) -> Observed {
        let deployments = pipeline.deployments().into_iter();
        let deployments = deployments.filter_map(|component| {
            let running = deployment::running(children, pipeline, &component)?;
            Some((component, running))
        });
        let suitability = topics.map_or(Suitability::Unknown, |topics| topics.suitability);
        let before = self.condition(condition_types::TOPICS_READY);
        let mut observed = Observed {
            draining: suspension.draining.clone(),
            at_zero: children.at_zero(pipeline),
            keeps_images: false,
            reset: None,
            deployments: deployments.collect(),
            unsuitable_topics: suitability::is_unsuitable(suitability, before),
            unreached_brokers: topics.is_none_or(|topics| !topics.claimed),
        };
        observed.keeps_images = self.keeps_images(pipeline, &observed);
        observed
    }

    /// Whether components keep their images, because too many other pipelines roll. A pipeline with
    /// a tag of its own never waits for others, nor do others wait for it.
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

/// Waits until the topics have taken long and a broker's answer is awaited.
async fn asks_slow_broker(permit: &Permit<'_>) {
    sleep(TOPICS_FIRST).await;
    permit.waiting().await;
}

/// Sentence about a topic that belongs to another pipeline. Where the topics aren't claimed (no
/// broker answers, or the record can't be written) it isn't known who holds them: then a pipeline
/// without Deployments leaves them to an older one, and one with Deployments is left alone.
fn conflict(
    topics: Option<&TopicsState>,
    pipeline: &ValidatedPipeline,
    children: &Children,
) -> Option<String> {
    match topics {
        Some(topics) if topics.claimed => return None,
        Some(topics) if topics.conflict().is_some() => {
            return topics.conflict().map(ToOwned::to_owned);
        }
        Some(_) | None => {}
    }
    let components = pipeline.deployments();
    let runs = components.iter().any(|component| {
        let deployment = children.deployment(pipeline, component);
        deployment.is_some()
    });
    pipeline.topic_conflict.clone().filter(|_| !runs)
}
