//! Batch runs: asked for by an annotation, by schedule, and when they meet.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{
    ResourceExt as _,
    api::{ListParams, LogParams},
};
use pinpipe_e2e::{
    Kind, Pipeline, Space, Spec, eventually, flow::Flow, pipeline::READY_WITHIN, samples::Samples,
    shared::in_space, throughout,
};
use serde_json::json;

/// The next minute comes within this, and its Job.
const NEXT_MINUTE: Duration = Duration::from_secs(90);
/// When a Job was due, as the controller of `CronJob`s writes it.
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A schedule that never comes while a test runs.
const NEVER: &str = "0 10 1 1 *";

/// A pipeline with batch runs and records for them.
async fn filled(space: &Space) -> Result<Flow> {
    let pipeline = space
        .apply("flow", &Spec::new().archive(space, 100).batch(space))
        .await?;
    pipeline.ready().await?;
    let mut flow = Flow::new(&pipeline);
    flow.send(
        Kind::User,
        Samples::new(37).batch(Kind::User, 0..200, 0),
        100,
    )
    .await?;
    Ok(flow)
}

/// The Job that an annotation started.
async fn asked_for(pipeline: &Pipeline) -> Result<String> {
    eventually(READY_WITHIN, "the run that was asked for", async || {
        let told = pipeline.events("RunStarted").await?;
        let note = told.first().context("no event")?;
        Ok(note
            .split_whitespace()
            .nth(3)
            .unwrap_or_default()
            .to_owned())
    })
    .await
}

/// The Jobs that the schedule started, with the time each was due.
async fn scheduled(pipeline: &Pipeline) -> Result<Vec<(String, DateTime<Utc>)>> {
    let selector =
        ListParams::default().labels(&format!("app.kubernetes.io/instance={}", pipeline.name));
    let jobs = pipeline
        .space
        .cluster
        .api::<Job>(&pipeline.space.namespace)
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

/// Whether a pod of a Job said this.
async fn said(space: &Space, job: &str, words: &str) -> Result<bool> {
    let pods = space.cluster.api::<Pod>(&space.namespace);
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    for pod in pods.list(&of_job).await? {
        if pods
            .logs(&pod.name_any(), &LogParams::default())
            .await?
            .contains(words)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_batch_run_starts_by_an_annotation_once_and_outlives_its_section() -> Result<()> {
    in_space("asked", async |space| {
        let flow = filled(space).await?;
        let pipeline = &flow.pipeline;
        pipeline.annotate("pinpipe.dev/run-batch", "first").await?;
        let job = asked_for(pipeline).await?;
        // Taken away while it runs: the run goes on to its end, and only then what it needs is
        // taken away, too.
        pipeline.change(json!({"batch": null})).await?;
        pipeline.job_ends(&job).await?;
        flow.batch_table_is_right(Kind::User).await?;
        eventually(READY_WITHIN, "the schedule gone", async || {
            let children = pipeline.children().await?;
            let left: Vec<_> = children
                .keys()
                .filter(|id| id.contains("/flow-batch"))
                .collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        pipeline.annotate("pinpipe.dev/run-batch", "second").await?;
        pipeline
            .says("Ready", "False", &["InvalidRun", "spec.batch"])
            .await?;
        pipeline
            .apply(&Spec::new().archive(space, 100).batch(space))
            .await?;
        pipeline.ready().await?;
        let told = eventually(READY_WITHIN, "the second run", async || {
            let told = pipeline.events("RunStarted").await?;
            ensure!(told.len() == 2, "{told:?}");
            Ok(told)
        })
        .await?;
        // By now nothing but the status knows of the first one.
        pipeline.annotate("pinpipe.dev/run-batch", "first").await?;
        throughout(
            Duration::from_secs(15),
            "a word starts one run",
            async || {
                let now = pipeline.events("RunStarted").await?;
                ensure!(now == told, "{now:?}");
                Ok(())
            },
        )
        .await?;
        pipeline.ready().await?;
        let requested = pipeline.get().await?.data["status"]["batch"]["lastRequested"].clone();
        ensure!(requested == "second", "{requested}");
        Ok(())
    })
}

#[test]
fn a_run_that_is_asked_for_and_a_scheduled_one_take_turns() -> Result<()> {
    in_space("turns", async |space| {
        let flow = filled(space).await?;
        let pipeline = &flow.pipeline;
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
        pipeline
            .annotate("pinpipe.dev/run-batch", "meanwhile")
            .await?;
        let by_hand = asked_for(pipeline).await?;
        // The schedule is taken back while both are there, and ends neither.
        pipeline
            .change(json!({"batch": {"schedule": NEVER}}))
            .await?;
        pipeline.job_ends(&by_schedule).await?;
        pipeline.job_ends(&by_hand).await?;
        let waits = "another holds the Lease, waiting";
        let waited = [
            said(space, &by_schedule, waits).await?,
            said(space, &by_hand, waits).await?,
        ];
        ensure!(
            waited[0] != waited[1],
            "one of both waits for the other: {waited:?}"
        );
        flow.batch_table_is_right(Kind::User).await?;
        pipeline.ready().await
    })
}

#[test]
fn a_run_missed_while_suspended_is_made_up_for_once() -> Result<()> {
    in_space("missed", async |space| {
        let flow = filled(space).await?;
        let pipeline = &flow.pipeline;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline.says("Suspended", "True", &["Suspended"]).await?;
        // Far enough away for the schedule to be there before it comes.
        let due = (Utc::now() + TimeDelta::seconds(90)).duration_trunc(TimeDelta::minutes(1))?;
        let schedule = due.format("%-M %-H %-d %-m *").to_string();
        pipeline
            .change(json!({"batch": {"schedule": schedule}}))
            .await?;
        eventually(READY_WITHIN, "the schedule is there", async || {
            let jobs = space
                .cluster
                .api::<CronJob>(&space.namespace)
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
            .context("the schedule came too late")?;
        throughout(
            left + Duration::from_secs(10),
            "nothing runs while the pipeline is suspended",
            async || {
                let runs = scheduled(pipeline).await?;
                ensure!(runs.is_empty(), "{runs:?}");
                Ok(())
            },
        )
        .await?;
        pipeline.change(json!({"suspend": false})).await?;
        let run = eventually(READY_WITHIN, "the run that was missed", async || {
            scheduled(pipeline).await?.pop().context("no Job")
        })
        .await?;
        ensure!(run.1 == due, "due at {due}, and not at {}", run.1);
        pipeline.job_ends(&run.0).await?;
        flow.batch_table_is_right(Kind::User).await?;
        pipeline.ready().await?;
        let runs = scheduled(pipeline).await?;
        ensure!(runs == [run], "{runs:?}");
        Ok(())
    })
}
