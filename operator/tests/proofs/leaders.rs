//! With two operators, only the holder of the Lease writes. The standby takes over when the leader
//! is killed or frozen, and a frozen leader that resumes doesn't write.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    cluster::{Cluster, RELEASE, SYSTEM},
    operator::Operator,
    pipeline::Pipeline,
    specs,
    wait::until,
};

/// How long the standby may take to take over: until the Lease expires, and some seconds.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(40);

pub async fn run(cluster: &Cluster) -> Result<String> {
    let namespace = "leaders";
    let (one, other) = (cluster.operator().await?, cluster.operator().await?);
    let arguments = [
        "--namespace",
        namespace,
        "--lease",
        RELEASE,
        "--lease-namespace",
        SYSTEM,
    ];
    cluster.namespace_with_secrets(namespace).await?;
    one.start(&arguments)?;
    leads(&one).await?;
    other.start(&arguments)?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    pipeline
        .create(&specs::whole(&one.bootstrap_servers))
        .await?;
    pipeline.settle(&one).await?;
    only_leases(&other)?;

    one.traffic.kill();
    leads(&other).await?;
    one.traffic.begin(None);
    one.start(&arguments)?;
    pipeline
        .replace(&json!({}), &specs::changed(&one.bootstrap_servers))
        .await?;
    pipeline
        .settle(&other)
        .await
        .context("the second operator, after the first was killed")?;
    only_leases(&one)?;

    let frozen = other
        .traffic
        .pid()
        .context("the second operator has exited")?;
    signal("STOP", frozen)?;
    other.traffic.begin(None);
    leads(&one).await?;
    pipeline
        .replace(&json!({}), &specs::whole(&one.bootstrap_servers))
        .await?;
    pipeline
        .settle(&one)
        .await
        .context("the first operator again, while the second is frozen")?;
    signal("CONT", frozen)?;
    until(
        "the resumed operator exits",
        TAKEN_OVER_WITHIN,
        async || {
            ensure!(
                other.traffic.pid().is_none(),
                "it is running: {}",
                other.log_end()
            );
            Ok(())
        },
    )
    .await?;
    only_leases(&other)?;
    Ok("only the leader wrote: beside a standby, after a kill, and after a freeze".to_owned())
}

async fn leads(operator: &Operator) -> Result<()> {
    until("an operator leads", TAKEN_OVER_WITHIN, async || {
        let leads = operator.metric("pinpipe_operator_leader").await?;
        ensure!(leads > 0.5, "it is a standby");
        Ok(())
    })
    .await
    .with_context(|| operator.log_end())
}

/// An error if the operator wrote to anything but Leases. Writes to the broker don't count: both
/// operators reach it by the proxy that the pipeline names.
fn only_leases(operator: &Operator) -> Result<()> {
    let mut written = operator.traffic.attempts();
    written.retain(|write| write.contains(' '));
    ensure!(
        written.iter().all(|write| write.contains(" leases ")),
        "an operator that isn't the leader wrote: {written:?}"
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
