//! Two operators at once: only the one that holds the Lease writes. One that was killed is
//! followed; one that stood still and goes on writes no more.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    lane::Lane,
    specs,
    user::Pipeline,
    world::{RELEASE, SYSTEM, World, until},
};

/// How long another may take to follow one that is gone: the Lease's time and some seconds.
const FOLLOWS: Duration = Duration::from_secs(40);

pub async fn run(world: &World) -> Result<String> {
    let namespace = "leaders";
    let (one, other) = (world.lane().await?, world.lane().await?);
    let arguments = [
        "--namespace",
        namespace,
        "--lease",
        RELEASE,
        "--lease-namespace",
        SYSTEM,
    ];
    world.place(namespace).await?;
    one.start(&arguments)?;
    leads(&one).await?;
    other.start(&arguments)?;
    let pipeline = Pipeline::new(&world.admin, namespace, "pinterest");
    pipeline
        .create(&specs::whole(&one.bootstrap_servers))
        .await?;
    pipeline.settles(&one).await?;
    only_leases(&other)?;

    one.tap.kill();
    leads(&other).await?;
    one.tap.begin(None);
    one.start(&arguments)?;
    pipeline
        .replace(&json!({}), &specs::changed(&one.bootstrap_servers))
        .await?;
    pipeline
        .settles(&other)
        .await
        .context("the second, after the first was killed")?;
    only_leases(&one)?;

    let frozen = other.tap.pid().context("the second operator has ended")?;
    signal("STOP", frozen)?;
    other.tap.begin(None);
    leads(&one).await?;
    pipeline
        .replace(&json!({}), &specs::whole(&one.bootstrap_servers))
        .await?;
    pipeline
        .settles(&one)
        .await
        .context("the first again, while the second stands still")?;
    signal("CONT", frozen)?;
    until("an operator that stood still ends", FOLLOWS, async || {
        ensure!(other.tap.pid().is_none(), "it runs: {}", other.last_words());
        Ok(())
    })
    .await?;
    only_leases(&other)?;
    Ok(
        "one wrote at a time: while another stood by, after a kill, and after a standstill"
            .to_owned(),
    )
}

async fn leads(lane: &Lane) -> Result<()> {
    until("an operator leads", FOLLOWS, async || {
        let leads = lane.metric("pinpipe_operator_leader").await?;
        ensure!(leads > 0.5, "it stands by");
        Ok(())
    })
    .await
    .with_context(|| lane.last_words())
}

/// Of the broker nothing can be told: whoever leads goes there by the way that the pipeline names.
fn only_leases(lane: &Lane) -> Result<()> {
    let mut written = lane.tap.attempts();
    written.retain(|write| write.contains(' '));
    ensure!(
        written.iter().all(|write| write.contains(" leases ")),
        "one that doesn't lead wrote: {written:?}"
    );
    Ok(())
}

fn signal(name: &str, pid: u32) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()?;
    ensure!(status.success(), "kill -{name}: {status}");
    Ok(())
}
