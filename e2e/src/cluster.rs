//! The Kubernetes cluster, and the addresses of the development stack.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::{KubeConfigOptions, Kubeconfig},
};

/// Address of Kafka from this machine.
pub const KAFKA: &str = "127.0.0.1:29092";
/// URL of PostgreSQL from this machine.
pub const POSTGRES: &str = "postgresql://pinpipe:pinpipe@127.0.0.1:25432/pinpipe";
/// Address of Cassandra from this machine.
pub const CASSANDRA: &str = "127.0.0.1:29042";
/// URL of the S3 server from this machine.
pub const S3: &str = "http://127.0.0.1:29000";
/// Address of Kafka from pods.
pub const KAFKA_IN_CLUSTER: &str = "kafka.devstack.svc:9092";
/// URL of PostgreSQL from pods.
pub const POSTGRES_IN_CLUSTER: &str =
    "postgresql://pinpipe:pinpipe@postgres.devstack.svc:5432/pinpipe";
/// Address of Cassandra from pods.
pub const CASSANDRA_IN_CLUSTER: &str = "cassandra.devstack.svc:9042";
/// URL of the S3 server from pods.
pub const S3_IN_CLUSTER: &str = "http://s3.devstack.svc:9000";
/// Address of Kafka from pods, with TLS and SASL.
pub const KAFKA_TLS_IN_CLUSTER: &str = "kafka.devstack.svc:9095";
/// URL of the S3 server from pods, with TLS.
pub const S3_TLS_IN_CLUSTER: &str = "https://s3.devstack.svc:9443";
/// The S3 server's credentials: access key id, secret access key.
pub const S3_KEYS: (&str, &str) = ("testkey", "testsecret");

/// The `drainDeadline` of every pipeline: how long its sinks may take to read the rest once it is
/// suspended.
pub const DRAIN_DEADLINE: Duration = Duration::from_mins(1);
/// The operator's deletion deadline (xtask/src/operator.rs): how long it retries to delete the
/// topics of a deleted pipeline.
pub const DELETION_DEADLINE: Duration = Duration::from_mins(1);

/// A connection to the Kubernetes API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Connects by the file that `KUBECONFIG` names, or else by the harness's own.
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
        // Tests must see responses such as 429 and 503.
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

    /// The API of a kind of object in a namespace.
    #[must_use]
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), namespace)
    }

    /// The API of the `PinterestPipeline`s in a namespace.
    #[must_use]
    pub fn pipelines(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), namespace, &pipeline_resource())
    }
}

/// The resource under test. It is untyped, so that tests write the same JSON as users.
#[must_use]
pub fn pipeline_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(
        "pinpipe.dev",
        "v1alpha1",
        "PinterestPipeline",
    ))
}

/// The kubeconfig that `KUBECONFIG` names, or else the harness's own.
pub fn kubeconfig() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KUBECONFIG") {
        return Ok(path.into());
    }
    Ok(cache()?.join("kubeconfig"))
}

/// The harness's folder.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PINPIPE_CACHE") {
        return Ok(PathBuf::from(path));
    }
    Ok(
        PathBuf::from(std::env::var_os("HOME").context("set HOME or PINPIPE_CACHE")?)
            .join(".cache/pinpipe"),
    )
}
