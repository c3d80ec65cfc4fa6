//! One pass over one pipeline: the four phases in order.

mod components;
mod resets;
mod topics;

use std::{pin::pin, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use pinpipe_crds::{IngestStatus, PinterestPipeline, PinterestPipelineStatus, condition_types};
use serde_json::json;

use crate::{
    MANAGER,
    apply::Applier,
    build,
    context::Context,
    dereference::{self, Dereferenced},
    status::{self, Finding, reasons},
    validate,
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
            claims: context.watched.claims_besides(&uid),
        };
        let pipeline = match validate::validate(&self.resource, &found, &self.context.images) {
            Ok(pipeline) => pipeline,
            Err(problems) => {
                let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                self.write_invalid(message).await?;
                return Ok(Passed::Invalid);
            }
        };

        if let Some(conflict) = &pipeline.topic_conflict {
            // Whatever of ours runs would read and write what is another's.
            applier.prune(&[], &mut live).await.trying("deleting children")?;
            self.write_conflict(conflict).await?;
            return Ok(Passed::NotReady);
        }

        let objects = build::objects(&pipeline);
        let resets = resets::new(&pipeline, &objects, &live);
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

        self.tell_of_resets(&resets, &live).await;

        let (batch_status, batch) = self.batch(&pipeline, &live).await?;
        let mut findings = self.findings(&pipeline, &live, topics.finding, batch).await?;
        components::blame(&mut findings, &pipeline, obstacles);
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

    async fn write_invalid(&self, message: String) -> Result<(), Error> {
        let finding = Finding::bad(reasons::INVALID_SPEC, format!("{message}; nothing was changed"));
        let before = self.resource.status.iter().flat_map(|status| &status.conditions);
        let others: Vec<_> = before.filter(|condition| condition.type_ != condition_types::READY).cloned().collect();
        self.write_status(vec![(condition_types::READY, finding)], |status| status.conditions.extend(others)).await
    }

    async fn write_conflict(&self, conflict: &str) -> Result<(), Error> {
        let message = format!("{conflict}; until then this one has no workers");
        let types = [condition_types::READY, condition_types::TOPICS_READY];
        let findings = types.map(|type_| (type_, Finding::bad(reasons::TOPIC_CONFLICT, message.clone())));
        self.write_status(findings.into(), |status| status.ingest = None).await
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
