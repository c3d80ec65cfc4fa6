//! Workers that are killed and frozen while they work lose no record and store none twice.
//!
//! `cargo xtask soak` runs this for long; `cargo xtask test` runs the short form.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually, kafka, ledger::Ledger, load, node::Signal, objects,
    pipeline::READY_WITHIN, scenario::in_sandbox,
};
use serde_json::json;

/// How many times workers are killed: environment variable and default.
const KILLS: (&str, usize) = ("PINPIPE_SOAK_KILLS", 10);
/// How many times workers are frozen.
const FREEZES: (&str, usize) = ("PINPIPE_SOAK_FREEZES", 2);
/// How many batch runs are killed.
const KILLED_RUNS: (&str, usize) = ("PINPIPE_SOAK_RUNS", 1);
/// The replicas of the live sink in the three phases of the test.
const REPLICAS: [usize; 3] = [1, 3, 1];
/// The components killed in turn.
const VICTIMS: [&str; 5] = ["stream-live", "archive", "stream-live", "archive", "ingest"];
/// How long the consumer group may take to expel a frozen member.
const EXPELLED_WITHIN: Duration = Duration::from_secs(40);

fn times((name, short): (&str, usize)) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is {text:?}, not a number")),
        Err(_) => Ok(short),
    }
}

#[test]
fn killed_and_frozen_workers_lose_no_record_and_store_none_twice() -> Result<()> {
    in_sandbox("kills", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .archive(sandbox, 50)
            .batch(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        load::during(&mut ledger, 11, async || disturb(&pipeline, &spec).await).await?;
        for run in 0..times(KILLED_RUNS)? {
            kill_a_run(&pipeline, &format!("killed-{run}")).await?;
        }
        for kind in Kind::ALL {
            ledger.live_table_is_right(kind).await?;
            ledger.raw_objects_are_right(kind).await?;
            ledger.batch_table_is_right(kind).await?;
        }
        Ok(())
    })
}

/// Kills and freezes workers while the live sink is scaled up and down.
async fn disturb(pipeline: &Pipeline, spec: &Spec) -> Result<()> {
    let (kills, freezes) = (times(KILLS)?, times(FREEZES)?);
    let (mut killed, mut frozen) = (0, 0);
    for (n, replicas) in REPLICAS.into_iter().enumerate() {
        scale(pipeline, spec, replicas).await?;
        for victim in VICTIMS
            .into_iter()
            .cycle()
            .skip(killed)
            .take(kills * (n + 1) / REPLICAS.len() - killed)
        {
            kill(pipeline, victim).await?;
            killed += 1;
        }
        // Only with other members in its group can a frozen worker resume when its partitions are
        // assigned to another one.
        let due = if replicas > 1 { freezes } else { 0 };
        for _ in 0..due {
            freeze(pipeline, "stream-live", replicas).await?;
            frozen += 1;
        }
    }
    println!("{killed} kills and {frozen} freezes survived");
    Ok(())
}

async fn scale(pipeline: &Pipeline, spec: &Spec, replicas: usize) -> Result<()> {
    let mut spec = spec.clone();
    spec.0["stream"]["sinks"][0]["replicas"] = json!(replicas);
    pipeline.apply(&spec).await?;
    eventually(
        READY_WITHIN,
        &format!("{replicas} live workers"),
        async || {
            let workers = pipeline.workers("stream-live").await?;
            ensure!(workers.len() == replicas, "{workers:?}");
            Ok(())
        },
    )
    .await?;
    pipeline.ready().await
}

/// Kills a worker of a component while it writes, and waits until another one is ready.
async fn kill(pipeline: &Pipeline, component: &str) -> Result<()> {
    is_writing(pipeline, component).await?;
    let killed = pipeline.kill(component).await?;
    // A new pod starts at once; in the old one, the kubelet would back off after every crash.
    pipeline.delete_pod(&killed).await?;
    pipeline.recovers(component, &killed).await
}

/// Freezes a worker until its partitions are assigned to others, and resumes it.
async fn freeze(pipeline: &Pipeline, component: &str, members: usize) -> Result<()> {
    is_writing(pipeline, component).await?;
    let group = format!("{}.live", pipeline.full_name());
    let workers = pipeline.workers(component).await?;
    let worker = workers.first().context("no worker runs")?;
    worker.send(Signal::Stop).await?;
    let expelled = eventually(
        EXPELLED_WITHIN,
        "the frozen worker expelled from its group",
        async || {
            let found = kafka::members(&group).await?;
            ensure!(found.len() < members, "members: {found:?}");
            Ok(())
        },
    )
    .await;
    worker.send(Signal::Continue).await?;
    expelled?;
    eventually(READY_WITHIN, "all members in the group again", async || {
        let all: BTreeSet<String> = kafka::members(&group).await?;
        ensure!(all.len() == members, "members: {all:?}");
        Ok(())
    })
    .await
}

/// Waits until what a component has written grows.
async fn is_writing(pipeline: &Pipeline, component: &str) -> Result<()> {
    let written = async || -> Result<u64> {
        match component {
            "archive" => {
                let mut records = 0;
                for kind in Kind::ALL {
                    let folder = format!("topics/{}/", pipeline.topic(kind));
                    records +=
                        objects::keys(&objects::client(), pipeline.sandbox.bucket(), &folder)
                            .await?
                            .len();
                }
                Ok(u64::try_from(records)?)
            }
            "ingest" => {
                let ends = kafka::ends(&pipeline.topic(Kind::Geo)).await?;
                Ok(u64::try_from(
                    ends.values().map(|(_, end)| end).sum::<i64>(),
                )?)
            }
            _ => Ok(u64::try_from(
                pinpipe_e2e::postgres::count(&pipeline.sandbox.schema(), Kind::Geo).await?,
            )?),
        }
    };
    let mut before = None;
    eventually(
        Duration::from_secs(90),
        &format!("{component} is writing"),
        async || {
            let now = written().await?;
            let before = *before.get_or_insert(now);
            ensure!(now > before, "{now} written, as many as before");
            Ok(())
        },
    )
    .await
}

/// Starts a run, kills it as soon as it has written its manifest, and waits until it is complete.
async fn kill_a_run(pipeline: &Pipeline, run: &str) -> Result<()> {
    pipeline.start_run(run).await?;
    let bucket = pipeline.sandbox.bucket();
    let folder = format!(
        "runs/{}/{}-batch-{run}/",
        pipeline.full_name(),
        pipeline.name
    );
    let client = objects::client();
    eventually(Duration::from_mins(2), "the run's manifest", async || {
        let keys = objects::keys(&client, bucket, &folder).await?;
        keys.iter()
            .find(|key| key.ends_with("/manifest.json"))
            .with_context(|| format!("{keys:?}"))?;
        Ok(())
    })
    .await?;
    pipeline.kill("batch").await?;
    let keys = objects::keys(&client, bucket, &folder).await?;
    ensure!(
        !keys.iter().any(|key| key.ends_with("/report.json")),
        "the run was complete before it was killed: {keys:?}"
    );
    pipeline.run_completes(run).await?;
    let report = objects::last_report(bucket, &pipeline.full_name())
        .await?
        .context("no run has published a report")?;
    ensure!(report["outcome"] == "Succeeded", "{report}");
    Ok(())
}
