//! A node that stops responding while records flow, with the operator's leader and workers on it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually, kafka,
    ledger::Ledger,
    load::{self, grow, live_rows, raw_objects},
    node,
    operator::{self, leader, with_standby},
    pipeline::{READY_WITHIN, Worker},
    scenario::in_sandbox,
};
use serde_json::json;

/// How long a pipeline may take to be ready again on the remaining nodes.
const MOVED_WITHIN: Duration = Duration::from_mins(2);
/// The replicas of each component. Those with two have one on each node.
const COMPONENTS: [(&str, usize); 3] = [("ingest", 2), ("stream-live", 2), ("archive", 1)];

#[test]
fn a_node_that_stops_responding_costs_two_minutes_and_no_record() -> Result<()> {
    in_sandbox("nodes", async |sandbox| {
        let cluster = &sandbox.cluster;
        with_standby(cluster, async || {
            let mut spec = Spec::new().live(sandbox).archive(sandbox, 100);
            spec.0["ingest"]["replicas"] = json!(2);
            spec.0["stream"]["sinks"][0]["replicas"] = json!(2);
            let pipeline = sandbox.apply("flow", &spec).await?;
            pipeline.ready().await?;
            let mut ledger = Ledger::new(&pipeline);
            load::during(&mut ledger, 17, async || {
                grow(&pipeline, &[live_rows, raw_objects]).await?;
                let lost = leader(cluster).await?;
                let lost = operator::pods(cluster)
                    .await?
                    .get(&lost)
                    .and_then(Worker::of)
                    .context("the leader is not running")?
                    .node;
                on_two_nodes(&pipeline).await?;
                node::while_paused(&lost, async || moves(&pipeline, &lost).await).await?;
                rejoins(&pipeline, &lost).await
            })
            .await?;
            for kind in Kind::ALL {
                ledger.live_table_is_right(kind).await?;
                ledger.raw_objects_are_right(kind).await?;
            }
            Ok(())
        })
        .await
    })
}

/// The pods that aren't being deleted.
fn running(pods: &[Pod]) -> Vec<&Pod> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// By default the operator spreads the pods of a component over nodes.
async fn on_two_nodes(pipeline: &Pipeline) -> Result<()> {
    for (component, _) in COMPONENTS.iter().filter(|(_, pods)| *pods > 1) {
        let pods = pipeline.pods(component).await?;
        let nodes: BTreeSet<_> = running(&pods).into_iter().filter_map(node_of).collect();
        ensure!(nodes.len() > 1, "all pods of {component} are on {nodes:?}");
    }
    Ok(())
}

/// Waits until all pods are ready on other nodes, the pipeline is ready, and records flow.
async fn moves(pipeline: &Pipeline, lost: &str) -> Result<()> {
    let paused = Instant::now();
    eventually(
        MOVED_WITHIN,
        &format!("{} ready without {lost}", pipeline.name),
        async || {
            for (component, desired) in COMPONENTS {
                let pods = pipeline.pods(component).await?;
                let ready = |pod: &&Pod| {
                    let conditions = pod
                        .status
                        .as_ref()
                        .and_then(|status| status.conditions.as_ref());
                    node_of(pod) != Some(lost)
                        && conditions
                            .into_iter()
                            .flatten()
                            .any(|c| c.type_ == "Ready" && c.status == "True")
                };
                let ready = running(&pods).into_iter().filter(ready).count();
                ensure!(
                    ready == desired,
                    "{ready} of {desired} pods of {component} are ready elsewhere"
                );
            }
            let conditions = pipeline.conditions().await?;
            ensure!(
                conditions
                    .get("Ready")
                    .is_some_and(|c| c["status"] == "True"),
                "{conditions:#?}"
            );
            Ok(())
        },
    )
    .await?;
    grow(pipeline, &[live_rows, raw_objects]).await?;
    println!(
        "records flow {:?} after {lost} was paused",
        paused.elapsed()
    );
    Ok(())
}

/// Waits until the node is ready again, its old pods are gone, and the pipeline is ready.
async fn rejoins(pipeline: &Pipeline, lost: &str) -> Result<()> {
    let sandbox = &pipeline.sandbox;
    let nodes: Api<Node> = Api::all(sandbox.cluster.client());
    let pods = sandbox.cluster.api::<Pod>(&sandbox.namespace);
    eventually(
        READY_WITHIN,
        &format!("{lost} ready and its old pods gone"),
        async || {
            let node = nodes.get(lost).await?;
            let conditions = node
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            ensure!(
                conditions
                    .iter()
                    .any(|c| c.type_ == "Ready" && c.status == "True"),
                "{conditions:?}"
            );
            let old: Vec<String> = pods
                .list(&ListParams::default())
                .await?
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                .map(ResourceExt::name_any)
                .collect();
            ensure!(old.is_empty(), "{old:?} are still being deleted");
            let group = format!("{}.live", pipeline.full_name());
            let members = kafka::members(&group).await?;
            ensure!(members.len() == 2, "members of {group}: {members:?}");
            Ok(())
        },
    )
    .await?;
    pipeline.ready().await?;
    grow(pipeline, &[live_rows, raw_objects]).await
}
