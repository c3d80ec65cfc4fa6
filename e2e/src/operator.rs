//! The operator as the harness installs it: its replicas, its leader, and its Helm release.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{Cluster, eventually, finally, pipeline::READY_WITHIN};

/// The operator's namespace.
pub const NAMESPACE: &str = "pinpipe-system";
/// The name of the release, the Deployment and the Lease.
pub const RELEASE: &str = "pinpipe";
/// The current chart.
pub const CHART: &str = "../charts/pinpipe";

/// Runs `work` with two replicas of the operator, and scales back to one whether or not it
/// succeeds.
pub async fn with_standby(cluster: &Cluster, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    finally(
        async {
            scale(cluster, 2).await?;
            work().await
        },
        async |_| scale(cluster, 1).await,
    )
    .await
}

/// Changes the number of replicas, and waits until exactly that many are ready.
async fn scale(cluster: &Cluster, replicas: i32) -> Result<()> {
    let deployments = cluster.api::<Deployment>(NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments
        .patch(RELEASE, &PatchParams::default(), &patch)
        .await?;
    let what = format!("{replicas} replicas of the operator");
    eventually(READY_WITHIN, &what, async || {
        let status = deployments.get(RELEASE).await?.status.unwrap_or_default();
        let counts = (status.replicas, status.ready_replicas);
        ensure!(counts == (Some(replicas), Some(replicas)), "{counts:?}");
        let pods = pods(cluster).await?.len();
        ensure!(i32::try_from(pods)? == replicas, "{pods} pods");
        Ok(())
    })
    .await
}

/// The operator's pods by name.
pub async fn pods(cluster: &Cluster) -> Result<BTreeMap<String, Pod>> {
    let pods = cluster
        .api::<Pod>(NAMESPACE)
        .list(&ListParams::default())
        .await?;
    Ok(pods.into_iter().map(|pod| (pod.name_any(), pod)).collect())
}

/// The name of the pod that holds the Lease.
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

/// Runs helm, and returns its output.
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

/// The Helm release as the harness installed it.
pub struct Release {
    /// Tag of the operator's image.
    pub tag: String,
    values: Value,
}

impl Release {
    /// The values of the installed release.
    pub async fn installed() -> Result<Self> {
        let values = helm(&[
            "get",
            "values",
            RELEASE,
            "--namespace",
            NAMESPACE,
            "--output",
            "json",
        ])
        .await?;
        let values: Value = serde_json::from_str(&values)?;
        let tag = values["image"]["tag"]
            .as_str()
            .with_context(|| format!("the release has no image.tag: {values}"))?;
        Ok(Self {
            tag: tag.to_owned(),
            values,
        })
    }

    /// Upgrades the release to a chart and an image tag, or installs it.
    pub async fn upgrade(&self, chart: &str, tag: &str) -> Result<()> {
        let mut values = self.values.clone();
        values["image"]["tag"] = json!(tag);
        let values = values.to_string();
        let arguments = [
            "upgrade",
            "--install",
            RELEASE,
            chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--reset-values",
            "--set-json",
            &values,
        ];
        helm(&[&arguments[..], &["--wait", "--timeout", "180s"]].concat())
            .await
            .map(drop)
    }
}
