//! Workers killed with SIGKILL in mid-work lose nothing and do nothing twice.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{Kind, Pipeline, Spec, eventually, flow::Flow, objects, samples::Samples, shared::in_space};

/// How often each of the stream worker and the archive is killed while records flow.
const KILLS: usize = 3;
/// Records of each kind in a request.
const REQUEST: i64 = 40;

#[test]
fn workers_killed_in_mid_work_lose_nothing_and_do_nothing_twice() -> Result<()> {
    in_space("kills", async |space| {
        let spec = Spec::new().live(space).archive(space, 50).batch(space);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let over = AtomicBool::new(false);
        let (sent, killed) = futures::join!(send_until(&mut flow, &over), async {
            let killed = futures::future::try_join(kill(&pipeline, "stream-live"), kill(&pipeline, "archive")).await;
            over.store(true, Relaxed);
            killed
        });
        killed?;
        println!("{} records acknowledged while workers died", sent?);
        kill_a_run(&pipeline).await?;
        for kind in Kind::ALL {
            flow.live_table_is_right(kind).await?;
            flow.raw_objects_are_right(kind).await?;
            flow.batch_table_is_right(kind).await?;
        }
        Ok(())
    })
}

/// Sends records, every tenth a repeat, until told to stop. Gives how many.
async fn send_until(flow: &mut Flow, over: &AtomicBool) -> Result<usize> {
    let mut make = Samples::new(11);
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for round in 0.. {
        if over.load(Relaxed) {
            break;
        }
        pace.tick().await;
        for kind in Kind::ALL {
            let samples = make.batch(kind, round * REQUEST..(round + 1) * REQUEST, 4);
            flow.send(kind, samples, 100).await?;
        }
    }
    Ok(flow.acknowledged())
}

/// Kills a component's worker again and again, each time once the one before is back and at work.
async fn kill(pipeline: &Pipeline, component: &str) -> Result<()> {
    for n in 0..KILLS {
        at_work(pipeline, component).await?;
        let killed = pipeline.kill(component).await?;
        if n > 0 {
            // A new pod starts at once; Kubernetes would let the old one wait longer after every crash.
            pipeline.replace_pods(component).await?;
        }
        pipeline.back(component, &killed).await?;
    }
    Ok(())
}

/// Waits until a component writes: what it has written grows.
async fn at_work(pipeline: &Pipeline, component: &str) -> Result<()> {
    let written = async || -> Result<u64> {
        if component == "archive" {
            let mut records = 0;
            for kind in Kind::ALL {
                records +=
                    objects::keys(&objects::client(), pipeline.space.bucket(), &folder(pipeline, kind)).await?.len();
            }
            return Ok(u64::try_from(records)?);
        }
        Ok(u64::try_from(pinpipe_e2e::postgres::count(&pipeline.space.schema(), Kind::Geo).await?)?)
    };
    let mut before = None;
    eventually(Duration::from_secs(90), &format!("{component} at work"), async || {
        let now = written().await?;
        let before = *before.get_or_insert(now);
        ensure!(now > before, "{now} written, as many as before");
        Ok(())
    })
    .await
}

fn folder(pipeline: &Pipeline, kind: Kind) -> String {
    format!("topics/{}/", pipeline.topic(kind))
}

/// Starts a run, kills it as soon as it has fixed what it covers, and waits until it has been done all the same.
async fn kill_a_run(pipeline: &Pipeline) -> Result<()> {
    pipeline.start_run("killed").await?;
    let bucket = pipeline.space.bucket();
    let runs = format!("runs/{}/", pipeline.full_name());
    let client = objects::client();
    eventually(Duration::from_mins(2), "the run's manifest", async || {
        let keys = objects::keys(&client, bucket, &runs).await?;
        keys.iter().find(|key| key.ends_with("/manifest.json")).with_context(|| format!("{keys:?}"))?;
        Ok(())
    })
    .await?;
    pipeline.kill("batch").await?;
    let keys = objects::keys(&client, bucket, &runs).await?;
    ensure!(
        !keys.iter().any(|key| key.ends_with("/latest.json")),
        "the run was done before it could be killed: {keys:?}"
    );
    pipeline.run_ends("killed").await?;
    let report = objects::last_report(bucket, &pipeline.full_name()).await?.context("no run has been published")?;
    ensure!(report["outcome"] == "Succeeded", "{report}");
    Ok(())
}
