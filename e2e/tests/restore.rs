//! The operator and a pipeline restored from a backup, as docs/how-to/back-up-and-restore.md says.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use pinpipe_e2e::{
    Cluster, Kind, Pipeline, Sandbox, Spec, eventually, finally,
    ledger::Ledger,
    operator::{CHART, NAMESPACE, Release},
    pipeline::READY_WITHIN,
    samples::Samples,
    scenario::in_sandbox,
};

/// How long the deletion of the operator's namespace may take.
const NAMESPACE_GONE_WITHIN: Duration = Duration::from_mins(2);

#[test]
fn a_restored_pipeline_goes_on_where_it_was() -> Result<()> {
    in_sandbox("restore", async |sandbox| {
        let release = Release::installed().await?;
        finally(restore(sandbox, &release), async |_| {
            release.upgrade(CHART, &release.tag).await
        })
        .await
    })
}

async fn restore(sandbox: &Sandbox, release: &Release) -> Result<()> {
    let cluster = &sandbox.cluster;
    let spec = Spec::new().live(sandbox).archive(sandbox, 50);
    let pipeline = sandbox.apply("flow", &spec).await?;
    pipeline.ready().await?;
    let (mut ledger, mut samples) = (Ledger::new(&pipeline), Samples::new(23));
    flows(&mut ledger, &mut samples).await?;
    is_created_by(&pipeline, "Operator").await?;
    let record = topics(cluster).await?;
    ensure!(!record.is_empty(), "the operator has no record of topics");

    lose(&pipeline).await?;
    let namespace = Namespace {
        metadata: kube::core::ObjectMeta {
            name: Some(NAMESPACE.to_owned()),
            ..kube::core::ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    namespaces
        .create(&PostParams::default(), &namespace)
        .await?;
    for mut part in record {
        part.metadata.resource_version = None;
        part.metadata.uid = None;
        let created = cluster.api::<ConfigMap>(NAMESPACE);
        created.create(&PostParams::default(), &part).await?;
    }
    release.upgrade(CHART, &release.tag).await?;
    pipeline.apply(&spec).await?;
    pipeline.ready().await?;
    is_created_by(&pipeline, "Operator").await?;
    flows(&mut ledger, &mut samples).await?;

    lose(&pipeline).await?;
    release.upgrade(CHART, &release.tag).await?;
    pipeline.apply(&spec).await?;
    pipeline.ready().await?;
    is_created_by(&pipeline, "Other").await?;
    flows(&mut ledger, &mut samples).await
}

/// Deletes the operator's namespace, and then the pipeline with its status and all its objects in
/// the cluster. Topics and stores are elsewhere and stay.
async fn lose(pipeline: &Pipeline) -> Result<()> {
    let cluster = &pipeline.sandbox.cluster;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    namespaces
        .delete(NAMESPACE, &DeleteParams::background())
        .await?;
    eventually(NAMESPACE_GONE_WITHIN, "the namespace gone", async || {
        let found = namespaces.get_opt(NAMESPACE).await?;
        ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await?;
    pipeline.delete().await?;
    eventually(READY_WITHIN, "the pipeline gone", async || {
        let children = pipeline.children().await?;
        ensure!(children.is_empty(), "{:?}", children.keys());
        let found = pipeline.get().await;
        ensure!(found.is_err(), "{found:?}");
        Ok(())
    })
    .await
}

/// The `ConfigMaps` of the operator's record of topics.
async fn topics(cluster: &Cluster) -> Result<Vec<ConfigMap>> {
    let all = cluster
        .api::<ConfigMap>(NAMESPACE)
        .list(&ListParams::default())
        .await?;
    Ok(all
        .into_iter()
        .filter(|map| map.name_any().starts_with("pinpipe-topics-"))
        .collect())
}

/// Checks who created the topics and their dead-letter topics, as the status says.
async fn is_created_by(pipeline: &Pipeline, creator: &str) -> Result<()> {
    let status = pipeline.get().await?.data["status"]["topics"].clone();
    let created: Vec<_> = status
        .as_array()
        .into_iter()
        .flatten()
        .map(|topic| topic["created"].as_str())
        .collect();
    ensure!(created == [Some(creator); 6], "{status}");
    Ok(())
}

/// Posts records, new ones and others of known keys, and waits until each store has exactly what
/// was ever posted.
async fn flows(ledger: &mut Ledger, samples: &mut Samples) -> Result<()> {
    for kind in Kind::ALL {
        ledger
            .send(kind, samples.batch(kind, 0..100, 20), 40)
            .await?;
    }
    for kind in Kind::ALL {
        ledger.live_table_is_right(kind).await?;
        ledger.raw_objects_are_right(kind).await?;
    }
    Ok(())
}
