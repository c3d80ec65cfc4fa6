//! What the operator sees late, twice, or never: lost events, an older list after a newer one,
//! children deleted while it was down.
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
    lane::Lane,
    specs,
    state::{Camera, Picture, children, ensure_same},
    user::{Pipeline, SETTLES},
    world::{World, until},
};

/// A settled pipeline with an operator of its own.
async fn settled(world: &World, namespace: &str) -> Result<(Lane, Pipeline, Camera)> {
    let lane = world.lane().await?;
    world.place(namespace).await?;
    let pipeline = Pipeline::new(&world.admin, namespace, "pinterest");
    lane.start(&["--namespace", namespace])?;
    pipeline
        .create(&specs::whole(&lane.bootstrap_servers))
        .await?;
    pipeline.settles(&lane).await?;
    let camera = Camera::new(world.admin.clone(), &world.kafka)?;
    Ok((lane, pipeline, camera))
}

/// Waits until the children are these.
async fn turn_into(
    camera: &Camera,
    lane: &Lane,
    namespace: &str,
    expected: &Picture,
) -> Result<()> {
    until("children are as they should be", SETTLES, async || {
        ensure_same(
            expected,
            &children(namespace, camera.objects(namespace).await?),
        )
    })
    .await
    .with_context(|| lane.last_words())
}

/// No event arrives any more: what changes is found by looking again.
pub async fn lost_events(world: &World) -> Result<String> {
    let lane = world.lane().await?;
    let camera = Camera::new(world.admin.clone(), &world.kafka)?;
    let names = ["lost-of-children", "lost-change", "lost-deletion"];
    lane.start(&["--namespace", &names.join(",")])?;
    let pipelines = names.map(|namespace| Pipeline::new(&world.admin, namespace, "pinterest"));
    for pipeline in &pipelines {
        world.place(&pipeline.namespace).await?;
        pipeline
            .create(&specs::whole(&lane.bootstrap_servers))
            .await?;
    }
    for pipeline in &pipelines {
        pipeline.settles(&lane).await?;
    }
    let [with_children, changed, deleted] = &pipelines;
    let before = children(names[0], camera.objects(names[0]).await?);
    lane.api.meddling().loses = Some(Box::new(|_, _, _| true));
    let deployments: Api<Deployment> = Api::namespaced(world.admin.clone(), names[0]);
    deployments
        .delete("pinterest-ingest", &DeleteParams::default())
        .await?;
    let scaled = Patch::Merge(json!({"spec": {"replicas": 9}}));
    deployments
        .patch("pinterest-stream-live", &PatchParams::default(), &scaled)
        .await?;
    changed
        .replace(&json!({}), &specs::changed(&lane.bootstrap_servers))
        .await?;
    deleted.delete().await?;

    turn_into(&camera, &lane, names[0], &before)
        .await
        .context("children that were changed by hand")?;
    with_children.settles(&lane).await?;
    changed
        .settles(&lane)
        .await
        .context("a change of the pipeline")?;
    until("a deletion is done", SETTLES, async || {
        deleted.is_gone().await
    })
    .await?;
    Ok("children, a change and a deletion found without any event".to_owned())
}

/// A list that is older than what was seen before undoes nothing.
pub async fn older_lists(world: &World) -> Result<String> {
    let namespace = "older-lists";
    let (lane, pipeline, camera) = settled(world, namespace).await?;
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
            Bytes::from(world.admin.request_text(request).await?),
        ));
    }
    pipeline
        .replace(&json!({}), &specs::changed(&lane.bootstrap_servers))
        .await?;
    pipeline.settles(&lane).await?;
    let now = children(namespace, camera.objects(namespace).await?);

    // From here on the operator's watches show the first of these for good.
    let go_back = async || {
        {
            let mut meddling = lane.api.meddling();
            meddling.loses = Some(Box::new(|_, _, _| true));
            meddling.lists = older
                .iter()
                .map(|(resource, list)| ((*resource).to_owned(), list.clone()))
                .collect();
        }
        lane.tap.begin(None);
        let passes = lane.passes().await?;
        lane.api.relist();
        lane.passed(passes + 1.0).await?;
        let written = lane.tap.attempts();
        ensure!(
            written.is_empty(),
            "an older list made it write: {written:?}"
        );
        anyhow::Ok(())
    };
    go_back()
        .await
        .context("the pipeline as it was before its change")?;
    ensure_same(&now, &children(namespace, camera.objects(namespace).await?))?;

    let see = || {
        let mut meddling = lane.api.meddling();
        meddling.loses = None;
        meddling.lists.clear();
    };
    see();
    lane.api.relist();
    pipeline.delete().await?;
    until("the pipeline is gone", SETTLES, async || {
        pipeline.is_gone().await
    })
    .await?;
    go_back().await.context("a pipeline that is gone")?;
    turn_into(&camera, &lane, namespace, &Picture::new())
        .await
        .context("the children of a pipeline that is gone")?;

    see();
    lane.api.relist();
    pipeline
        .create(&specs::changed(&lane.bootstrap_servers))
        .await?;
    pipeline.settles(&lane).await?;
    let anew = children(namespace, camera.objects(namespace).await?);
    go_back()
        .await
        .context("another pipeline of the same name")?;
    ensure_same(
        &anew,
        &children(namespace, camera.objects(namespace).await?),
    )?;
    Ok(
        "no write for a pipeline as it was, one that is gone, and one whose name another has"
            .to_owned(),
    )
}

