//! The operator as the harness installs it: how many there are, which one works, and its release.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{Cluster, eventually, pipeline::READY_WITHIN};

/// Its namespace.
pub const NAMESPACE: &str = "pinpipe-system";
/// The release's name, which is also the Deployment's and the Lease's.
pub const RELEASE: &str = "pinpipe";

/// Changes how many operators there are, and waits until that many are ready and no others.
pub async fn scale(cluster: &Cluster, replicas: i32) -> Result<()> {
    let deployments = cluster.api::<Deployment>(NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments
        .patch(RELEASE, &PatchParams::default(), &patch)
        .await?;
    eventually(READY_WITHIN, &format!("{replicas} operators"), async || {
        let status = deployments.get(RELEASE).await?.status.unwrap_or_default();
        let there = (status.replicas, status.ready_replicas);
        ensure!(there == (Some(replicas), Some(replicas)), "{there:?}");
        let pods = pods(cluster).await?.len();
        ensure!(i32::try_from(pods)? == replicas, "{pods} pods");
        Ok(())
    })
    .await
}

/// The operators' pods by name.
pub async fn pods(cluster: &Cluster) -> Result<BTreeMap<String, Pod>> {
    let pods = cluster
        .api::<Pod>(NAMESPACE)
        .list(&ListParams::default())
        .await?;
    Ok(pods.into_iter().map(|pod| (pod.name_any(), pod)).collect())
}

/// The name of the pod that works.
pub async fn leader(cluster: &Cluster) -> Result<String> {
    let lease = cluster.api::<Lease>(NAMESPACE).get(RELEASE).await?;
    let holder = lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .unwrap_or_default();
    let (pod, _) = holder
        .rsplit_once('_')
        .with_context(|| format!("the Lease is held by `{holder}`"))?;
    ensure!(
        pods(cluster).await?.contains_key(pod),
        "the Lease is still held by {pod}, which is gone"
    );
    Ok(pod.to_owned())
}

/// Runs helm, and gives what it printed.
pub async fn helm(arguments: &[&str]) -> Result<String> {
    let mut helm = Command::new("helm");
    helm.args(arguments);
    let output = tokio::task::spawn_blocking(move || helm.output())
        .await?
        .context("helm can't be run")?;
    ensure!(
        output.status.success(),
        "helm {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
