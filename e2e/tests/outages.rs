//! Kafka, PostgreSQL, S3 and Cassandra unavailable or slow while records flow: no acknowledged
//! record is lost, what doesn't need the server continues, conditions name what is wrong, memory
//! stays bounded, and the pipeline recovers without help.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec,
    devstack::{while_slow, while_stopped},
    eventually, kafka,
    ledger::Ledger,
    load::{self, Counter, grow, live_rows, raw_objects},
    node::Signal,
    objects,
    pipeline::READY_WITHIN,
    scenario::in_sandbox,
};
use serde_json::json;

/// How long each server is unavailable, and after that slow, seconds: environment variable and
/// default.
const OUTAGE: (&str, u64) = ("PINPIPE_SOAK_OUTAGE", 10);
/// The components that always run.
const COMPONENTS: [&str; 3] = ["ingest", "stream-live", "archive"];
/// The largest permitted peak of the resident memory of a worker, bytes.
const MEMORY: u64 = 64 << 20;
/// How long the object store is slow while an object is uploaded in parts.
const SLOW_UPLOAD: Duration = Duration::from_secs(20);

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

/// A worker is frozen while it uploads an object in parts, and resumes after its successor has
/// stored the same records: its completion of the upload must replace nothing.
#[test]
fn a_frozen_worker_s_upload_in_parts_replaces_nothing() -> Result<()> {
    in_sandbox("parts", async |sandbox| {
        let mut spec = Spec::new()
            .max_record_bytes(950_000)
            .archive(sandbox, 1_000_000);
        spec.0["broker"]["kafka"]["topics"]["partitions"] = json!(1);
        spec.0["archive"]["rotate"] = json!({"size": "72Mi", "interval": "10s"});
        spec.0["archive"]["template"]["resources"]["limits"] = json!({"memory": "1Gi"});
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let workers = pipeline.workers("archive").await?;
        let [frozen] = &workers[..] else {
            bail!("{workers:?}")
        };
        let topic = pipeline.topic(Kind::Geo);
        let folder = format!("topics/{topic}/");
        let records: Vec<_> = (1..=100)
            .map(|ind| {
                let raw = json!({"ind": ind, "padding": "x".repeat(900_000)}).to_string();
                (Some(ind.to_string().into_bytes()), raw.into_bytes())
            })
            .collect();
        while_slow(&sandbox.cluster, "s3", SLOW_UPLOAD, async || {
            kafka::write(&topic, &records).await?;
            eventually(READY_WITHIN, "an upload in parts", async || {
                let uploads = objects::uploads(sandbox.bucket()).await?;
                if uploads.is_empty() {
                    // The store is slow: asked for before, this would take the time to freeze.
                    let largest = objects::largest(sandbox.bucket(), &folder).await?;
                    bail!("no upload, and objects up to {largest} bytes");
                }
                Ok(())
            })
            .await?;
            frozen.send(Signal::Stop).await?;
            pipeline.delete_pod_within(frozen, 300).await
        })
        .await?;
        eventually(READY_WITHIN, "the successor's objects", async || {
            let (objects, stored) = objects::raw_count(sandbox.bucket(), "topics", &topic).await?;
            ensure!(stored == 100, "{stored} records in {objects} objects");
            Ok(())
        })
        .await?;
        let uploads = objects::uploads(sandbox.bucket()).await?;
        ensure!(
            !uploads.is_empty(),
            "the frozen worker's upload was complete"
        );
        frozen.send(Signal::Continue).await?;
        eventually(READY_WITHIN, "the frozen worker's end", async || {
            let workers = pipeline.workers("archive").await?;
            ensure!(!workers.contains(frozen), "{workers:?}");
            Ok(())
        })
        .await?;
        let lines = objects::raw_lines(sandbox.bucket(), "topics", &topic).await?;
        let stored: Vec<&[u8]> = lines.values().map(|line| &line.raw[..]).collect();
        let written: Vec<&[u8]> = records.iter().map(|(_, raw)| &raw[..]).collect();
        ensure!(stored == written, "{} lines", stored.len());
        let largest = objects::largest(sandbox.bucket(), &folder).await?;
        ensure!(largest > 64 << 20, "the largest object has {largest} bytes");
        let uploads = objects::uploads(sandbox.bucket()).await?;
        ensure!(uploads.is_empty(), "left behind: {uploads:?}");
        Ok(())
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
