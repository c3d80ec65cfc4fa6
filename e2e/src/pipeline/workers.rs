//! The workers of a pipeline: their pods, Deployments and processes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::READY_WITHIN;
use crate::{
    Pipeline, eventually,
    node::{self, Signal},
};

/// A container that runs a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its pod.
    pub pod: String,
    /// The node it runs on.
    pub node: String,
    container: String,
}

impl Worker {
    /// The first container of a pod, if it is running.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        container.state.as_ref()?.running.as_ref()?;
        Some(Self {
            pod: pod.name_any(),
            node: pod.spec.as_ref()?.node_name.clone()?,
            container: container.container_id.clone()?,
        })
    }

    /// Sends its process a signal.
    pub async fn send(&self, signal: Signal) -> Result<()> {
        node::signal(&self.node, &self.container, signal).await
    }

    /// Its peak resident memory, bytes.
    pub async fn peak_memory(&self) -> Result<u64> {
        node::peak_memory(&self.node, &self.container).await
    }
}

impl Pipeline {
    /// The pods of a component (`ingest`, `stream-live`, `archive`, `batch`).
    pub async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
            self.name
        );
        let pods = self
            .sandbox
            .cluster
            .api::<Pod>(&self.sandbox.namespace)
            .list(&ListParams::default().labels(&selector))
            .await?;
        Ok(pods.items)
    }

    /// The running workers of a component.
    pub async fn workers(&self, component: &str) -> Result<Vec<Worker>> {
        Ok(self
            .pods(component)
            .await?
            .iter()
            .filter_map(Worker::of)
            .collect())
    }

    /// Kills a worker of a component with SIGKILL, as soon as one runs.
    pub async fn kill(&self, component: &str) -> Result<Worker> {
        eventually(
            READY_WITHIN,
            &format!("SIGKILL to {component}"),
            async || {
                let worker = self
                    .workers(component)
                    .await?
                    .into_iter()
                    .next()
                    .context("no worker runs")?;
                worker.send(Signal::Kill).await?;
                Ok(worker)
            },
        )
        .await
    }

    /// Waits until a component has a ready container other than the killed one.
    pub async fn recovers(&self, component: &str, killed: &Worker) -> Result<()> {
        eventually(READY_WITHIN, &format!("{component} recovers"), async || {
            for pod in self.pods(component).await? {
                let containers = pod
                    .status
                    .unwrap_or_default()
                    .container_statuses
                    .unwrap_or_default();
                if containers
                    .iter()
                    .any(|c| c.ready && c.container_id.as_deref() != Some(&killed.container))
                {
                    return Ok(());
                }
            }
            bail!("no ready container")
        })
        .await
    }

    /// Deletes a worker's pod at once, without a grace period.
    pub async fn delete_pod(&self, worker: &Worker) -> Result<()> {
        self.delete_pod_within(worker, 0).await
    }

    /// Deletes a worker's pod, whose process may take `seconds` to end. Another pod takes its place
    /// at once.
    pub async fn delete_pod_within(&self, worker: &Worker, seconds: u32) -> Result<()> {
        let pods = self.sandbox.cluster.api::<Pod>(&self.sandbox.namespace);
        let params = DeleteParams::default().grace_period(seconds);
        match pods.delete(&worker.pod, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// The Deployments of the pipeline.
    pub async fn deployments(&self) -> Result<Vec<Deployment>> {
        let selector =
            ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.name));
        Ok(self
            .sandbox
            .cluster
            .api::<Deployment>(&self.sandbox.namespace)
            .list(&selector)
            .await?
            .items)
    }

    /// Desired and actual replicas of each Deployment.
    pub async fn replicas(&self) -> Result<BTreeMap<String, (i32, i32)>> {
        Ok(self
            .deployments()
            .await?
            .into_iter()
            .map(|d| {
                let desired = d.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                let actual = d
                    .status
                    .as_ref()
                    .and_then(|status| status.replicas)
                    .unwrap_or(0);
                (d.name_any(), (desired, actual))
            })
            .collect())
    }

    /// Scales the Deployment of a component, as an autoscaler does.
    pub async fn scale(&self, component: &str, pods: i32) -> Result<()> {
        let name = format!("{}-{component}", self.name);
        let patch = Patch::Merge(json!({"spec": {"replicas": pods}}));
        let deployments = self
            .sandbox
            .cluster
            .api::<Deployment>(&self.sandbox.namespace);
        deployments
            .patch_scale(&name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }
}
