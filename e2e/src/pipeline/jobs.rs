//! The batch runs and other Jobs of a pipeline.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::api::{ListParams, LogParams, PostParams};
use serde_json::json;

use crate::{Pipeline, eventually};

/// How long a batch run may take.
const RUN_WITHIN: Duration = Duration::from_mins(4);

impl Pipeline {
    /// Starts a batch run, as `kubectl create job --from=cronjob/…` does.
    pub async fn start_run(&self, run: &str) -> Result<()> {
        let name = format!("{}-batch", self.name);
        let cron: CronJob = self
            .sandbox
            .cluster
            .api::<CronJob>(&self.sandbox.namespace)
            .get(&name)
            .await?;
        let template = cron
            .spec
            .as_ref()
            .map(|spec| spec.job_template.clone())
            .unwrap_or_default();
        let mut metadata = template.metadata.unwrap_or_default();
        metadata.name = Some(format!("{name}-{run}"));
        metadata.annotations.get_or_insert_default().insert(
            "cronjob.kubernetes.io/instantiate".to_owned(),
            "manual".to_owned(),
        );
        metadata.owner_references = Some(vec![serde_json::from_value(json!({
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "name": name,
            "uid": cron.metadata.uid,
            "controller": true,
        }))?]);
        let job = Job {
            metadata,
            spec: template.spec,
            ..Job::default()
        };
        self.sandbox
            .cluster
            .api::<Job>(&self.sandbox.namespace)
            .create(&PostParams::default(), &job)
            .await?;
        Ok(())
    }

    /// Waits until a batch run is complete; an error if it fails.
    pub async fn run_completes(&self, run: &str) -> Result<()> {
        self.job_completes(&format!("{}-batch-{run}", self.name))
            .await
    }

    /// What the pod of a complete batch run printed, its log lines included.
    pub async fn run_output(&self, run: &str) -> Result<String> {
        let pods = self.sandbox.cluster.api::<Pod>(&self.sandbox.namespace);
        let of_job = format!("batch.kubernetes.io/job-name={}-batch-{run}", self.name);
        let found = pods.list(&ListParams::default().labels(&of_job)).await?;
        let pod = found.items.iter().find(|pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Succeeded")
        });
        let name = pod.and_then(|pod| pod.metadata.name.as_deref());
        let name = name.with_context(|| format!("no pod of {of_job} has succeeded"))?;
        Ok(pods.logs(name, &LogParams::default()).await?)
    }

    /// Waits until a Job is complete; an error if it fails.
    pub async fn job_completes(&self, name: &str) -> Result<()> {
        let failed = self.job_ends(name).await?;
        failed.map_or(Ok(()), |message| bail!("Job {name} failed: {message}"))
    }

    /// Waits until a Job has ended. Returns why, if it has failed.
    async fn job_ends(&self, name: &str) -> Result<Option<String>> {
        let jobs = self.sandbox.cluster.api::<Job>(&self.sandbox.namespace);
        eventually(RUN_WITHIN, &format!("Job {name} complete"), async || {
            let status = jobs.get(name).await?.status.unwrap_or_default();
            let is = |kind: &str| {
                status
                    .conditions
                    .iter()
                    .flatten()
                    .find(|c| c.type_ == kind && c.status == "True")
                    .map(|c| c.message.clone())
            };
            if let Some(message) = is("Failed") {
                return Ok(Some(message.unwrap_or_default()));
            }
            is("Complete").with_context(|| format!("{status:?}"))?;
            Ok(None)
        })
        .await
    }
}
