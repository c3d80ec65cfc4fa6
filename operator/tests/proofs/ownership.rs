//! Who owns a topic: whoever holds it. An older pipeline that is pointed at another one's broker
//! takes nothing from it, and none of that depends on the status.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use pinpipe_crds::PinterestPipeline;
use serde_json::{Value, json};

use crate::{
    admission::refuse_ids,
    cluster::Cluster,
    operator::Operator,
    pipeline::{Pipeline, SETTLES},
    snapshot::{Snapshots, condition},
    specs,
    wait::until,
};

/// Nothing answers there.
const NOWHERE: &str = "127.0.0.1:1";
const OLDER: &str = "held-older";
const HOLDER: &str = "held-holder";
/// A topic that both pipelines name.
const SHARED: &str = "held.pins";

fn spec(bootstrap_servers: &str) -> Value {
    let mut spec = specs::whole(bootstrap_servers);
    spec["broker"]["kafka"]["topics"]["overrides"] = json!({"pin": {"name": SHARED}});
    spec
}

pub async fn run(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let names = [OLDER, HOLDER];
    let arguments = ["--namespace", &names.join(",")];
    let [older, holder] = names.map(|name| Pipeline::new(&cluster.admin, name, "pinterest"));
    for name in names {
        cluster.namespace_with_secrets(name).await?;
    }
    operator.start(&arguments)?;
    older.create(&spec(NOWHERE)).await?;
    let no_broker = async || older.has_reason("TopicsReady", "BrokerUnreachable").await;
    until("the older pipeline has no broker", SETTLES, no_broker).await?;
    // The API server counts ages in seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    holder.create(&spec(&operator.bootstrap_servers)).await?;
    holder.settle(&operator).await?;
    let before = deployments(cluster, HOLDER).await?;
    ensure!(before.len() == 5, "{before:?}");

    let moved = spec(&operator.bootstrap_servers);
    older.replace(&json!({}), &moved).await?;
    conflicts(&older, "held-holder/pinterest").await?;
    keeps(cluster, &operator, &holder, &before).await?;
    let left = deployments(cluster, OLDER).await?;
    ensure!(left.is_empty(), "the older pipeline has {left:?}");

    // A restore without status and with a new operator: the record alone knows.
    operator.traffic.kill();
    let api = api(cluster, HOLDER);
    let nothing = json!([{"op": "remove", "path": "/status"}]);
    let nothing: Patch<()> = Patch::Json(serde_json::from_value(nothing)?);
    let params = PatchParams::default();
    api.patch_status("pinterest", &params, &nothing).await?;
    operator.start(&arguments)?;
    keeps(cluster, &operator, &holder, &before).await?;
    conflicts(&older, "held-holder/pinterest").await?;
    let restored = holder.get().await?;
    let created = created(&restored);
    let all = ["Operator"; 6];
    ensure!(created == all, "after the restore: {created:?}");

    let refused = refused_names(cluster, &operator).await?;
    older.delete().await?;
    until("the older is gone", SETTLES, async || older.is_gone().await).await?;
    keeps(cluster, &operator, &holder, &before).await?;
    holder.delete().await?;
    until("the holder is gone with its topics", SETTLES, async || {
        holder.is_gone().await?;
        let left = snapshots.topics("held").await?;
        ensure!(left.is_empty(), "left: {:?}", left.keys());
        Ok(())
    })
    .await?;
    Ok(format!(
        "the holder kept its {} Deployments, also without status; {refused}",
        before.len()
    ))
}

/// While the ids of new topics can't be recorded, the status has them.
pub async fn refused_record(cluster: &Cluster) -> Result<String> {
    let namespace = "record-refused";
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(namespace).await?;
    let policy = refuse_ids(&cluster.admin, &format!("{namespace}.")).await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    operator.start(&["--namespace", namespace])?;
    pipeline
        .create(&specs::whole(&operator.bootstrap_servers))
        .await?;
    let refused = async || pipeline.has_reason("TopicsReady", "TopicRefused").await;
    until("the record is refused", SETTLES, refused).await?;
    let found = pipeline.get().await?;
    let topics = found["status"]["topics"].as_array();
    let ids = topics.into_iter().flatten();
    let ids: Vec<_> = ids.filter_map(|topic| topic["id"].as_str()).collect();
    ensure!(ids.len() == 6, "ids: {ids:?}, status: {}", found["status"]);
    policy.delete().await?;
    pipeline.settle(&operator).await?;
    Ok("the status had the ids until the record was written".to_owned())
}

