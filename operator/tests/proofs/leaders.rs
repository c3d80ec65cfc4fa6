//! With two operators, only the holder of the Lease writes. The standby takes over when the leader
//! is killed, or frozen in the middle of an apply; a frozen leader that resumes doesn't write.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    cluster::{Cluster, RELEASE, SYSTEM},
    operator::Operator,
    pipeline::{Pipeline, SETTLES},
    specs,
    traffic::signal,
    wait::until,
};

/// How long the standby may take to take over: until the Lease expires, and some seconds.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(40);

/// Writes of the leader before it freezes; the change needs more.
const WRITES_BEFORE: usize = 3;

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

    let frozen = other.traffic.pid();
    let frozen = frozen.context("the second operator has exited")?;
    one.traffic.begin(None);
    other.traffic.begin(None);
    other.traffic.freeze_after(WRITES_BEFORE);
    pipeline
        .replace(&json!({}), &specs::whole(&one.bootstrap_servers))
        .await?;
    until("the second operator freezes", SETTLES, async || {
        ensure!(!other.traffic.is_freezing(), "{}", other.log_end());
        Ok(())
    })
    .await?;
    other.traffic.begin(None);
    leads(&one).await?;
    pipeline
        .settle(&one)
        .await
        .context("the first operator again, while the second is frozen")?;
    let mut rest = one.traffic.writes();
    rest.retain(|write| write.contains(' ') && !write.contains(" leases "));
    ensure!(rest.len() > 1, "it froze after its last write: {rest:?}");
    signal("CONT", frozen);
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
    let rest = rest.len();
    Ok(format!(
        "only the leader wrote: beside a standby, after a kill, and after a freeze in the middle \
         of an apply, of which {rest} writes were left"
    ))
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
