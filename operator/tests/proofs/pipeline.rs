//! What a user does with pipelines.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use pinpipe_crds::PinterestPipeline;
use serde_json::{Value, json};

use crate::{lane::Lane, state::condition, world::until};

/// How long a pipeline may take to become what its spec says.
pub const SETTLES: Duration = Duration::from_secs(90);
/// For how long an operator that has nothing to do asks for nothing: longer than it waits for
/// events that come together.
pub const QUIET: Duration = Duration::from_millis(700);

/// A pipeline as its user has it.
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

    /// Gives it another spec, and other annotations.
    pub async fn replace(&self, annotations: &Value, spec: &Value) -> kube::Result<()> {
        // Nothing else of the resource is sent, so that whatever the operator writes meanwhile is
        // no conflict.
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

    /// Whether it is gone.
    pub async fn is_gone(&self) -> Result<()> {
        let found = self.api.get_opt(&self.name).await?;
        ensure!(
            found.is_none(),
            "it is there: {}",
            serde_json::to_string(&found)?
        );
        Ok(())
    }

    /// Whether it is ready, of its present generation.
    pub async fn is_ready(&self) -> Result<()> {
        self.says("Ready", "Ready").await
    }

    /// Whether a condition has this reason, of the present generation.
    pub async fn says(&self, type_: &str, reason: &str) -> Result<()> {
        let pipeline = self.get().await?;
        let (now, seen) = (
            &pipeline["metadata"]["generation"],
            &pipeline["status"]["observedGeneration"],
        );
        ensure!(now == seen, "generation {now}, and the status is of {seen}");
        let found = condition(&pipeline, type_)?;
        ensure!(found["reason"] == reason, "{found}");
        Ok(())
    }

    /// Waits until it is ready and its operator has nothing to do.
    pub async fn settles(&self, lane: &Lane) -> Result<()> {
        let what = format!(
            "pipeline {}/{} is ready and left alone",
            self.namespace, self.name
        );
        until(&what, SETTLES, async || {
            self.is_ready().await?;
            ensure!(lane.tap.is_quiet(QUIET), "the operator is at work");
            Ok(())
        })
        .await
        .with_context(|| lane.last_words())
    }
}
