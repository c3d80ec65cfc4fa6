//! Two replicas of the operator: the standby takes over when the leader is killed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{DeleteParams, ListParams};
use pinpipe_e2e::{
    Spec, audit, eventually,
    node::Signal,
    operator::{self, NAMESPACE, leader, with_standby},
    pipeline::Worker,
    scenario::in_sandbox,
};
use serde_json::json;

/// How long the standby may take to take over: until the Lease expires, and for its first
/// reconciles.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(45);
/// How many pipelines are being reconciled when the leader is killed.
const PIPELINES: usize = 10;
/// How long all of them may take to be ready after that.
const ALL_READY_WITHIN: Duration = Duration::from_mins(2);

#[test]
fn the_standby_finishes_what_a_killed_leader_began() -> Result<()> {
    in_sandbox("leader", async |sandbox| {
        let cluster = &sandbox.cluster;
        with_standby(cluster, async || {
            let leader = eventually(TAKEN_OVER_WITHIN, "a leader", async || {
                leader(cluster).await
            })
            .await?;
            let worker = operator::pods(cluster)
                .await?
                .get(&leader)
                .and_then(Worker::of)
                .context("the leader is not running")?;
            let mut pipelines = Vec::new();
            for n in 0..PIPELINES {
                pipelines.push(sandbox.apply(&format!("flow-{n}"), &Spec::new()).await?);
            }
            let deployments = cluster.api::<Deployment>(&sandbox.namespace);
            eventually(
                TAKEN_OVER_WITHIN,
                "some pipelines being reconciled",
                async || {
                    let created = deployments.list(&ListParams::default()).await?.items.len();
                    ensure!(created > 0, "no Deployment yet");
                    Ok(())
                },
            )
            .await?;
            worker.send(Signal::Kill).await?;
            let killed = Instant::now();
            // Without its pod, so that the container isn't restarted.
            cluster
                .api::<Pod>(NAMESPACE)
                .delete(&leader, &DeleteParams::default().grace_period(0))
                .await?;
            let mut done = 0;
            for pipeline in &pipelines {
                // Ready is the first condition; a pipeline without a status has none.
                done += usize::from(
                    pipeline.get().await?.data["status"]["conditions"][0]["status"] == "True",
                );
            }
            println!("{leader} was killed when {done} of {PIPELINES} pipelines were ready");
            ensure!(
                done < PIPELINES,
                "{leader} was finished before it was killed"
            );
            try_join_all(
                pipelines
                    .iter()
                    .map(async |pipeline| pipeline.ready().await),
            )
            .await?;
            let took = killed.elapsed();
            println!("all ready {took:?} after that");
            ensure!(
                took <= ALL_READY_WITHIN,
                "all ready only {took:?} after {leader} was killed"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn the_standby_takes_over_and_only_the_leader_writes() -> Result<()> {
    in_sandbox("operators", async |sandbox| {
        let cluster = &sandbox.cluster;
        with_standby(cluster, async || {
            let first = eventually(TAKEN_OVER_WITHIN, "a leader", async || {
                leader(cluster).await
            })
            .await?;
            let pipeline = sandbox.apply("flow", &Spec::new()).await?;
            pipeline.ready().await?;
            let writers = async || -> Result<BTreeSet<String>> {
                let writes = audit::writes(&sandbox.namespace).await?;
                let operators = writes
                    .into_iter()
                    .filter(|write| write.user.username.contains(NAMESPACE));
                Ok(operators.filter_map(|write| write.user.pod()).collect())
            };
            ensure!(
                writers().await? == BTreeSet::from([first.clone()]),
                "{:?} wrote, not {first}",
                writers().await?
            );

            cluster
                .api::<Pod>(NAMESPACE)
                .delete(&first, &DeleteParams::default().grace_period(0))
                .await?;
            pipeline.change(json!({"ingest": {"replicas": 2}})).await?;
            let second = eventually(TAKEN_OVER_WITHIN, "the standby leads", async || {
                let now = leader(cluster).await?;
                ensure!(now != first, "{now} still holds the Lease");
                let (desired, _) = pipeline.replicas().await?["flow-ingest"];
                ensure!(desired == 2, "the change is not applied yet");
                Ok(now)
            })
            .await?;
            pipeline.ready().await?;
            ensure!(
                writers().await? == BTreeSet::from([first, second]),
                "{:?}",
                writers().await?
            );
            Ok(())
        })
        .await
    })
}
