//! A pipeline and what its user does with it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use pinpipe_crds::PinterestPipeline;
use serde_json::{Value, json};

use crate::{operator::Operator, snapshot::condition, wait::until};

/// How long a pipeline may take to settle.
pub const SETTLES: Duration = Duration::from_secs(90);
/// An operator is idle after this time without a request. Longer than its debounce of watch events.
pub const QUIET: Duration = Duration::from_millis(700);

/// A pipeline by namespace and name.
#[derive(Clone)]
pub struct Pipeline {
    api: Api<DynamicObject>,
    pub namespace: String,
    pub name: String,
}

impl Pipeline {
    pub fn new(client: &Client, namespace: &str, name: &str) -> Self {
        let api = Api::namespaced_with(
            client.clone(),
            namespace,
            &ApiResource::erase::<PinterestPipeline>(&()),
        );
        Self {
            api,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub async fn create(&self, spec: &Value) -> Result<()> {
        let body = crate::specs::pipeline(&self.namespace, &self.name, &json!({}), spec);
        self.api
            .create(&PostParams::default(), &serde_json::from_value(body)?)
            .await?;
        Ok(())
    }

    /// Replaces spec and annotations.
    pub async fn replace(&self, annotations: &Value, spec: &Value) -> kube::Result<()> {
        // A JSON patch of these fields alone can't conflict with writes of the operator.
        let patch = json!([
            {"op": "replace", "path": "/spec", "value": spec},
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
        ]);
        let patch: Patch<()> =
            Patch::Json(serde_json::from_value(patch).map_err(kube::Error::SerdeError)?);
        self.api
            .patch(&self.name, &PatchParams::default(), &patch)
            .await
            .map(drop)
    }

    pub async fn annotate(&self, key: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.api
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    pub async fn delete(&self) -> Result<()> {
        self.api
            .delete(&self.name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    pub async fn get(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.api.get(&self.name).await?)?)
    }

    /// An error if the pipeline still exists.
    pub async fn is_gone(&self) -> Result<()> {
        let found = self.api.get_opt(&self.name).await?;
        ensure!(
            found.is_none(),
            "it still exists: {}",
            serde_json::to_string(&found)?
        );
        Ok(())
    }

    /// An error unless the pipeline is ready in its current generation.
    pub async fn is_ready(&self) -> Result<()> {
        self.has_reason("Ready", "Ready").await
    }

    /// An error unless a condition has this reason in the current generation.
    pub async fn has_reason(&self, type_: &str, reason: &str) -> Result<()> {
        let pipeline = self.get().await?;
        let (current, observed) = (
            &pipeline["metadata"]["generation"],
            &pipeline["status"]["observedGeneration"],
        );
        ensure!(
            current == observed,
            "generation {current}, and the status is of {observed}"
        );
        let found = condition(&pipeline, type_)?;
        ensure!(found["reason"] == reason, "{found}");
        Ok(())
    }

    /// Waits until the pipeline is ready and its operator idle.
    pub async fn settle(&self, operator: &Operator) -> Result<()> {
        let what = format!("pipeline {}/{} settled", self.namespace, self.name);
        until(&what, SETTLES, async || {
            self.is_ready().await?;
            ensure!(operator.traffic.is_quiet(QUIET), "the operator is busy");
            Ok(())
        })
        .await
        .with_context(|| operator.log_end())
    }
}
