//! The `PinterestRuns` of a pipeline.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{Pipeline, eventually};

/// How long a run may take, those before it included.
const RUN_WITHIN: Duration = Duration::from_mins(6);

impl Pipeline {
    fn runs(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("pinpipe.dev", "v1alpha1", "PinterestRun");
        let resource = ApiResource::from_gvk(&kind);
        let namespace = &self.sandbox.namespace;
        Api::namespaced_with(self.sandbox.cluster.client(), namespace, &resource)
    }

    /// Statuses of all imports.
    pub async fn runs_that_import(&self) -> Result<Vec<Value>> {
        let runs = self.runs().list(&ListParams::default()).await?.items;
        let imports = runs
            .into_iter()
            .filter(|run| run.data["spec"]["import"].is_object());
        Ok(imports.map(|run| run.data["status"].clone()).collect())
    }

    /// Creates a run that does this.
    pub async fn create_run(&self, name: &str, action: Value) -> Result<()> {
        let mut spec = action;
        spec["pipelineRef"] = json!({"name": self.name});
        let run = json!({"apiVersion": "pinpipe.dev/v1alpha1", "kind": "PinterestRun",
            "metadata": {"name": name}, "spec": spec});
        let run = serde_json::from_value(run)?;
        self.runs().create(&PostParams::default(), &run).await?;
        Ok(())
    }

    /// Waits until the Job of a run is under way.
    pub async fn starts_run(&self, name: &str) -> Result<()> {
        let runs = self.runs();
        let what = format!("the run {name} under way");
        eventually(RUN_WITHIN, &what, async || {
            let status = runs.get(name).await?.data["status"].clone();
            ensure!(status["phase"] == "Running", "{status}");
            Ok(())
        })
        .await
    }

    /// Waits until a run has ended. Returns its status.
    pub async fn ended_run(&self, name: &str) -> Result<Value> {
        let runs = self.runs();
        let what = format!("the run {name} ended");
        eventually(RUN_WITHIN, &what, async || {
            let run = runs.get_opt(name).await?.context("it isn't there")?;
            let status = run.data["status"].clone();
            let phase = status["phase"].as_str().context("it has no phase")?;
            let has_ended = ["Succeeded", "Failed", "Refused"].contains(&phase);
            ensure!(has_ended, "{status}");
            Ok(status)
        })
        .await
    }

    /// Creates a run, and waits until it has succeeded. Returns its status.
    pub async fn run_succeeds(&self, name: &str, action: Value) -> Result<Value> {
        self.create_run(name, action).await?;
        let status = self.ended_run(name).await?;
        ensure!(status["phase"] == "Succeeded", "{name}: {status}");
        Ok(status)
    }

    /// Creates a run, and waits until it has failed. Returns its status.
    pub async fn run_fails(&self, name: &str, action: Value) -> Result<Value> {
        self.create_run(name, action).await?;
        let status = self.ended_run(name).await?;
        ensure!(status["phase"] == "Failed", "{name}: {status}");
        Ok(status)
    }

    /// Deletes a run, and waits until it is gone.
    pub async fn delete_run(&self, name: &str) -> Result<()> {
        let runs = self.runs();
        runs.delete(name, &DeleteParams::foreground()).await?;
        let what = format!("the run {name} gone");
        eventually(RUN_WITHIN, &what, async || {
            let left = runs.get_opt(name).await?;
            ensure!(left.is_none(), "{left:?}");
            Ok(())
        })
        .await
    }
}
