//! A `PinterestPipeline` on the cluster: its spec, conditions and events.

mod children;
mod jobs;
mod runs;
mod workers;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

pub use self::{children::Child, workers::Worker};
use crate::{Kind, Sandbox, Spec, eventually};

/// How long a pipeline may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(150);

/// A pipeline by name.
#[derive(Clone)]
pub struct Pipeline {
    /// The sandbox it is in.
    pub sandbox: Sandbox,
    /// Its name.
    pub name: String,
}

impl Pipeline {
    /// `<namespace>.<name>`, the prefix of topics, groups and runs.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.sandbox.namespace, self.name)
    }

    /// The topic of a kind.
    #[must_use]
    pub fn topic(&self, kind: Kind) -> String {
        format!("{}.{kind}", self.full_name())
    }

    fn api(&self) -> Api<DynamicObject> {
        self.sandbox.cluster.pipelines(&self.sandbox.namespace)
    }

    fn manifest(&self, spec: &Spec) -> Value {
        json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": {"name": self.name, "namespace": self.sandbox.namespace},
            "spec": spec.0,
        })
    }

    /// Creates the pipeline, or changes it to this spec.
    pub async fn apply(&self, spec: &Spec) -> Result<()> {
        let apply = PatchParams::apply("e2e").force();
        self.api()
            .patch(&self.name, &apply, &Patch::Apply(self.manifest(spec)))
            .await?;
        Ok(())
    }

    /// Changes parts of the spec, by a JSON merge patch.
    pub async fn change(&self, spec: Value) -> Result<()> {
        self.api()
            .patch(
                &self.name,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await?;
        Ok(())
    }

    /// Sets an annotation.
    pub async fn annotate(&self, key: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.api()
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Deletes the pipeline.
    pub async fn delete(&self) -> Result<()> {
        self.api()
            .delete(&self.name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Deletes the pipeline and orphans its children.
    pub async fn orphan(&self) -> Result<()> {
        self.api()
            .delete(&self.name, &DeleteParams::orphan())
            .await?;
        Ok(())
    }

    /// The pipeline as it is now.
    pub async fn get(&self) -> Result<DynamicObject> {
        Ok(self.api().get(&self.name).await?)
    }

    /// The conditions by type. An error until the status is of the current generation.
    pub async fn conditions(&self) -> Result<BTreeMap<String, Value>> {
        let object = self.get().await?;
        let status = &object.data["status"];
        ensure!(
            status["observedGeneration"].as_i64() == object.metadata.generation,
            "generation {:?} is not observed yet: {status}",
            object.metadata.generation
        );
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions
            .into_iter()
            .map(|c| (c["type"].as_str().unwrap_or_default().to_owned(), c))
            .collect())
    }

    /// Waits until the pipeline is ready.
    pub async fn ready(&self) -> Result<()> {
        eventually(READY_WITHIN, &format!("{} ready", self.name), async || {
            let conditions = self.conditions().await?;
            ensure!(
                conditions
                    .get("Ready")
                    .is_some_and(|c| c["status"] == "True"),
                "{conditions:#?}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until a condition has this status, and its reason or message contains every one of
    /// `parts`.
    pub async fn has_condition(&self, condition: &str, status: &str, parts: &[&str]) -> Result<()> {
        eventually(
            READY_WITHIN,
            &format!("{}: {condition}={status} with {parts:?}", self.name),
            async || {
                let conditions = self.conditions().await?;
                let found = conditions
                    .get(condition)
                    .with_context(|| format!("no {condition} in {conditions:?}"))?;
                let text = format!("{} {}", found["reason"], found["message"]);
                ensure!(
                    found["status"] == status && parts.iter().all(|part| text.contains(part)),
                    "{found}"
                );
                Ok(())
            },
        )
        .await
    }

    /// The notes of the pipeline's events with this reason.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let selector = format!(
            "regarding.kind=PinterestPipeline,regarding.name={},reason={reason}",
            self.name
        );
        let events = self.sandbox.cluster.api::<Event>(&self.sandbox.namespace);
        let found = events
            .list(&ListParams::default().fields(&selector))
            .await?;
        Ok(found.into_iter().filter_map(|event| event.note).collect())
    }
}
