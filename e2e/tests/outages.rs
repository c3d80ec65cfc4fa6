//! Broker, PostgreSQL, S3 and Cassandra away or slow while records flow: nothing acknowledged is
//! lost, what doesn't need the server goes on, conditions say what is wrong, memory doesn't grow
//! with the outage, and all is well again by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually,
    flow::Flow,
    load::{self, Measure, flows, live, raw},
    objects,
    outage::{slow, without},
    pipeline::READY_WITHIN,
    shared::in_space,
};

/// The environment's name for how long each server is away, and after that slow, and how long in
/// the short form, seconds.
const OUTAGE: (&str, u64) = ("PINPIPE_SOAK_OUTAGE", 10);
/// The workers that run all the time.
const COMPONENTS: [&str; 3] = ["ingest", "stream-live", "archive"];
/// The most memory one of them may ever have resident, bytes.
const FLAT: u64 = 64 << 20;

#[test]
fn a_server_that_is_away_costs_no_record_and_holds_up_nothing_else() -> Result<()> {
    in_space("outages", async |space| {
        let spec = Spec::new().live(space).archive(space, 100).batch(space);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let load = load::during(&mut flow, 13, async || outages(&pipeline).await).await?;
        ensure!(
            load.answers.contains_key(&503),
            "ingest never said that the broker was away: {load:?}"
        );
        ensure!(
            load.without_hint == 0,
            "{} answers 503 without Retry-After",
            load.without_hint
        );
        batch_without_cassandra(&pipeline).await?;
        batch_with_slow_cassandra(&pipeline).await?;
        for kind in Kind::ALL {
            flow.live_table_is_right(kind).await?;
            flow.raw_objects_are_right(kind).await?;
            flow.batch_table_is_right(kind).await?;
        }
        let restarts = restarts(&pipeline).await?;
        ensure!(
            restarts.values().all(|count| *count == 0),
            "workers were restarted: {restarts:?}"
        );
        memory_stayed_flat(&pipeline).await
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
    let cluster = &pipeline.space.cluster;
    flows(pipeline, &[live, raw]).await?;

    without(cluster, "postgres", async || {
        let begun = Instant::now();
        pipeline
            .says("StreamReady", "False", &["sink live"])
            .await?;
        lasts(begun, pipeline, &[raw]).await
    })
    .await?;
    pipeline.ready().await?;
    flows(pipeline, &[live, raw]).await?;

    without(cluster, "s3", async || {
        let begun = Instant::now();
        pipeline.says("ArchiveReady", "False", &[]).await?;
        lasts(begun, pipeline, &[live]).await
    })
    .await?;
    pipeline.ready().await?;
    flows(pipeline, &[live, raw]).await?;

    without(cluster, "kafka", async || {
        let begun = Instant::now();
        pipeline.says("Ready", "False", &[]).await?;
        lasts(begun, pipeline, &[]).await
    })
    .await?;
    pipeline.ready().await?;
    flows(pipeline, &[live, raw]).await?;

    for server in ["postgres", "s3", "kafka"] {
        slow(cluster, server, outage()?, async || {
            println!("{server} is slow");
            lasts(Instant::now(), pipeline, &[live, raw]).await
        })
        .await?;
        pipeline.ready().await?;
    }
    Ok(())
}

/// Keeps the outage up for as long as it shall last; what doesn't need the server must go on the
/// whole time.
async fn lasts(begun: Instant, pipeline: &Pipeline, measures: &[Measure]) -> Result<()> {
    let length = outage()?;
    eventually(
        length + Duration::from_mins(2),
        "the outage over",
        async || {
            flows(pipeline, measures).await?;
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

/// Starts a run without Cassandra; it waits for it.
async fn batch_without_cassandra(pipeline: &Pipeline) -> Result<()> {
    without(&pipeline.space.cluster, "cassandra", async || {
        pipeline.start_run("patient").await?;
        let folder = format!("runs/{}/", pipeline.full_name());
        eventually(READY_WITHIN, "the run's manifest", async || {
            let keys = objects::keys(&objects::client(), pipeline.space.bucket(), &folder).await?;
            ensure!(
                keys.iter().any(|key| key.ends_with("/manifest.json")),
                "{keys:?}"
            );
            Ok(())
        })
        .await
    })
    .await?;
    pipeline.run_ends("patient").await
}

/// A run whose store takes its time.
async fn batch_with_slow_cassandra(pipeline: &Pipeline) -> Result<()> {
    slow(
        &pipeline.space.cluster,
        "cassandra",
        outage()?,
        async || {
            pipeline.start_run("slow").await?;
            pipeline.run_ends("slow").await
        },
    )
    .await
}

/// What piles up in a worker while its server is away has a bound, and the load of a minute is far
/// above it.
async fn memory_stayed_flat(pipeline: &Pipeline) -> Result<()> {
    for component in COMPONENTS {
        for worker in pipeline.workers(component).await? {
            let peak = worker.peak_memory().await?;
            println!("{}: at most {} MiB resident", worker.pod, peak >> 20);
            ensure!(peak <= FLAT, "{} had {peak} bytes resident", worker.pod);
        }
    }
    Ok(())
}

/// How often each pod's container was restarted. One that used more memory than it may would have
/// been.
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
