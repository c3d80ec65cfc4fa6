//! Stale and missing observations: lost watch events, an old list after a newer one, and children
//! deleted while the operator was down. Also objects that belong to others.
//!
//! Source: Sun et al., "Automatic Reliability Testing for Cluster Management Controllers", OSDI
//! 2022: stale states and unobserved states.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::body::Bytes;
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::CronJob,
    core::v1::{ConfigMap, Service},
    rbac::v1::Role,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    operator::Operator,
    pipeline::{Pipeline, SETTLES},
    snapshot::{Snapshot, Snapshots, children, ensure_same},
    specs,
    wait::until,
};

/// A settled pipeline with its own operator.
async fn settled(cluster: &Cluster, namespace: &str) -> Result<(Operator, Pipeline, Snapshots)> {
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(namespace).await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    operator.start(&["--namespace", namespace])?;
    pipeline
        .create(&specs::whole(&operator.bootstrap_servers))
        .await?;
    pipeline.settle(&operator).await?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    Ok((operator, pipeline, snapshots))
}

/// Waits until the children are these.
async fn wait_for_children(
    snapshots: &Snapshots,
    operator: &Operator,
    namespace: &str,
    expected: &Snapshot,
) -> Result<()> {
    until("the expected children", SETTLES, async || {
        ensure_same(
            expected,
            &children(namespace, snapshots.objects(namespace).await?),
        )
    })
    .await
    .with_context(|| operator.log_end())
}

/// When no watch event arrives any more, changes are found by resync.
pub async fn lost_events(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let names = ["lost-of-children", "lost-change", "lost-deletion"];
    operator.start(&["--namespace", &names.join(",")])?;
    let pipelines = names.map(|namespace| Pipeline::new(&cluster.admin, namespace, "pinterest"));
    for pipeline in &pipelines {
        cluster.namespace_with_secrets(&pipeline.namespace).await?;
        pipeline
            .create(&specs::whole(&operator.bootstrap_servers))
            .await?;
    }
    for pipeline in &pipelines {
        pipeline.settle(&operator).await?;
    }
    let [with_children, changed, deleted] = &pipelines;
    let before = children(names[0], snapshots.objects(names[0]).await?);
    operator.api.faults().drops = Some(Box::new(|_, _, _| true));
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin.clone(), names[0]);
    deployments
        .delete("pinterest-ingest", &DeleteParams::default())
        .await?;
    let scaled = Patch::Merge(json!({"spec": {"replicas": 9}}));
    deployments
        .patch("pinterest-stream-live", &PatchParams::default(), &scaled)
        .await?;
    changed
        .replace(&json!({}), &specs::changed(&operator.bootstrap_servers))
        .await?;
    deleted.delete().await?;

    wait_for_children(&snapshots, &operator, names[0], &before)
        .await
        .context("children changed by others")?;
    with_children.settle(&operator).await?;
    changed
        .settle(&operator)
        .await
        .context("a change of the pipeline")?;
    until("a deletion is finished", SETTLES, async || {
        deleted.is_gone().await
    })
    .await?;
    Ok("changed children, a change and a deletion were found without any event".to_owned())
}

/// A list older than the cache causes no write.
pub async fn older_lists(cluster: &Cluster) -> Result<String> {
    let namespace = "older-lists";
    let (operator, pipeline, snapshots) = settled(cluster, namespace).await?;
    let paths = [
        ("pinterestpipelines", "pinpipe.dev/v1alpha1"),
        ("deployments", "apps/v1"),
        ("cronjobs", "batch/v1"),
        ("roles", "rbac.authorization.k8s.io/v1"),
    ];
    let mut older = Vec::new();
    for (resource, group) in paths {
        let request =
            http::Request::get(format!("/apis/{group}/namespaces/{namespace}/{resource}"))
                .body(Vec::new())?;
        older.push((
            resource,
            Bytes::from(cluster.admin.request_text(request).await?),
        ));
    }
    pipeline
        .replace(&json!({}), &specs::changed(&operator.bootstrap_servers))
        .await?;
    pipeline.settle(&operator).await?;
    let now = children(namespace, snapshots.objects(namespace).await?);

    // From then on the operator's watches show only the old lists.
    let show_old_lists = async || {
        {
            let mut faults = operator.api.faults();
            faults.drops = Some(Box::new(|_, _, _| true));
            faults.lists = older
                .iter()
                .map(|(resource, list)| ((*resource).to_owned(), list.clone()))
                .collect();
        }
        operator.traffic.begin(None);
        let reconciles = operator.reconciles().await?;
        operator.api.relist();
        operator.wait_for_reconciles(reconciles + 1.0).await?;
        let written = operator.traffic.attempts();
        ensure!(written.is_empty(), "an old list caused writes: {written:?}");
        anyhow::Ok(())
    };
    show_old_lists()
        .await
        .context("the pipeline before its change")?;
    ensure_same(
        &now,
        &children(namespace, snapshots.objects(namespace).await?),
    )?;

    let stop_faults = || {
        let mut faults = operator.api.faults();
        faults.drops = None;
        faults.lists.clear();
    };
    stop_faults();
    operator.api.relist();
    pipeline.delete().await?;
    until("the pipeline is gone", SETTLES, async || {
        pipeline.is_gone().await
    })
    .await?;
    show_old_lists().await.context("a deleted pipeline")?;
    wait_for_children(&snapshots, &operator, namespace, &Snapshot::new())
        .await
        .context("the children of a deleted pipeline")?;

    stop_faults();
    operator.api.relist();
    pipeline
        .create(&specs::changed(&operator.bootstrap_servers))
        .await?;
    pipeline.settle(&operator).await?;
    let replaced = children(namespace, snapshots.objects(namespace).await?);
    show_old_lists()
        .await
        .context("a new pipeline with the same name")?;
    ensure_same(
        &replaced,
        &children(namespace, snapshots.objects(namespace).await?),
    )?;
    Ok(
        "no write for an old spec, a deleted pipeline, and one replaced by another of the same name"
            .to_owned(),
    )
}