/// Names that begin with another namespace's name, or that Kafka refuses.
async fn refused_names(cluster: &Cluster, operator: &Operator) -> Result<String> {
    let squatter = Pipeline::new(&cluster.admin, OLDER, "squatter");
    let mut spec = spec(&operator.bootstrap_servers);
    spec["broker"]["kafka"]["topics"]["overrides"] = json!({"pin": {"name": "held-holder.b.pin"}});
    squatter.create(&spec).await?;
    conflicts(&squatter, "the namespace held-holder").await?;
    squatter.delete().await?;

    // Kafka's metrics can't tell `.` from `_`, so it refuses names that differ in them alone.
    let colliding = Pipeline::new(&cluster.admin, OLDER, "colliding");
    spec["broker"]["kafka"]["topics"]["overrides"] = json!({"pin": {"name": "held_pins"}});
    colliding.create(&spec).await?;
    let message = until("the broker's sentence", SETTLES, async || {
        colliding.has_reason("TopicsReady", "TopicRefused").await?;
        let found = colliding.get().await?;
        Ok(condition(&found, "TopicsReady")?["message"].to_string())
    })
    .await?;
    ensure!(
        message.contains("collides with existing topic"),
        "{message}"
    );
    colliding.delete().await?;
    until("both are gone", SETTLES, async || {
        squatter.is_gone().await?;
        colliding.is_gone().await
    })
    .await?;
    Ok("names of another namespace and colliding ones were refused".to_owned())
}

/// Waits until a pipeline has no workers because of this owner.
async fn conflicts(pipeline: &Pipeline, owner: &str) -> Result<()> {
    until("a conflict is reported", SETTLES, async || {
        pipeline.has_reason("TopicsReady", "TopicConflict").await?;
        let found = pipeline.get().await?;
        let message = &condition(&found, "TopicsReady")?["message"];
        ensure!(message.to_string().contains(owner), "{message}");
        Ok(())
    })
    .await
}

/// Ensures that a pipeline is ready with the same Deployments after another reconcile.
async fn keeps(
    cluster: &Cluster,
    operator: &Operator,
    pipeline: &Pipeline,
    before: &BTreeMap<String, String>,
) -> Result<()> {
    let reconciles = operator.reconciles().await.unwrap_or_default();
    pipeline
        .annotate("example.com/touched", &reconciles.to_string())
        .await?;
    operator.wait_for_reconciles(reconciles + 1.0).await?;
    until("it is ready", SETTLES, async || pipeline.is_ready().await).await?;
    let after = deployments(cluster, &pipeline.namespace).await?;
    ensure!(*before == after, "before: {before:?}, after: {after:?}");
    Ok(())
}

/// UIDs of Deployments by name.
async fn deployments(cluster: &Cluster, namespace: &str) -> Result<BTreeMap<String, String>> {
    let api: Api<Deployment> = Api::namespaced(cluster.admin.clone(), namespace);
    let list = api.list(&ListParams::default()).await?.items.into_iter();
    let metadata = list.map(|deployment| deployment.metadata);
    let uids = metadata.filter_map(|metadata| Some((metadata.name?, metadata.uid?)));
    Ok(uids.collect())
}

/// Who created each topic, by the status.
fn created(pipeline: &Value) -> Vec<&str> {
    let topics = pipeline["status"]["topics"]
        .as_array()
        .into_iter()
        .flatten();
    topics
        .filter_map(|topic| topic["created"].as_str())
        .collect()
}

fn api(cluster: &Cluster, namespace: &str) -> Api<DynamicObject> {
    let resource = kube::api::ApiResource::erase::<PinterestPipeline>(&());
    Api::namespaced_with(cluster.admin.clone(), namespace, &resource)
}