/// What was deleted while no operator ran is made again.
pub async fn deleted_while_down(world: &World) -> Result<String> {
    let namespace = "deleted-while-down";
    let (lane, pipeline, camera) = settled(world, namespace).await?;
    let before = children(namespace, camera.objects(namespace).await?);
    lane.tap.kill();
    let (client, all, none) = (&world.admin, ListParams::default(), DeleteParams::default());
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
    lane.start(&["--namespace", namespace])?;
    turn_into(&camera, &lane, namespace, &before).await?;
    pipeline.settles(&lane).await?;
    Ok(format!("{} children are there again", before.len()))
}

/// Somebody else's object in a child's place is left alone, keeps nothing else from being done, and
/// once it is gone the child comes.
pub async fn foreign(world: &World) -> Result<String> {
    let namespace = "foreign";
    let lane = world.lane().await?;
    world.place(namespace).await?;
    let deployments: Api<Deployment> = Api::namespaced(world.admin.clone(), namespace);
    let theirs = json!({"metadata": {"name": "pinterest-ingest"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "d"}]}}}});
    deployments
        .create(
            &kube::api::PostParams::default(),
            &serde_json::from_value(theirs)?,
        )
        .await?;
    let spec = async || anyhow::Ok(deployments.get("pinterest-ingest").await?.spec);
    let before = spec().await?;
    let pipeline = Pipeline::new(&world.admin, namespace, "pinterest");
    lane.start(&["--namespace", namespace])?;
    pipeline
        .create(&specs::whole(&lane.bootstrap_servers))
        .await?;
    until(
        "the conflict is told, and everything else is done",
        SETTLES,
        async || {
            pipeline.says("Ready", "ChildConflict").await?;
            pipeline.says("IngestReady", "ChildConflict").await?;
            pipeline.says("Stalled", "ChildConflict").await?;
            for (type_, reason) in [
                ("TopicsReady", "TopicsReady"),
                ("StreamReady", "Available"),
                ("ArchiveReady", "Available"),
            ] {
                pipeline.says(type_, reason).await?;
            }
            pipeline.says("BatchReady", "Scheduled").await
        },
    )
    .await?;
    ensure!(
        spec().await? == before,
        "somebody else's Deployment was changed"
    );
    deployments
        .delete("pinterest-ingest", &DeleteParams::default())
        .await?;
    pipeline.settles(&lane).await?;
    ensure!(
        spec().await? != before,
        "the Deployment is still somebody else's"
    );
    Ok("left alone, told, and recovered from".to_owned())
}

/// Pipelines of the same name in two namespaces have nothing in common.
pub async fn same_name(world: &World) -> Result<String> {
    let lane = world.lane().await?;
    let camera = Camera::new(world.admin.clone(), &world.kafka)?;
    let names = ["one-name-a", "one-name-b"];
    let [one, other] = names.map(|namespace| Pipeline::new(&world.admin, namespace, "pinterest"));
    lane.start(&["--namespace", &names.join(",")])?;
    for pipeline in [&one, &other] {
        world.place(&pipeline.namespace).await?;
        pipeline
            .create(&specs::whole(&lane.bootstrap_servers))
            .await?;
    }
    one.settles(&lane).await?;
    other.settles(&lane).await?;
    let (first, second) = (camera.take(names[0]).await?, camera.take(names[1]).await?);
    ensure_same(&first, &second)?;
    one.delete().await?;
    until("one is gone, topics and all", SETTLES, async || {
        one.is_gone().await?;
        let left = camera.take(names[0]).await?;
        ensure!(left.is_empty(), "left: {:?}", left.keys());
        Ok(())
    })
    .await?;
    until("the operator has nothing more to do", SETTLES, async || {
        ensure!(lane.tap.is_quiet(Duration::from_secs(1)), "it is at work");
        Ok(())
    })
    .await?;
    ensure_same(&second, &camera.take(names[1]).await?).context("the other")?;
    Ok(format!(
        "{} objects and topics each; one deleted, the other untouched",
        first.len()
    ))
}
