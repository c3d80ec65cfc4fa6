//! Batch runs that fail: which pods the Job controller counts as failures, and what is reported.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{ResourceExt, api::EvictParams};
use pinpipe_e2e::{
    Kind, Pipeline, eventually, pipeline::READY_WITHIN, samples::Samples, scenario::in_sandbox,
};
use serde_json::json;

use super::{NEVER, RUN_WITHIN, filled};

/// Waits until a run has failed; returns the reason and how many of its pods count as failures.
async fn failed(pipeline: &Pipeline, run: &str) -> Result<(String, i32)> {
    let sandbox = &pipeline.sandbox;
    let jobs = sandbox.cluster.api::<Job>(&sandbox.namespace);
    let name = format!("{}-batch-{run}", pipeline.name);
    eventually(RUN_WITHIN, &format!("{name} failed"), async || {
        let status = jobs.get(&name).await?.status.context("no status")?;
        let failed = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Failed" && condition.status == "True");
        let reason = failed.and_then(|failed| failed.reason.clone());
        Ok((
            reason.with_context(|| format!("{status:?}"))?,
            status.failed.unwrap_or(0),
        ))
    })
    .await
}

/// Waits until a run's pod works, other than the pod called `not`.
async fn working(pipeline: &Pipeline, run: &str, not: &str) -> Result<String> {
    let name = format!("{}-batch-{run}", pipeline.name);
    eventually(READY_WITHIN, "a pod of the run that works", async || {
        let pods = pipeline.pods("batch").await?;
        let works = |pod: &&Pod| {
            let job = pod.labels().get("batch.kubernetes.io/job-name");
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            job == Some(&name) && phase == Some("Running") && pod.name_any() != not
        };
        let pod = pods.iter().find(works).map(ResourceExt::name_any);
        pod.with_context(|| format!("{:?}", pods.iter().map(|pod| &pod.status)))
    })
    .await
}

#[test]
fn data_over_a_quality_limit_fails_a_run_at_its_first_pod() -> Result<()> {
    in_sandbox("quality", async |sandbox| {
        let ledger = filled(sandbox).await?;
        let pipeline = &ledger.pipeline;
        // Some of the samples have an age that is out of range.
        let limit = json!({"maxRepaired": [{"field": "age", "limit": "0%"}]});
        pipeline
            .change(json!({"batch": {"quality": limit}}))
            .await?;
        pipeline.ready().await?;
        pipeline.start_run("strict").await?;
        let (reason, pods) = failed(pipeline, "strict").await?;
        ensure!(
            reason == "PodFailurePolicy" && pods == 1,
            "{reason}, {pods} pods failed"
        );
        let reported = ["spec.batch.quality", "maxRepaired of age"];
        pipeline
            .has_condition("BatchReady", "False", &reported)
            .await?;
        pipeline.ready().await?;

        pipeline.change(json!({"batch": {"quality": null}})).await?;
        pipeline.ready().await?;
        pipeline.start_run("lenient").await?;
        pipeline.run_completes("lenient").await?;
        ledger.batch_table_is_right(Kind::User).await?;
        pipeline
            .has_condition("BatchReady", "True", &["succeeded"])
            .await
    })
}

#[test]
fn an_evicted_pod_is_no_failure_and_the_deadline_ends_a_run_that_waits() -> Result<()> {
    in_sandbox("evicted", async |sandbox| {
        let mut ledger = filled(sandbox).await?;
        let pipeline = ledger.pipeline.clone();
        pipeline
            .change(json!({"batch": {"deadline": "1m", "schedule": NEVER}}))
            .await?;
        pipeline.ready().await?;
        // A run waits for the archive, which nobody starts again while the pipeline is paused.
        pipeline.annotate("pinpipe.dev/paused", "true").await?;
        pipeline
            .has_condition("Ready", "Unknown", &["Paused"])
            .await?;
        pipeline.scale("archive", 0).await?;
        eventually(READY_WITHIN, "no archive", async || {
            let pods = pipeline.pods("archive").await?;
            ensure!(pods.is_empty(), "{} pods", pods.len());
            Ok(())
        })
        .await?;
        let more = Samples::new(38).batch(Kind::User, 200..300, 0);
        ledger.send(Kind::User, more, 100).await?;

        pipeline.start_run("waits").await?;
        let first = working(&pipeline, "waits", "").await?;
        let pods = sandbox.cluster.api::<Pod>(&sandbox.namespace);
        pods.evict(&first, &EvictParams::default()).await?;
        working(&pipeline, "waits", &first).await?;
        let (reason, pods) = failed(&pipeline, "waits").await?;
        ensure!(reason == "DeadlineExceeded", "{reason}, {pods} pods failed");

        pipeline.annotate("pinpipe.dev/paused", "false").await?;
        pipeline
            .has_condition("BatchReady", "False", &["spec.batch.deadline"])
            .await?;
        pipeline.ready().await?;
        pipeline.start_run("works").await?;
        pipeline.run_completes("works").await?;
        ledger.batch_table_is_right(Kind::User).await
    })
}
