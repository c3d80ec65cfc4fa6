//! Batch runs: as resources, scheduled, both at once, one that can't start, and those that fail.

mod failures;
mod runs;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{ResourceExt as _, api::ListParams};
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, Spec, eventually, ledger::Ledger, pipeline::READY_WITHIN,
    samples::Samples, scenario::in_sandbox, throughout,
};
use serde_json::json;

/// How long the Job of the next minute may take to appear.
const NEXT_MINUTE: Duration = Duration::from_secs(90);
/// The annotation with the time for which the `CronJob` controller created a Job.
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// How long a batch run may take.
const RUN_WITHIN: Duration = Duration::from_mins(4);
/// A schedule that is due once a year.
const NEVER: &str = "0 10 1 1 *";

/// A pipeline with batch runs and some records.
async fn filled(sandbox: &Sandbox) -> Result<Ledger> {
    let pipeline = sandbox
        .apply("flow", &Spec::new().archive(sandbox, 100).batch(sandbox))
        .await?;
    pipeline.ready().await?;
    let mut ledger = Ledger::new(&pipeline);
    ledger
        .send(
            Kind::User,
            Samples::new(37).batch(Kind::User, 0..200, 0),
            100,
        )
        .await?;
    Ok(ledger)
}

/// The scheduled Jobs, with the time each was due.
async fn scheduled(pipeline: &Pipeline) -> Result<Vec<(String, DateTime<Utc>)>> {
    let selector =
        ListParams::default().labels(&format!("app.kubernetes.io/instance={}", pipeline.name));
    let jobs = pipeline
        .sandbox
        .cluster
        .api::<Job>(&pipeline.sandbox.namespace)
        .list(&selector)
        .await?;
    let due = |job: &Job| {
        Some((
            job.name_any(),
            DateTime::parse_from_rfc3339(job.annotations().get(DUE)?),
        ))
    };
    jobs.iter()
        .filter_map(due)
        .map(|(name, due)| Ok((name, due?.to_utc())))
        .collect()
}

