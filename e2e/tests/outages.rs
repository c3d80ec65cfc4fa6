//! Kafka, PostgreSQL, S3 and Cassandra unavailable or slow while records flow: no acknowledged
//! record is lost, what doesn't need the server continues, conditions name what is wrong, memory
//! stays bounded, and the pipeline recovers without help.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec,
    devstack::{while_slow, while_stopped},
    eventually,
    ledger::Ledger,
    load::{self, Counter, grow, live_rows, raw_objects},
    objects,
    pipeline::READY_WITHIN,
    scenario::in_sandbox,
};

/// How long each server is unavailable, and after that slow, seconds: environment variable and
/// default.
const OUTAGE: (&str, u64) = ("PINPIPE_SOAK_OUTAGE", 10);
/// The components that always run.
const COMPONENTS: [&str; 3] = ["ingest", "stream-live", "archive"];
/// The largest permitted peak of the resident memory of a worker, bytes.
const MEMORY: u64 = 64 << 20;

#[test]
fn an_unavailable_server_costs_no_record_and_blocks_nothing_else() -> Result<()> {
    in_sandbox("outages", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .archive(sandbox, 100)
            .batch(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let load = load::during(&mut ledger, 13, async || outages(&pipeline).await).await?;
        ensure!(
            load.answers.contains_key(&503),
            "ingest never answered 503 while Kafka was stopped: {load:?}"
        );
        ensure!(
            load.without_hint == 0,
            "{} responses 503 without Retry-After",
            load.without_hint
        );
        batch_without_cassandra(&pipeline).await?;
        batch_with_slow_cassandra(&pipeline).await?;
        for kind in Kind::ALL {
            ledger.live_table_is_right(kind).await?;
            ledger.raw_objects_are_right(kind).await?;
            ledger.batch_table_is_right(kind).await?;
        }
        let restarts = restarts(&pipeline).await?;
        ensure!(
            restarts.values().all(|count| *count == 0),
            "workers were restarted: {restarts:?}"
        );
        memory_stayed_bounded(&pipeline).await
    })
}

fn outage() -> Result<Duration> {
    let seconds = match std::env::var(OUTAGE.0) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{} is {text:?}, not a number of seconds", OUTAGE.0))?,
        Err(_) => OUTAGE.1,
    };
    Ok(Duration::from_secs(seconds))
}

async fn outages(pipeline: &Pipeline) -> Result<()> {
    let cluster = &pipeline.sandbox.cluster;
    grow(pipeline, &[live_rows, raw_objects]).await?;

    while_stopped(cluster, "postgres", async || {
        let stopped = Instant::now();
        pipeline
            .has_condition("StreamReady", "False", &["sink live"])
            .await?;
        lasts(stopped, pipeline, &[raw_objects]).await
    })
    .await?;
    pipeline.ready().await?;
    grow(pipeline, &[live_rows, raw_objects]).await?;

    while_stopped(cluster, "s3", async || {
        let stopped = Instant::now();
        pipeline.has_condition("ArchiveReady", "False", &[]).await?;
        lasts(stopped, pipeline, &[live_rows]).await
    })
    .await?;
    pipeline.ready().await?;
    grow(pipeline, &[live_rows, raw_objects]).await?;

    while_stopped(cluster, "kafka", async || {
        let stopped = Instant::now();
        pipeline.has_condition("Ready", "False", &[]).await?;
        lasts(stopped, pipeline, &[]).await
    })
    .await?;
    pipeline.ready().await?;
    grow(pipeline, &[live_rows, raw_objects]).await?;

    for server in ["postgres", "s3", "kafka"] {
        while_slow(cluster, server, outage()?, async || {
            println!("{server} is slow");
            lasts(Instant::now(), pipeline, &[live_rows, raw_objects]).await
        })
        .await?;
        pipeline.ready().await?;
    }
    Ok(())
}

/// Waits until the outage has lasted its time. The stores that don't need the server must grow all
/// the while.
async fn lasts(begun: Instant, pipeline: &Pipeline, growing: &[Counter]) -> Result<()> {
    let length = outage()?;
    eventually(
        length + Duration::from_mins(2),
        "the outage over",
        async || {
            grow(pipeline, growing).await?;
            ensure!(
                begun.elapsed() >= length,
                "{:?} of {length:?}",
                begun.elapsed()
            );
            Ok(())
        },
    )
    .await
}

/// Starts a run while Cassandra is stopped. The run must wait for it.
async fn batch_without_cassandra(pipeline: &Pipeline) -> Result<()> {
    while_stopped(&pipeline.sandbox.cluster, "cassandra", async || {
        pipeline.start_run("without-cassandra").await?;
        let folder = format!("runs/{}/", pipeline.full_name());
        eventually(READY_WITHIN, "the run's manifest", async || {
            let keys =
                objects::keys(&objects::client(), pipeline.sandbox.bucket(), &folder).await?;
            ensure!(
                keys.iter().any(|key| key.ends_with("/manifest.json")),
                "{keys:?}"
            );
            Ok(())
        })
        .await
    })
    .await?;
    pipeline.run_completes("without-cassandra").await
}

/// Completes a run while Cassandra is slow.
async fn batch_with_slow_cassandra(pipeline: &Pipeline) -> Result<()> {
    while_slow(
        &pipeline.sandbox.cluster,
        "cassandra",
        outage()?,
        async || {
            pipeline.start_run("slow").await?;
            pipeline.run_completes("slow").await
        },
    )
    .await
}

/// A worker buffers a bounded number of records while its store is unavailable. The load of a
/// minute is far above that.
async fn memory_stayed_bounded(pipeline: &Pipeline) -> Result<()> {
    for component in COMPONENTS {
        for worker in pipeline.workers(component).await? {
            let peak = worker.peak_memory().await?;
            println!("{}: peak of {} MiB resident", worker.pod, peak >> 20);
            ensure!(
                peak <= MEMORY,
                "{} had a peak of {peak} bytes resident",
                worker.pod
            );
        }
    }
    Ok(())
}

/// The restarts of each pod's container: one that exceeds its memory limit is restarted.
async fn restarts(pipeline: &Pipeline) -> Result<BTreeMap<String, i32>> {
    let mut restarts = BTreeMap::new();
    for component in COMPONENTS {
        for pod in pipeline.pods(component).await? {
            let statuses = pod
                .status
                .unwrap_or_default()
                .container_statuses
                .unwrap_or_default();
            let count = statuses.iter().map(|status| status.restart_count).sum();
            restarts.insert(pod.metadata.name.unwrap_or_default(), count);
        }
    }
    Ok(restarts)
}
