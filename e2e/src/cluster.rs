//! The Kubernetes cluster and the development stack's ports on this machine.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::{KubeConfigOptions, Kubeconfig},
};

/// Kafka, as this machine reaches it.
pub const KAFKA: &str = "127.0.0.1:39092";
/// PostgreSQL, as this machine reaches it.
pub const POSTGRES: &str = "postgresql://pinpipe:pinpipe@127.0.0.1:35432/pinpipe";
/// Cassandra, as this machine reaches it.
pub const CASSANDRA: &str = "127.0.0.1:39042";
/// The S3 server, as this machine reaches it.
pub const S3: &str = "http://127.0.0.1:39000";
/// Kafka, as pods reach it.
pub const KAFKA_IN_CLUSTER: &str = "kafka.devstack.svc:9092";
/// PostgreSQL, as pods reach it.
pub const POSTGRES_IN_CLUSTER: &str =
    "postgresql://pinpipe:pinpipe@postgres.devstack.svc:5432/pinpipe";
/// Cassandra, as pods reach it.
pub const CASSANDRA_IN_CLUSTER: &str = "cassandra.devstack.svc:9042";
/// The S3 server, as pods reach it.
pub const S3_IN_CLUSTER: &str = "http://s3.devstack.svc:9000";
/// The S3 server's credentials: access key id, secret access key.
pub const S3_KEYS: (&str, &str) = ("testkey", "testsecret");

/// How long the operator lets a suspended pipeline's sinks read on, as the harness installs it.
pub const DRAIN_DEADLINE: Duration = Duration::from_mins(1);
/// How long it tries to delete a pipeline's topics, as the harness installs it.
pub const DELETION_DEADLINE: Duration = Duration::from_mins(1);

/// A connection to the Kubernetes API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Connects by `KUBECONFIG`, or where it isn't set by the harness' own file.
    pub async fn connect() -> Result<Self> {
        let path = kubeconfig()?;
        let file = Kubeconfig::read_from(&path).with_context(|| {
            format!(
                "{} can't be read: start the cluster with `cargo xtask cluster up`",
                path.display()
            )
        })?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // An answer that says "try later" is something a test wants to see.
        config.default_retry = false;
        Ok(Self {
            client: Client::try_from(config)?,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Objects of a namespace.
    #[must_use]
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), namespace)
    }

    /// The `PinterestPipeline`s of a namespace.
    #[must_use]
    pub fn pipelines(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), namespace, &pipeline_resource())
    }
}

/// The resource under test, by name alone: a test writes what a user writes.
#[must_use]
pub fn pipeline_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(
        "pinpipe.dev",
        "v1alpha1",
        "PinterestPipeline",
    ))
}

fn kubeconfig() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KUBECONFIG") {
        return Ok(path.into());
    }
    Ok(cache()?.join("kubeconfig"))
}

/// The harness' folder.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PINPIPE_CACHE") {
        return Ok(PathBuf::from(path));
    }
    Ok(
        PathBuf::from(std::env::var_os("HOME").context("set HOME or PINPIPE_CACHE")?)
            .join(".cache/pinpipe"),
    )
}