#[test]
fn a_run_survives_the_removal_of_the_section() -> Result<()> {
    in_sandbox("requested", async |sandbox| {
        let ledger = filled(sandbox).await?;
        let pipeline = &ledger.pipeline;
        pipeline.create_run("first", json!({"batch": {}})).await?;
        pipeline.starts_run("first").await?;
        // Removing the section doesn't stop the run. The objects that the run needs are deleted
        // only after it.
        pipeline.change(json!({"batch": null})).await?;
        let first = pipeline.ended_run("first").await?;
        ensure!(first["phase"] == "Succeeded", "{first}");
        ledger.batch_table_is_right(Kind::User).await?;
        eventually(READY_WITHIN, "the objects of batch runs gone", async || {
            let children = pipeline.children().await?;
            let left: Vec<_> = children
                .keys()
                .filter(|id| id.contains("/flow-batch"))
                .collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        pipeline.create_run("second", json!({"batch": {}})).await?;
        let second = pipeline.ended_run("second").await?;
        let message = second["message"].as_str().unwrap_or_default();
        ensure!(
            second["phase"] == "Refused" && message.contains("spec.batch"),
            "{second}"
        );
        pipeline.ready().await
    })
}

#[test]
fn a_run_waits_for_a_scheduled_one() -> Result<()> {
    in_sandbox("turns", async |sandbox| {
        let ledger = filled(sandbox).await?;
        let pipeline = &ledger.pipeline;
        pipeline
            .change(json!({"batch": {"schedule": "* * * * *"}}))
            .await?;
        let by_schedule = eventually(NEXT_MINUTE, "the scheduled run", async || {
            scheduled(pipeline)
                .await?
                .pop()
                .map(|(name, _)| name)
                .context("no Job")
        })
        .await?;
        // Changing the schedule stops neither of them.
        pipeline
            .change(json!({"batch": {"schedule": NEVER}}))
            .await?;
        pipeline
            .create_run("meanwhile", json!({"batch": {}}))
            .await?;
        let requested = pipeline.ended_run("meanwhile").await?;
        let recorded = pipeline.ended_run(&by_schedule).await?;
        for run in [&requested, &recorded] {
            ensure!(run["phase"] == "Succeeded", "{run}");
        }
        let (end, start) = (&recorded["completionTime"], &requested["startTime"]);
        ensure!(end.as_str() <= start.as_str(), "{recorded} {requested}");
        ledger.batch_table_is_right(Kind::User).await?;
        pipeline.ready().await
    })
}

#[test]
fn a_run_missed_while_suspended_is_started_once() -> Result<()> {
    in_sandbox("missed", async |sandbox| {
        let ledger = filled(sandbox).await?;
        let pipeline = &ledger.pipeline;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline
            .has_condition("Suspended", "True", &["Suspended"])
            .await?;
        // At least 30 s from now, so that the CronJob is updated before it is due.
        let due = (Utc::now() + TimeDelta::seconds(90)).duration_trunc(TimeDelta::minutes(1))?;
        let schedule = due.format("%-M %-H %-d %-m *").to_string();
        pipeline
            .change(json!({"batch": {"schedule": schedule}}))
            .await?;
        eventually(READY_WITHIN, "the schedule in the CronJob", async || {
            let jobs = sandbox
                .cluster
                .api::<CronJob>(&sandbox.namespace)
                .get("flow-batch")
                .await?;
            let spec = jobs.spec.context("no spec")?;
            ensure!(
                spec.schedule == schedule && spec.suspend == Some(true),
                "{spec:?}"
            );
            Ok(())
        })
        .await?;
        let left = (due - Utc::now())
            .to_std()
            .context("the CronJob was updated too late")?;
        throughout(
            left + Duration::from_secs(10),
            "no run while the pipeline is suspended",
            async || {
                let runs = scheduled(pipeline).await?;
                ensure!(runs.is_empty(), "{runs:?}");
                Ok(())
            },
        )
        .await?;
        pipeline.change(json!({"suspend": false})).await?;
        let run = eventually(READY_WITHIN, "the missed run", async || {
            scheduled(pipeline).await?.pop().context("no Job")
        })
        .await?;
        ensure!(run.1 == due, "due at {due}, and not at {}", run.1);
        pipeline.job_completes(&run.0).await?;
        ledger.batch_table_is_right(Kind::User).await?;
        pipeline.ready().await?;
        let runs = scheduled(pipeline).await?;
        ensure!(runs == [run], "{runs:?}");
        Ok(())
    })
}

#[test]
fn a_run_that_cannot_start_is_reported_and_replaced_once_the_pipeline_is_corrected() -> Result<()> {
    in_sandbox("stuck", async |sandbox| {
        let ledger = filled(sandbox).await?;
        let pipeline = &ledger.pipeline;
        let memory = |memory: &str| json!({"memory": memory});
        let no_node_has = json!({"requests": memory("500Gi"), "limits": memory("500Gi")});
        let batch = json!({"schedule": "* * * * *", "template": {"resources": no_node_has}});
        pipeline.change(json!({"batch": batch})).await?;
        let reported = ["Unschedulable", "flow-batch-", "Insufficient memory"];
        pipeline
            .has_condition("BatchReady", "False", &reported)
            .await?;
        // Everything else works, and an unrelated change must not wait for the run.
        pipeline.ready().await?;
        let (stuck, _) = scheduled(pipeline).await?.pop().context("no Job")?;

        let corrected = json!({"requests": memory("16Mi"), "limits": null});
        pipeline
            .change(json!({"batch": {"template": {"resources": corrected}}}))
            .await?;
        eventually(READY_WITHIN, "the stuck run replaced", async || {
            let events = pipeline.events("RunReplaced").await?;
            ensure!(
                events.iter().any(|note| note.contains(&stuck)),
                "{events:?}"
            );
            Ok(())
        })
        .await?;
        let next = eventually(NEXT_MINUTE, "the next run", async || {
            let runs = scheduled(pipeline).await?;
            let next = runs.into_iter().find(|(name, _)| *name != stuck);
            next.context("no other Job")
        })
        .await?;
        pipeline
            .change(json!({"batch": {"schedule": NEVER}}))
            .await?;
        pipeline.job_completes(&next.0).await?;
        ledger.batch_table_is_right(Kind::User).await?;
        pipeline
            .has_condition("BatchReady", "True", &["Scheduled", "succeeded"])
            .await?;
        pipeline.ready().await
    })
}
