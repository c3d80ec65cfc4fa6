//! A test's own place: a namespace, and names nobody else uses in the shared stores.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, PostParams},
};
use rand::Rng;
use serde_json::{Value, json};

use crate::{Cluster, Pipeline, Spec, cassandra, cluster, eventually, kafka, postgres};

/// The label of a test's namespaces; its value is the test's name.
const LABEL: &str = "pinpipe.dev/e2e";

/// The Secret with PostgreSQL's URL.
pub const POSTGRES_SECRET: &str = "warehouse";
/// The Secret with the S3 server's keys.
pub const S3_SECRET: &str = "s3";

/// A namespace and what goes by its name.
#[derive(Clone)]
pub struct Space {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace, `e2e-<test>-<random>`; the bucket's name too.
    pub namespace: String,
}

impl Space {
    /// Removes what earlier runs of this test left, and makes a namespace with the Secrets a
    /// pipeline names.
    pub async fn begin(test: &str) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        for old in namespaces
            .list(&ListParams::default().labels(&format!("{LABEL}={test}")))
            .await?
        {
            Self {
                cluster: cluster.clone(),
                namespace: old.name_any(),
            }
            .end()
            .await?;
        }
        let space = Self {
            cluster,
            namespace: format!("e2e-{test}-{:05x}", rand::rng().random_range(0..0x10_0000)),
        };
        let namespace = json!({"metadata": {"name": space.namespace, "labels": {LABEL: test}}});
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(namespace)?)
            .await?;
        space
            .secret(
                POSTGRES_SECRET,
                json!({"url": cluster::POSTGRES_IN_CLUSTER}),
            )
            .await?;
        let (id, key) = cluster::S3_KEYS;
        space
            .secret(
                S3_SECRET,
                json!({"accessKeyId": id, "secretAccessKey": key}),
            )
            .await?;
        println!("namespace {}", space.namespace);
        Ok(space)
    }

    /// Runs a test in a space of its own. Passed: the space is removed. Failed: it stays, and what
    /// it looks like is printed.
    pub async fn with(test: &str, body: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let space = Self::begin(test).await?;
        match body(&space).await {
            Ok(()) => space.end().await,
            Err(error) => {
                println!("{}", space.diagnosis().await);
                Err(error)
            }
        }
    }

    /// Makes a Secret.
    pub async fn secret(&self, name: &str, values: Value) -> Result<()> {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name}, "stringData": values}))?;
        self.cluster
            .api::<Secret>(&self.namespace)
            .create(&PostParams::default(), &secret)
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

    /// Deletes the namespace, whatever is in it.
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
            space: self.clone(),
            name: name.to_owned(),
        }
    }

    /// Applies a pipeline.
    pub async fn apply(&self, name: &str, spec: &Spec) -> Result<Pipeline> {
        let pipeline = self.pipeline(name);
        pipeline.apply(spec).await?;
        Ok(pipeline)
    }

    /// Removes the pipelines, the namespace, and what was made in the stores under its name.
    pub async fn end(&self) -> Result<()> {
        let pipelines = self.cluster.pipelines(&self.namespace);
        for pipeline in pipelines.list(&ListParams::default()).await? {
            deleted(
                pipelines
                    .delete(&pipeline.name_any(), &DeleteParams::default())
                    .await,
            )?;
        }
        // Workers that still run would only write errors; and the operator must not make the topics
        // again.
        eventually(Duration::from_mins(1), "workers gone", async || {
            let pods = self
                .cluster
                .api::<Pod>(&self.namespace)
                .list(&ListParams::default())
                .await?
                .items;
            if pods.is_empty() {
                Ok(())
            } else {
                bail!("{} pods", pods.len())
            }
        })
        .await?;
        let namespaces: Api<Namespace> = Api::all(self.cluster.client());
        deleted(
            namespaces
                .delete(&self.namespace, &DeleteParams::background())
                .await,
        )?;
        kafka::delete_topics(&format!("{}.", self.namespace)).await?;
        postgres::drop_schema(&self.schema()).await?;
        cassandra::drop_keyspace(&self.keyspace()).await
    }

    /// What one wants to see when a test has failed: pipelines, pods, events, the last lines of
    /// every log.
    pub async fn diagnosis(&self) -> String {
        let mut text = String::new();
        let ended = match self.describe(&mut text).await {
            Ok(()) => String::new(),
            Err(error) => format!("(no more to be had: {error:#})\n"),
        };
        format!(
            "── {} is kept; what it looks like ──\n{text}{ended}",
            self.namespace
        )
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
        says: impl Fn(&str) -> bool,
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
                                .filter(|line| says(line))
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

/// What a deletion came to; what was gone already is deleted.
fn deleted<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
