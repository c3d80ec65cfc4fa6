//! Servers of the development stack: stopped and started again with their data, slowed down, and
//! checked for restarts.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Secret},
};
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{Cluster, eventually, finally, node};

/// The namespace of the development stack.
pub const NAMESPACE: &str = "devstack";
/// How long a server may take to stop or to start.
const SCALED_WITHIN: Duration = Duration::from_mins(3);
/// A restart within this time may explain why a test failed. No single wait of a test is longer.
const RECENT: TimeDelta = TimeDelta::minutes(10);

/// Stops a server (`kafka`, `postgres`, `s3`, `cassandra`) while `work` runs, and starts it again
/// whether or not `work` succeeds.
pub async fn while_stopped<T>(
    cluster: &Cluster,
    server: &str,
    work: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    finally(
        async {
            scale(cluster, server, 0).await?;
            work().await
        },
        async |_| scale(cluster, server, 1).await,
    )
    .await
}

/// Delays each answer of a server by about a second for `length`. Returns the result of `work` once
/// both are over.
pub async fn while_slow<T>(
    cluster: &Cluster,
    server: &str,
    length: Duration,
    work: impl AsyncFnOnce() -> Result<T>,
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
        .find(|status| status.name == server)
        .and_then(|status| status.container_id)
        .context("no container")?;
    let (slowed, result) = futures::join!(node::slow_down(&node, &id, length.as_secs()), work());
    slowed?;
    result
}

/// The Secret with the servers' certificates and passwords, which Kafka has mounted.
pub async fn certificates(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let kafka: Pod = cluster.api(NAMESPACE).get("kafka-0").await?;
    let volumes = kafka.spec.and_then(|spec| spec.volumes).unwrap_or_default();
    let volume = volumes.into_iter().find(|volume| volume.name == "tls");
    let name = volume
        .and_then(|volume| volume.secret?.secret_name)
        .context("Kafka has no certificate: bring up the servers with `cargo xtask stack`")?;
    let secret: Secret = cluster.api(NAMESPACE).get(&name).await?;
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(key, value)| Ok((key, String::from_utf8(value.0)?)))
        .collect()
}

async fn scale(cluster: &Cluster, server: &str, replicas: i32) -> Result<()> {
    let servers = cluster.api::<StatefulSet>(NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    servers
        .patch(server, &PatchParams::default(), &patch)
        .await?;
    let what = format!("{server} at {replicas}");
    eventually(SCALED_WITHIN, &what, async || {
        let status = servers.get(server).await?.status.unwrap_or_default();
        let (pods, ready) = (status.replicas, status.ready_replicas.unwrap_or(0));
        ensure!(
            pods == replicas && ready == replicas,
            "{pods} pods, {ready} ready"
        );
        Ok(())
    })
    .await
}

/// The containers of the development stack that ended and were restarted within the last minutes,
/// with time and reason. Servers stopped by [`while_stopped`] have new pods, and aren't among them.
pub async fn recent_restarts() -> Result<Vec<String>> {
    let pods = Cluster::connect().await?.api::<Pod>(NAMESPACE);
    let mut restarts = Vec::new();
    for pod in pods.list(&ListParams::default()).await? {
        let name = pod.name_any();
        let statuses = pod.status.and_then(|status| status.container_statuses);
        for container in statuses.unwrap_or_default() {
            let Some(ended) = container.last_state.and_then(|state| state.terminated) else {
                continue;
            };
            let Some(at) = ended.finished_at else {
                continue;
            };
            let at = DateTime::parse_from_rfc3339(&at.0.to_string())?.to_utc();
            if Utc::now() - at < RECENT {
                restarts.push(format!(
                    "{name} at {at}, {}",
                    ended
                        .reason
                        .unwrap_or_else(|| "without a reason".to_owned())
                ));
            }
        }
    }
    Ok(restarts)
}
