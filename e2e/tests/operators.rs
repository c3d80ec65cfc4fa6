//! Two operators: one works, the other stands by and takes over.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use pinpipe_e2e::{Cluster, Spec, eventually, node, pipeline::READY_WITHIN, shared::in_space};
use serde_json::json;

/// Where the harness installs the operator, and the release's name, which is also its Lease's.
const NAMESPACE: &str = "pinpipe-system";
const RELEASE: &str = "pinpipe";
/// How long the other may take to notice that one is gone: its Lease runs out, and its first passes.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(45);

async fn scale(cluster: &Cluster, replicas: i32) -> Result<()> {
    let deployments = cluster.api::<Deployment>(NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch(RELEASE, &PatchParams::default(), &patch).await?;
    eventually(READY_WITHIN, &format!("{replicas} operators"), async || {
        let status = deployments.get(RELEASE).await?.status.unwrap_or_default();
        let there = (status.replicas, status.ready_replicas);
        ensure!(there == (Some(replicas), Some(replicas)), "{there:?}");
        let pods = cluster.api::<Pod>(NAMESPACE).list(&ListParams::default()).await?.items.len();
        ensure!(i32::try_from(pods)? == replicas, "{pods} pods");
        Ok(())
    })
    .await
}

/// The pod that works.
async fn leader(cluster: &Cluster) -> Result<String> {
    let lease = cluster.api::<Lease>(NAMESPACE).get(RELEASE).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    let (pod, _) = holder.rsplit_once('_').with_context(|| format!("the Lease is held by `{holder}`"))?;
    Ok(pod.to_owned())
}

#[test]
fn the_one_that_stands_by_takes_over_and_only_one_writes() -> Result<()> {
    in_space("operators", async |space| {
        let cluster = &space.cluster;
        scale(cluster, 2).await?;
        let first = leader(cluster).await?;
        let pipeline = space.apply("flow", &Spec::new()).await?;
        pipeline.ready().await?;
        let writers = async || -> Result<BTreeSet<String>> {
            let writes = node::writes(&space.namespace).await?;
            let operators = writes.into_iter().filter(|write| write.user.username.contains(NAMESPACE));
            Ok(operators.filter_map(|write| write.user.pod()).collect())
        };
        ensure!(writers().await? == BTreeSet::from([first.clone()]), "{:?} wrote, not {first}", writers().await?);

        cluster.api::<Pod>(NAMESPACE).delete(&first, &DeleteParams::default().grace_period(0)).await?;
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
        ensure!(writers().await? == BTreeSet::from([first, second]), "{:?}", writers().await?);
        scale(cluster, 1).await
    })
}
