//! One pass over one pipeline: the four phases in order.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::{CronJob, Job},
        core::v1::Pod,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Resource as _,
    api::{ListParams, Patch, PatchParams},
};
use pinpipe_crds::{
    BatchStatus, IngestStatus, PinterestPipeline, PinterestPipelineStatus, TopicStatus, condition_types,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    MANAGER,
    apply::{Applier, Key, Live, Obstacle},
    build,
    context::Context,
    dereference::{self, Dereferenced},
    status::{self, Finding, Findings, batch, health, reasons},
    topics::{self, Broker, BrokerError, Outcome},
    validate::{self, ValidatedPipeline},
};

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
}

impl Error {
    /// For the metric: `api` or `timeout`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// Says what was tried when the API server failed.
trait Trying<T> {
    fn trying(self, action: &'static str) -> Result<T, Error>;
}

impl<T> Trying<T> for kube::Result<T> {
    fn trying(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Api { action, source: Box::new(source) })
    }
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// The pipeline is ready.
    Ready,
    /// It isn't, and the status says why.
    NotReady,
    /// Its spec can't be done; nothing was touched.
    Invalid,
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

/// Brings one pipeline to what its resource says.
pub async fn run(context: &Context, namespace: &str, name: &str) -> Result<Passed, Error> {
    let api: Api<PinterestPipeline> = Api::namespaced(context.client.clone(), namespace);
    // Read anew: what the watch has may be older than our last write of the status, and conditions are made from those before.
    let Some(resource) = api.get_opt(name).await.trying("reading the pipeline")? else { return Ok(Passed::Gone) };
    let uid = resource.metadata.uid.clone().unwrap_or_default();
    if resource.metadata.deletion_timestamp.is_some() {
        return Ok(Passed::Gone);
    }
    let pass = Pass { context, api, resource, namespace: namespace.to_owned(), name: name.to_owned(), uid };
    pass.run().await
}

impl Pass<'_> {
    async fn run(mut self) -> Result<Passed, Error> {
        let context = self.context;
        let (namespace, name, uid) = (self.namespace.clone(), self.name.clone(), self.uid.clone());
        let applier = Applier {
            client: &context.client,
            metrics: &context.metrics,
            namespace: &namespace,
            pipeline: &name,
            uid: &uid,
        };
        let mut live = applier.live().await.trying("listing children")?;
        let secrets = dereference::secrets(&self.context.client, &namespace, &self.resource.spec).await;
        let found = Dereferenced {
            secrets: secrets.trying("reading Secrets")?,
            previous: dereference::previous(live.objects()),
        };
        let pipeline = match validate::validate(&self.resource, &found, &self.context.images) {
            Ok(pipeline) => pipeline,
            Err(problems) => {
                let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                self.write_invalid(message).await?;
                return Ok(Passed::Invalid);
            }
        };

        let objects = build::objects(&pipeline);
        // Topics come before the workers that use them, so that no broker makes them up with settings of its own; but a broker that is away
        // must not keep workers from being looked after.
        let (topics, obstacles) = {
            let mut topics = pin!(self.topics(&pipeline));
            let early = tokio::time::timeout(TOPICS_FIRST, &mut topics).await;
            let obstacles = applier.write(&objects, &mut live).await.trying("writing children")?;
            applier.prune(&objects, &mut live).await.trying("deleting children")?;
            let topics = match early {
                Ok(topics) => topics?,
                Err(_) => topics.await?,
            };
            (topics, obstacles)
        };

        let (batch_status, batch) = self.batch(&pipeline, &live).await?;
        let mut findings = self.findings(&pipeline, &live, topics.finding, batch).await?;
        blame(&mut findings, &pipeline, obstacles);
        let conditions = findings.conditions(pipeline.suspend);
        let ready = conditions.first().is_some_and(|(_, finding)| finding.ok);
        self.write_status(conditions, |status| {
            status.topics = topics.topics;
            status.ingest = Some(IngestStatus { url: build::ingest_url(&pipeline) });
            status.batch = batch_status;
        })
        .await?;
        Ok(if ready { Passed::Ready } else { Passed::NotReady })
    }

