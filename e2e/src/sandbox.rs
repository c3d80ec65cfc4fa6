//! A test's sandbox: a namespace, and topics, a bucket, a schema and a keyspace named after it.
//!
//! The name is `e2e-<test>-<random>`, and the namespace has the label `pinpipe.dev/e2e=<test>`.
//! Topics begin with the name and a dot, the bucket has the name, and schema and keyspace have it
//! with underscores. A sandbox is removed when its test ends, whether it passed or not. If the test
//! program is killed, the sandbox is removed when the same test starts again.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use rand::Rng;
use serde_json::{Value, json};

use crate::{
    Cluster, Pipeline, Spec, cassandra, cluster, eventually, finally, kafka, objects, postgres,
};

/// The label of a sandbox's namespace; its value is the test's name.
const LABEL: &str = "pinpipe.dev/e2e";
/// How long workers may take to end after their pipeline was deleted.
const WORKERS_GONE_WITHIN: Duration = Duration::from_mins(1);

/// The Secret with PostgreSQL's URL.
pub const POSTGRES_SECRET: &str = "warehouse";
/// The Secret with the S3 server's keys.
pub const S3_SECRET: &str = "s3";

/// A namespace, and the topics, bucket, schema and keyspace named after it.
#[derive(Clone)]
pub struct Sandbox {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace, `e2e-<test>-<random>`.
    pub namespace: String,
}