/// Children deleted while no operator ran are recreated.
pub async fn deleted_while_down(cluster: &Cluster) -> Result<String> {
    let namespace = "deleted-while-down";
    let (operator, pipeline, snapshots) = settled(cluster, namespace).await?;
    let before = children(namespace, snapshots.objects(namespace).await?);
    operator.traffic.kill();
    let (client, all, none) = (
        &cluster.admin,
        ListParams::default(),
        DeleteParams::default(),
    );
    Api::<Deployment>::namespaced(client.clone(), namespace)
        .delete_collection(&none, &all)
        .await?;
    Api::<CronJob>::namespaced(client.clone(), namespace)
        .delete_collection(&none, &all)
        .await?;
    Api::<Role>::namespaced(client.clone(), namespace)
        .delete_collection(&none, &all)
        .await?;
    let managed = ListParams::default().labels("app.kubernetes.io/managed-by=pinpipe-operator");
    Api::<ConfigMap>::namespaced(client.clone(), namespace)
        .delete_collection(&none, &managed)
        .await?;
    Api::<Service>::namespaced(client.clone(), namespace)
        .delete_collection(&none, &all)
        .await?;
    operator.start(&["--namespace", namespace])?;
    wait_for_children(&snapshots, &operator, namespace, &before).await?;
    pipeline.settle(&operator).await?;
    Ok(format!("{} children were recreated", before.len()))
}

/// An object of someone else with the name of a child isn't touched and blocks nothing else. Once
/// it is deleted, the child is created.
pub async fn foreign(cluster: &Cluster) -> Result<String> {
    let namespace = "foreign";
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(namespace).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin.clone(), namespace);
    let foreign = json!({
        "metadata": {"name": "pinterest-ingest"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "d"}]},
            },
        },
    });
    deployments
        .create(
            &kube::api::PostParams::default(),
            &serde_json::from_value(foreign)?,
        )
        .await?;
    let spec = async || anyhow::Ok(deployments.get("pinterest-ingest").await?.spec);
    let before = spec().await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    operator.start(&["--namespace", namespace])?;
    pipeline
        .create(&specs::whole(&operator.bootstrap_servers))
        .await?;
    until(
        "the conflict is reported, and everything else is ready",
        SETTLES,
        async || {
            pipeline.has_reason("Ready", "ChildConflict").await?;
            pipeline.has_reason("IngestReady", "ChildConflict").await?;
            pipeline.has_reason("Stalled", "ChildConflict").await?;
            for (type_, reason) in [
                ("TopicsReady", "TopicsReady"),
                ("StreamReady", "Available"),
                ("ArchiveReady", "Available"),
            ] {
                pipeline.has_reason(type_, reason).await?;
            }
            pipeline.has_reason("BatchReady", "Scheduled").await
        },
    )
    .await?;
    ensure!(
        spec().await? == before,
        "the foreign Deployment was changed"
    );
    deployments
        .delete("pinterest-ingest", &DeleteParams::default())
        .await?;
    pipeline.settle(&operator).await?;
    ensure!(
        spec().await? != before,
        "the Deployment is still the foreign one"
    );
    Ok("not touched, reported, and recovered from".to_owned())
}

/// Pipelines with the same name in two namespaces share nothing.
pub async fn same_name(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let names = ["one-name-a", "one-name-b"];
    let [one, other] = names.map(|namespace| Pipeline::new(&cluster.admin, namespace, "pinterest"));
    operator.start(&["--namespace", &names.join(",")])?;
    for pipeline in [&one, &other] {
        cluster.namespace_with_secrets(&pipeline.namespace).await?;
        pipeline
            .create(&specs::whole(&operator.bootstrap_servers))
            .await?;
    }
    one.settle(&operator).await?;
    other.settle(&operator).await?;
    let (first, second) = (
        snapshots.take(names[0]).await?,
        snapshots.take(names[1]).await?,
    );
    ensure_same(&first, &second)?;
    one.delete().await?;
    until("one is gone with its topics", SETTLES, async || {
        one.is_gone().await?;
        let left = snapshots.take(names[0]).await?;
        ensure!(left.is_empty(), "left: {:?}", left.keys());
        Ok(())
    })
    .await?;
    until("the operator is idle", SETTLES, async || {
        ensure!(
            operator.traffic.is_quiet(Duration::from_secs(1)),
            "it is busy"
        );
        Ok(())
    })
    .await?;
    ensure_same(&second, &snapshots.take(names[1]).await?).context("the other pipeline")?;
    Ok(format!(
        "{} objects and topics each; one deleted, the other unchanged",
        first.len()
    ))
}