    /// Creates topics that are absent, and says how they stand.
    async fn topics(&mut self, pipeline: &ValidatedPipeline) -> Result<Outcome, Error> {
        let wishes = build::topics(pipeline);
        let question = topics::question(&pipeline.bootstrap_servers, &wishes);
        if let Some(outcome) = self.context.topics.get(&self.uid, question) {
            return Ok(outcome);
        }
        let known = self.resource.status.as_ref().map(|status| status.topics.clone()).unwrap_or_default();
        let unchanged = |error: &BrokerError| Outcome { topics: known.clone(), finding: error.finding() };
        let names: Vec<String> = wishes.iter().map(|wish| wish.name.clone()).collect();
        let see = async {
            let broker = Broker::new(&pipeline.bootstrap_servers)?;
            let seen = broker.see(names.clone()).await?;
            Ok::<_, BrokerError>((broker, seen))
        };
        let outcome = match see.await {
            Err(error) => unchanged(&error),
            Ok((broker, seen)) => {
                let plan = topics::plan(&wishes, &known, &seen);
                if plan.create.is_empty() {
                    plan.outcome
                } else {
                    self.write_intent(plan.intent.clone()).await?;
                    match self.create(&broker, &plan.create, names).await {
                        Ok(seen) => {
                            let after = topics::plan(&wishes, &plan.intent, &seen);
                            match after.create.first() {
                                None => after.outcome,
                                Some(topic) => Outcome {
                                    finding: Finding::bad(
                                        reasons::TOPICS_PENDING,
                                        format!(
                                            "the broker does not show topic {} yet, which was just created",
                                            topic.name
                                        ),
                                    ),
                                    ..after.outcome
                                },
                            }
                        }
                        Err(error) => Outcome { topics: plan.intent, finding: error.finding() },
                    }
                }
            }
        };
        self.context.topics.put(&self.uid, question, outcome.clone());
        Ok(outcome)
    }

    async fn create(
        &self,
        broker: &Broker,
        wishes: &[build::TopicWish],
        names: Vec<String>,
    ) -> Result<BTreeMap<String, topics::Seen>, BrokerError> {
        broker.create(wishes).await?;
        for _ in wishes {
            self.context.metrics.wrote("create", "topics");
        }
        broker.see(names).await
    }

    /// How each component stands.
    async fn findings(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
        topics: Finding,
        batch: Option<Finding>,
    ) -> Result<Findings, Error> {
        let mut stream = Vec::new();
        for sink in &pipeline.sinks {
            let mut finding = self.component(pipeline, live, &format!("stream-{}", sink.name)).await?;
            finding.message = format!("sink {}: {}", sink.name, finding.message);
            stream.push(finding);
        }
        let archive = match &pipeline.archive {
            Some(_) => Some(self.component(pipeline, live, "archive").await?),
            None => None,
        };
        let emulator = match &pipeline.emulator {
            Some(_) => Some(self.component(pipeline, live, "emulator").await?),
            None => None,
        };
        let ingest = self.component(pipeline, live, "ingest").await?;
        let stream = match Finding::worst(stream) {
            Some(finding) if finding.ok && !pipeline.suspend => {
                Some(Finding::good(reasons::AVAILABLE, "all pods of all sinks are ready"))
            }
            other => other,
        };
        Ok(Findings { topics, ingest, stream, archive, batch, emulator })
    }

    async fn component(&self, pipeline: &ValidatedPipeline, live: &Live, component: &str) -> Result<Finding, Error> {
        let name = pipeline.child(component);
        let secrets = build::secrets(pipeline).find(|(child, _)| *child == name).map(|(_, secrets)| secrets);
        if let Some(missing) = secrets.and_then(|secrets| secrets.missing.first()) {
            return Ok(Finding::bad(reasons::SECRET_MISSING, format!("{missing} (namespace {})", self.namespace)));
        }
        let Some(deployment) = typed::<Deployment>(live, "Deployment", &name) else {
            return Ok(Finding::bad(reasons::PROGRESSING, format!("Deployment {name} is about to be created")));
        };
        let rollout = health::rollout(&deployment);
        let pods = if rollout == health::Rollout::Complete {
            Vec::new()
        } else {
            let params = ListParams::default().labels(&build::selector(&self.name, Some(component)));
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
            api.list(&params).await.trying("listing pods")?.items
        };
        Ok(health::finding(&rollout, &pods, pipeline.suspend, &self.place(component)))
    }

    /// Where `kubectl` finds a component's pods.
    fn place(&self, component: &str) -> String {
        let Self { namespace, name, .. } = self;
        format!("-n {namespace} -l app.kubernetes.io/instance={name},app.kubernetes.io/component={component}")
    }