impl Sandbox {
    /// Removes what earlier runs of this test left, and creates a namespace with the Secrets that
    /// the pipelines refer to.
    pub async fn begin(test: &str) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        Self::remove_old(&cluster, &format!("{LABEL}={test}")).await?;
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        let sandbox = Self {
            cluster,
            namespace: format!("e2e-{test}-{:05x}", rand::rng().random_range(0..0x10_0000)),
        };
        let namespace = json!({"metadata": {"name": sandbox.namespace, "labels": {LABEL: test}}});
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(namespace)?)
            .await?;
        sandbox
            .secret(
                POSTGRES_SECRET,
                json!({"url": cluster::POSTGRES_IN_CLUSTER}),
            )
            .await?;
        let (id, key) = cluster::S3_KEYS;
        sandbox
            .secret(
                S3_SECRET,
                json!({"accessKeyId": id, "secretAccessKey": key}),
            )
            .await?;
        println!("namespace {}", sandbox.namespace);
        Ok(sandbox)
    }

    /// Removes the sandboxes that earlier runs of any test left behind.
    pub async fn remove_all_old() -> Result<()> {
        Self::remove_old(&Cluster::connect().await?, LABEL).await
    }

    async fn remove_old(cluster: &Cluster, selector: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        for old in namespaces
            .list(&ListParams::default().labels(selector))
            .await?
        {
            println!("removing {}", old.name_any());
            let old = Self {
                cluster: cluster.clone(),
                namespace: old.name_any(),
            };
            old.remove().await?;
        }
        Ok(())
    }

    /// Runs a test in a sandbox of its own.
    pub async fn with(test: &str, body: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let sandbox = Self::begin(test).await?;
        finally(body(&sandbox), async |passed| {
            sandbox.end(passed, true).await
        })
        .await
    }

    /// Ends a test: prints the sandbox's state if it failed, and removes the sandbox unless other
    /// tests still need it.
    pub async fn end(&self, passed: bool, remove: bool) -> Result<()> {
        if !passed {
            println!("{}", self.diagnosis().await);
        }
        if remove { self.remove().await } else { Ok(()) }
    }

    /// Creates a Secret.
    pub async fn secret(&self, name: &str, values: Value) -> Result<()> {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name}, "stringData": values}))?;
        self.cluster
            .api::<Secret>(&self.namespace)
            .create(&PostParams::default(), &secret)
            .await?;
        Ok(())
    }

    /// Changes keys of a Secret.
    pub async fn renew_secret(&self, name: &str, values: Value) -> Result<()> {
        let renewed = Patch::Merge(json!({"stringData": values}));
        self.cluster
            .api::<Secret>(&self.namespace)
            .patch(name, &PatchParams::default(), &renewed)
            .await?;
        Ok(())
    }

    /// Deletes a Secret.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        deleted(
            self.cluster
                .api::<Secret>(&self.namespace)
                .delete(name, &DeleteParams::default())
                .await,
        )
    }

    /// Deletes the namespace with everything in it.
    pub async fn delete_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client());
        deleted(
            namespaces
                .delete(&self.namespace, &DeleteParams::background())
                .await,
        )
    }

    /// The schema of the live tables.
    #[must_use]
    pub fn schema(&self) -> String {
        self.namespace.replace('-', "_")
    }

    /// The keyspace of the batch tables.
    #[must_use]
    pub fn keyspace(&self) -> String {
        self.schema()
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.namespace
    }

    /// A pipeline of this name, applied or not.
    #[must_use]
    pub fn pipeline(&self, name: &str) -> Pipeline {
        Pipeline {
            sandbox: self.clone(),
            name: name.to_owned(),
        }
    }

    /// Applies a pipeline.
    pub async fn apply(&self, name: &str, spec: &Spec) -> Result<Pipeline> {
        let pipeline = self.pipeline(name);
        pipeline.apply(spec).await?;
        Ok(pipeline)
    }

    /// Removes the pipelines, the namespace, and what the stores have under its name. A step that
    /// fails doesn't keep the others from being done.
    async fn remove(&self) -> Result<()> {
        // Before anything else: the operator must not create the topics again, and workers that
        // still run would only log errors.
        let workers = self.end_workers().await;
        let steps = [
            ("workers", workers),
            ("namespace", self.delete_namespace().await),
            (
                "topics",
                kafka::delete_topics(&format!("{}.", self.namespace)).await,
            ),
            ("schema", postgres::drop_schema(&self.schema()).await),
            ("keyspace", cassandra::drop_keyspace(&self.keyspace()).await),
            ("bucket", objects::delete_bucket(self.bucket()).await),
        ];
        let failed: Vec<String> = steps
            .into_iter()
            .filter_map(|(what, result)| Some(format!("{what}: {:#}", result.err()?)))
            .collect();
        ensure!(
            failed.is_empty(),
            "{} is not removed: {}",
            self.namespace,
            failed.join("; ")
        );
        Ok(())
    }

    /// Deletes the pipelines and waits until no pod is left.
    async fn end_workers(&self) -> Result<()> {
        let pipelines = self.cluster.pipelines(&self.namespace);
        for pipeline in pipelines.list(&ListParams::default()).await? {
            deleted(
                pipelines
                    .delete(&pipeline.name_any(), &DeleteParams::default())
                    .await,
            )?;
        }
        eventually(WORKERS_GONE_WITHIN, "workers gone", async || {
            let pods = self.cluster.api::<Pod>(&self.namespace);
            let pods = pods.list(&ListParams::default()).await?.items;
            ensure!(pods.is_empty(), "{} pods", pods.len());
            Ok(())
        })
        .await
    }

    /// The state of a failed test's sandbox: pipelines, events, pods, and the last lines of their
    /// logs.
    async fn diagnosis(&self) -> String {
        let mut text = String::new();
        let rest = match self.describe(&mut text).await {
            Ok(()) => String::new(),
            Err(error) => format!("(the rest can't be read: {error:#})\n"),
        };
        format!("── state of {} ──\n{text}{rest}", self.namespace)
    }

    async fn describe(&self, text: &mut String) -> Result<()> {
        for pipeline in self
            .cluster
            .pipelines(&self.namespace)
            .list(&ListParams::default())
            .await?
        {
            writeln!(
                text,
                "pipeline {}: {}",
                pipeline.name_any(),
                pipeline.data["status"]
            )?;
        }
        for event in self
            .cluster
            .api::<Event>(&self.namespace)
            .list(&ListParams::default())
            .await?
        {
            let (object, message) = (event.involved_object.name, event.message);
            writeln!(
                text,
                "event {} {}: {}",
                object.unwrap_or_default(),
                event.reason.unwrap_or_default(),
                message.unwrap_or_default()
            )?;
        }
        self.logs(&self.namespace, 30, |_| true, text).await?;
        self.logs(
            "pinpipe-system",
            300,
            |line| line.contains(&self.namespace),
            text,
        )
        .await
    }

    async fn logs(
        &self,
        namespace: &str,
        lines: i64,
        shown: impl Fn(&str) -> bool,
        text: &mut String,
    ) -> Result<()> {
        let pods = self.cluster.api::<Pod>(namespace);
        for pod in pods.list(&ListParams::default()).await? {
            let name = pod.name_any();
            let status = pod.status.unwrap_or_default();
            let phase = status.phase.unwrap_or_default();
            for container in status.container_statuses.unwrap_or_default() {
                let state = serde_json::to_string(&container.state)?;
                writeln!(
                    text,
                    "pod {name}: {phase}, {} restarts, {state}",
                    container.restart_count
                )?;
                for previous in [true, false] {
                    if previous && container.restart_count == 0 {
                        continue;
                    }
                    let last = LogParams {
                        tail_lines: Some(lines),
                        previous,
                        ..LogParams::default()
                    };
                    match pods.logs(&name, &last).await {
                        Ok(log) => {
                            log.lines()
                                .filter(|line| shown(line))
                                .try_for_each(|line| writeln!(text, "    {line}"))?;
                        }
                        Err(error) => writeln!(text, "    no log: {error}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// The result of a deletion; an object that is gone already counts as deleted.
fn deleted<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
