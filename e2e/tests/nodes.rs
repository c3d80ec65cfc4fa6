//! A node that stands still, with the operator that works and workers of every kind on it, while
//! records flow.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually,
    flow::Flow,
    kafka,
    load::{self, flows, live, raw},
    node,
    operator::{self, leader, scale},
    pipeline::{READY_WITHIN, Worker},
    shared::in_space,
};
use serde_json::json;

/// How long a pipeline may take to be itself again on the nodes that are left.
const ELSEWHERE_WITHIN: Duration = Duration::from_mins(2);
/// The components and how many pods each has. Those with two have one on each node.
const COMPONENTS: [(&str, usize); 3] = [("ingest", 2), ("stream-live", 2), ("archive", 1)];

#[test]
fn a_node_that_stands_still_costs_two_minutes_and_no_record() -> Result<()> {
    in_space("nodes", async |space| {
        let cluster = &space.cluster;
        scale(cluster, 2).await?;
        let mut spec = Spec::new().live(space).archive(space, 100);
        spec.0["ingest"]["replicas"] = json!(2);
        spec.0["stream"]["sinks"][0]["replicas"] = json!(2);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        load::during(&mut flow, 17, async || {
            flows(&pipeline, &[live, raw]).await?;
            let lost = leader(cluster).await?;
            let lost = operator::pods(cluster)
                .await?
                .get(&lost)
                .and_then(Worker::of)
                .context("no operator works")?
                .node;
            on_two_nodes(&pipeline).await?;
            node::still(&lost, async || elsewhere(&pipeline, &lost).await).await?;
            back(&pipeline, &lost).await
        })
        .await?;
        for kind in Kind::ALL {
            flow.live_table_is_right(kind).await?;
            flow.raw_objects_are_right(kind).await?;
        }
        scale(cluster, 1).await
    })
}

/// Where a pod is and what of it counts: one that is told to go does not.
fn running(pods: &[Pod]) -> Vec<&Pod> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Unless told otherwise the operator spreads pods over nodes.
async fn on_two_nodes(pipeline: &Pipeline) -> Result<()> {
    for (component, _) in COMPONENTS.iter().filter(|(_, pods)| *pods > 1) {
        let pods = pipeline.pods(component).await?;
        let nodes: BTreeSet<_> = running(&pods).into_iter().filter_map(node_of).collect();
        ensure!(nodes.len() > 1, "all pods of {component} are on {nodes:?}");
    }
    Ok(())
}

/// Waits until the pipeline is whole and ready without the node, and its records flow.
async fn elsewhere(pipeline: &Pipeline, lost: &str) -> Result<()> {
    let stopped = Instant::now();
    eventually(
        ELSEWHERE_WITHIN,
        &format!("{} whole without {lost}", pipeline.name),
        async || {
            for (component, wanted) in COMPONENTS {
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
                    ready == wanted,
                    "{ready} of {wanted} pods of {component} are ready elsewhere"
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
    flows(pipeline, &[live, raw]).await?;
    println!("records flow {:?} after {lost} stopped", stopped.elapsed());
    Ok(())
}

/// Waits until the node is back, what it still ran of old is gone, and all is as it was.
async fn back(pipeline: &Pipeline, lost: &str) -> Result<()> {
    let space = &pipeline.space;
    let nodes: Api<Node> = Api::all(space.cluster.client());
    let pods = space.cluster.api::<Pod>(&space.namespace);
    eventually(
        READY_WITHIN,
        &format!("{lost} back and rid of what it ran"),
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
            ensure!(old.is_empty(), "{old:?} still go");
            let group = format!("{}.live", pipeline.full_name());
            let members = kafka::members(&group).await?;
            ensure!(members.len() == 2, "members of {group}: {members:?}");
            Ok(())
        },
    )
    .await?;
    pipeline.ready().await?;
    flows(pipeline, &[live, raw]).await
}