    /// How batch runs stand. The pods of a run are asked once, when it has ended.
    async fn batch(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
    ) -> Result<(Option<BatchStatus>, Option<Finding>), Error> {
        let Some(wanted) = &pipeline.batch else { return Ok((None, None)) };
        let client = &self.context.client;
        let params = ListParams::default().labels(&build::selector(&self.name, Some("batch")));
        let jobs: Api<Job> = Api::namespaced(client.clone(), &self.namespace);
        let jobs = jobs.list(&params).await.trying("listing Jobs")?.items;

        let status = self.resource.status.as_ref();
        let before = status.and_then(|status| status.batch.as_ref());
        let known = before.and_then(|batch| batch.last_run.as_ref());
        let old_message = status
            .and_then(|status| status.conditions.iter().find(|c| c.type_ == condition_types::BATCH_READY))
            .filter(|condition| condition.reason == reasons::RUN_FAILED)
            .map(|condition| condition.message.clone());
        let ended = batch::last_ended(&jobs).filter(|(name, _)| known.is_none_or(|run| run.name != *name));
        let (last_run, said) = match ended {
            Some((job, outcome)) => {
                let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
                let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
                let pods = pods.list(&params).await.trying("listing a run's pods")?.items;
                let (run, said) = batch::last_run(job, outcome, batch::termination_message(&pods).as_deref());
                (Some(run), said)
            }
            None => (None, None),
        };
        let new = last_run.is_some();
        let cron_job = typed::<CronJob>(live, "CronJob", &pipeline.child("batch"));
        let status = batch::status(cron_job.as_ref(), before, last_run);
        let mut finding = if let Some(missing) = wanted.secrets.missing.first() {
            Finding::bad(reasons::SECRET_MISSING, format!("{missing} (namespace {})", self.namespace))
        } else {
            let place = format!("-n {}", self.namespace);
            batch::finding(pipeline.suspend, status.last_run.as_ref(), said.as_deref(), &place)
        };
        if let Some(message) = old_message.filter(|_| !new && finding.reason == reasons::RUN_FAILED) {
            // What the run said was read once and stands in the condition.
            finding.message = message;
        }
        Ok((Some(status), Some(finding)))
    }

    async fn write_invalid(&self, message: String) -> Result<(), Error> {
        let finding = Finding::bad(reasons::INVALID_SPEC, format!("{message}; nothing was changed"));
        let before = self.resource.status.iter().flat_map(|status| &status.conditions);
        let others: Vec<_> = before.filter(|condition| condition.type_ != condition_types::READY).cloned().collect();
        self.write_status(vec![(condition_types::READY, finding)], |status| status.conditions.extend(others)).await
    }

    /// Writes that topics are about to be created by us.
    async fn write_intent(&mut self, topics: Vec<TopicStatus>) -> Result<(), Error> {
        let mut status = self.resource.status.clone().unwrap_or_default();
        status.topics = topics;
        self.patch_status(&status).await?;
        self.resource.status = Some(status);
        Ok(())
    }

    /// Writes the status where it differs.
    async fn write_status(
        &self,
        findings: Vec<(&'static str, Finding)>,
        fill: impl FnOnce(&mut PinterestPipelineStatus),
    ) -> Result<(), Error> {
        let before = self.resource.status.clone().unwrap_or_default();
        let generation = self.resource.metadata.generation;
        let mut status = before.clone();
        status.conditions = status::conditions(&before.conditions, findings, generation, Timestamp::now());
        status.observed_generation = generation;
        fill(&mut status);
        if status == before {
            return Ok(());
        }
        self.patch_status(&status).await
    }

    async fn patch_status(&self, status: &PinterestPipelineStatus) -> Result<(), Error> {
        let body = json!({
            "apiVersion": PinterestPipeline::api_version(&()),
            "kind": PinterestPipeline::kind(&()),
            // Of this pipeline alone, not of one that has its name by now.
            "metadata": {"name": self.name, "uid": self.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        self.api.patch_status(&self.name, &params, &Patch::Apply(&body)).await.trying("writing the status")?;
        self.context.metrics.wrote("apply", "pinterestpipelines/status");
        Ok(())
    }
}

/// A live child as its type. None, too, where it doesn't fit: then it is looked at again when it changes.
fn typed<K: DeserializeOwned>(live: &Live, kind: &str, name: &str) -> Option<K> {
    serde_json::from_value(live.get(kind, name)?.clone()).ok()
}

/// Puts a child that could not be written down to its component.
fn blame(findings: &mut Findings, pipeline: &ValidatedPipeline, obstacles: Vec<(Key, Obstacle)>) {
    for ((kind, name), obstacle) in obstacles {
        let finding = match obstacle {
            Obstacle::Foreign => Finding::bad(
                reasons::CHILD_CONFLICT,
                format!("{kind} {name} is there and not this pipeline's, so it was left alone: delete or rename it"),
            ),
            Obstacle::Refused(why) => {
                Finding::bad(reasons::CHILD_REFUSED, format!("the API server refuses {kind} {name}: {why}"))
            }
        };
        let component = name.strip_prefix(&pipeline.name).and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
        match component.split('-').next().unwrap_or_default() {
            "stream" => findings.stream = Some(finding),
            "archive" => findings.archive = Some(finding),
            "batch" => findings.batch = Some(finding),
            "emulator" => findings.emulator = Some(finding),
            _ => findings.ingest = finding,
        }
    }
}
