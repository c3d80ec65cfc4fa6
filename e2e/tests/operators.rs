//! Two operators: one works, the other stands by and takes over.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{DeleteParams, ListParams};
use pinpipe_e2e::{
    Spec, eventually,
    node::{self, Signal},
    operator::{self, NAMESPACE, leader, scale},
    pipeline::Worker,
    shared::in_space,
};
use serde_json::json;

/// How long the other may take to notice that one is gone: its Lease runs out, and its first
/// passes.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(45);
/// How many pipelines are under way when the one that works dies.
const UNDER_WAY: usize = 10;
/// How long it may take until all of them are ready.
const ALL_READY_WITHIN: Duration = Duration::from_mins(2);

#[test]
fn one_that_dies_in_mid_work_is_followed_by_one_that_ends_it() -> Result<()> {
    in_space("leader", async |space| {
        let cluster = &space.cluster;
        scale(cluster, 2).await?;
        let leader = eventually(TAKEN_OVER_WITHIN, "an operator works", async || {
            leader(cluster).await
        })
        .await?;
        let worker = operator::pods(cluster)
            .await?
            .get(&leader)
            .and_then(Worker::of)
            .context("no operator works")?;
        let mut pipelines = Vec::new();
        for n in 0..UNDER_WAY {
            pipelines.push(space.apply(&format!("flow-{n}"), &Spec::new()).await?);
        }
        let deployments = cluster.api::<Deployment>(&space.namespace);
        eventually(TAKEN_OVER_WITHIN, "some pipelines under way", async || {
            let made = deployments.list(&ListParams::default()).await?.items.len();
            ensure!(made > 0, "nothing has been made yet");
            Ok(())
        })
        .await?;
        worker.send(Signal::Kill).await?;
        let killed = Instant::now();
        // For good: its container would only be started again.
        cluster
            .api::<Pod>(NAMESPACE)
            .delete(&leader, &DeleteParams::default().grace_period(0))
            .await?;
        let mut done = 0;
        for pipeline in &pipelines {
            // The summary is the first condition; what nobody has looked at yet has none.
            done += usize::from(
                pipeline.get().await?.data["status"]["conditions"][0]["status"] == "True",
            );
        }
        println!("{leader} died when {done} of {UNDER_WAY} pipelines were ready");
        ensure!(done < UNDER_WAY, "{leader} was done before it died");
        try_join_all(
            pipelines
                .iter()
                .map(async |pipeline| pipeline.ready().await),
        )
        .await?;
        let took = killed.elapsed();
        println!("all ready {took:?} after its death");
        ensure!(
            took <= ALL_READY_WITHIN,
            "all ready only {took:?} after {leader} died"
        );
        scale(cluster, 1).await
    })
}

#[test]
fn the_one_that_stands_by_takes_over_and_only_one_writes() -> Result<()> {
    in_space("operators", async |space| {
        let cluster = &space.cluster;
        scale(cluster, 2).await?;
        let first = eventually(TAKEN_OVER_WITHIN, "an operator works", async || {
            leader(cluster).await
        })
        .await?;
        let pipeline = space.apply("flow", &Spec::new()).await?;
        pipeline.ready().await?;
        let writers = async || -> Result<BTreeSet<String>> {
            let writes = node::writes(&space.namespace).await?;
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
        let second = eventually(TAKEN_OVER_WITHIN, "the other works", async || {
            let now = leader(cluster).await?;
            ensure!(now != first, "{now} still holds the Lease");
            let (wanted, _) = pipeline.replicas().await?["flow-ingest"];
            ensure!(wanted == 2, "the change has not been carried out");
            Ok(now)
        })
        .await?;
        pipeline.ready().await?;
        ensure!(
            writers().await? == BTreeSet::from([first, second]),
            "{:?}",
            writers().await?
        );
        scale(cluster, 1).await
    })
}
