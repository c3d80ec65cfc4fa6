//! Workers killed and frozen in mid-work, again and again, lose nothing and do nothing twice.
//!
//! `cargo xtask soak` runs this for long; `cargo xtask test` runs the short form.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually, flow::Flow, kafka, load, node::Signal, objects,
    pipeline::READY_WITHIN, shared::in_space,
};
use serde_json::json;

/// The environment's names for how often workers are killed and frozen, and how often in the short
/// form.
const KILLS: (&str, usize) = ("PINPIPE_SOAK_KILLS", 10);
const FREEZES: (&str, usize) = ("PINPIPE_SOAK_FREEZES", 2);
/// Batch runs killed.
const KILLED_RUNS: (&str, usize) = ("PINPIPE_SOAK_RUNS", 1);
/// The replicas of the live sink, one after the other, as the kills go on.
const REPLICAS: [usize; 3] = [1, 3, 1];
/// Who is killed, in turn.
const VICTIMS: [&str; 5] = ["stream-live", "archive", "stream-live", "archive", "ingest"];
/// How long the group may take to find out that a member is frozen, and the others to take over.
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
fn workers_killed_and_frozen_in_mid_work_lose_nothing_and_do_nothing_twice() -> Result<()> {
    in_space("kills", async |space| {
        let spec = Spec::new().live(space).archive(space, 50).batch(space);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        load::during(&mut flow, 11, async || harass(&pipeline, &spec).await).await?;
        for run in 0..times(KILLED_RUNS)? {
            kill_a_run(&pipeline, &format!("killed-{run}")).await?;
        }
        for kind in Kind::ALL {
            flow.live_table_is_right(kind).await?;
            flow.raw_objects_are_right(kind).await?;
            flow.batch_table_is_right(kind).await?;
        }
        Ok(())
    })
}

/// Kills and freezes workers while the live sink's replicas go up and down.
async fn harass(pipeline: &Pipeline, spec: &Spec) -> Result<()> {
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
        // Alone a frozen worker is nobody's rival: only with others can it come back to partitions
        // that were given away.
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

/// Kills a component's worker while it is at work, and waits until another one is.
async fn kill(pipeline: &Pipeline, component: &str) -> Result<()> {
    at_work(pipeline, component).await?;
    let killed = pipeline.kill(component).await?;
    // A new pod starts at once; in the old one Kubernetes would wait longer after every crash.
    pipeline.replace(&killed).await?;
    pipeline.back(component, &killed).await
}

/// Freezes a worker until its partitions are others', and lets it go on as if nothing had been.
async fn freeze(pipeline: &Pipeline, component: &str, members: usize) -> Result<()> {
    at_work(pipeline, component).await?;
    let group = format!("{}.live", pipeline.full_name());
    let workers = pipeline.workers(component).await?;
    let worker = workers.first().context("no worker runs")?;
    worker.send(Signal::Stop).await?;
    let expelled = eventually(
        EXPELLED_WITHIN,
        "the frozen worker expelled from its group",
        async || {
            let left = kafka::members(&group).await?;
            ensure!(left.len() < members, "members: {left:?}");
            Ok(())
        },
    )
    .await;
    worker.send(Signal::Continue).await?;
    expelled?;
    eventually(READY_WITHIN, "the group whole again", async || {
        let all: BTreeSet<String> = kafka::members(&group).await?;
        ensure!(all.len() == members, "members: {all:?}");
        Ok(())
    })
    .await
}

/// Waits until a component writes: what it has written grows.
async fn at_work(pipeline: &Pipeline, component: &str) -> Result<()> {
    let written = async || -> Result<u64> {
        match component {
            "archive" => {
                let mut records = 0;
                for kind in Kind::ALL {
                    let folder = format!("topics/{}/", pipeline.topic(kind));
                    records += objects::keys(&objects::client(), pipeline.space.bucket(), &folder)
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
                pinpipe_e2e::postgres::count(&pipeline.space.schema(), Kind::Geo).await?,
            )?),
        }
    };
    let mut before = None;
    eventually(
        Duration::from_secs(90),
        &format!("{component} at work"),
        async || {
            let now = written().await?;
            let before = *before.get_or_insert(now);
            ensure!(now > before, "{now} written, as many as before");
            Ok(())
        },
    )
    .await
}

/// Starts a run, kills it as soon as it has fixed what it covers, and waits until it has been done
/// all the same.
async fn kill_a_run(pipeline: &Pipeline, run: &str) -> Result<()> {
    pipeline.start_run(run).await?;
    let bucket = pipeline.space.bucket();
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
        "the run was done before it could be killed: {keys:?}"
    );
    pipeline.run_ends(run).await?;
    let report = objects::last_report(bucket, &pipeline.full_name())
        .await?
        .context("no run has been published")?;
    ensure!(report["outcome"] == "Succeeded", "{report}");
    Ok(())
}
