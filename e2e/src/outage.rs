//! Servers of the development stack: taken away and brought back with their data, or made slow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{Cluster, eventually, node};

const NAMESPACE: &str = "devstack";
/// How long a server may take to end or to start.
const WITHIN: Duration = Duration::from_mins(3);

/// Takes a server (`kafka`, `postgres`, `s3`, `cassandra`) away while `meanwhile` runs, and brings
/// it back whatever came of that.
pub async fn without<T>(
    cluster: &Cluster,
    server: &str,
    meanwhile: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let gone = scale(cluster, server, 0).await;
    let result = match gone {
        Ok(()) => meanwhile().await,
        Err(error) => Err(error),
    };
    scale(cluster, server, 1).await?;
    result
}

/// Has a server take about a second for every answer, for `length`; gives what `meanwhile` gave
/// once both are over.
pub async fn slow<T>(
    cluster: &Cluster,
    server: &str,
    length: Duration,
    meanwhile: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let pod: Pod = cluster.api(NAMESPACE).get(&format!("{server}-0")).await?;
    let node = pod
        .spec
        .and_then(|spec| spec.node_name)
        .context("no node")?;
    let statuses = pod
        .status
        .and_then(|status| status.container_statuses)
        .unwrap_or_default();
    let id = statuses
        .into_iter()
        .next()
        .and_then(|status| status.container_id)
        .context("no container")?;
    let (stuttered, result) =
        futures::join!(node::stutter(&node, &id, length.as_secs()), meanwhile());
    stuttered?;
    result
}

async fn scale(cluster: &Cluster, server: &str, replicas: i32) -> Result<()> {
    let servers = cluster.api::<StatefulSet>(NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    servers
        .patch(server, &PatchParams::default(), &patch)
        .await?;
    eventually(WITHIN, &format!("{server} at {replicas}"), async || {
        let status = servers.get(server).await?.status.unwrap_or_default();
        let (there, ready) = (status.replicas, status.ready_replicas.unwrap_or(0));
        ensure!(
            there == replicas && ready == replicas,
            "{there} pods, {ready} ready"
        );
        Ok(())
    })
    .await
}
