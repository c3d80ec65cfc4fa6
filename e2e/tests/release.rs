//! The operator's chart under load: upgraded from the one before, rolled back, uninstalled,
//! installed again.
//!
//! The chart before is made of today's: its definition lacks a field that today's has, so that
//! pipelines can be newer than it. Its operator is today's under another tag. What an older
//! operator leaves to a newer one is tested where stored pipelines of each release are
//! (crds/released).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::apps::v1::Deployment,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, ResourceExt};
use pinpipe_e2e::{
    Cluster, Kind, Pipeline, Space, Spec, eventually,
    flow::Flow,
    load::{self, flows, live, raw},
    node,
    operator::{self, NAMESPACE, RELEASE, helm},
    pipeline::{Child, READY_WITHIN},
    shared::in_space,
};
use serde_json::{Value, json};

/// Today's chart.
const CHART: &str = "../charts/pinpipe";
/// The field that the definition before doesn't have, where the schemas of its parents are, and
/// what a newer pipeline says in it.
const NEWER: ([&str; 4], &str, &str) = (
    ["spec", "broker", "kafka", "topics"],
    "deletionPolicy",
    "Retain",
);

#[test]
fn pipelines_outlive_every_change_of_the_release_and_no_record_is_lost() -> Result<()> {
    in_space("release", async |space| {
        let release = Release::of_the_harness().await?;
        let went = course(space, &release).await;
        // Whatever came of it, others need the operator as it was.
        let restored = release.upgrade(CHART, &release.tag).await;
        went.and(restored)
    })
}

async fn course(space: &Space, release: &Release) -> Result<()> {
    let cluster = &space.cluster;
    let before = chart_before(&std::env::temp_dir().join(format!("{}-chart", space.namespace)))?;
    release.upgrade(&before.0, &release.tag).await?;
    let pipeline = space
        .apply(
            "flow",
            &Spec::new().live(space).archive(space, 100).batch(space),
        )
        .await?;
    let mut pinned = Spec::new();
    pinned.0["image"] = json!({"tag": release.tag});
    let pinned = space.apply("pinned", &pinned).await?;
    pipeline.ready().await?;
    pinned.ready().await?;
    let mut flow = Flow::new(&pipeline);
    load::during(&mut flow, 19, async || {
        flows(&pipeline, &[live, raw]).await?;
        let next = release.next_tag(cluster).await?;
        let untouched = pinned.children().await?;
        let (upgraded, went) =
            futures::join!(release.upgrade(CHART, &next), rolled(&pipeline, &next));
        upgraded.and(went)?;
        pinned.ready().await?;
        let changed = pinned.changed_since(&untouched).await?;
        ensure!(
            changed.is_empty(),
            "the pipeline with a tag of its own was changed, too: {changed:?}"
        );

        let (place, field, value) = NEWER;
        let mut newer = json!({field: value});
        for part in place.iter().skip(1).rev() {
            newer = json!({*part: newer});
        }
        pipeline.change(newer).await?;
        pipeline.ready().await?;
        ensure!(
            newer_field(&pipeline).await? == value,
            "the definition upgraded doesn't have {field}"
        );
        let (back, went) = futures::join!(
            helm(&["rollback", RELEASE, "--namespace", NAMESPACE, "--wait"]),
            rolled(&pipeline, &release.tag)
        );
        back.map(drop).and(went)?;
        ensure!(
            newer_field(&pipeline).await?.is_null(),
            "the definition rolled back has {field}"
        );
        flows(&pipeline, &[live, raw]).await?;

        without_operator(&pipeline).await?;
        release.upgrade(CHART, &release.tag).await?;
        let left = pipeline.children().await?;
        pipeline
            .change(json!({"archive": {"rotate": {"records": 90}}}))
            .await?;
        pipeline.ready().await?;
        let changed = pipeline.changed_since(&left).await?;
        let concerned = BTreeSet::from(
            ["Deployment/flow-archive", "ConfigMap/flow-archive"].map(str::to_owned),
        );
        ensure!(
            changed == concerned,
            "after the new install a change of the archive changed {changed:?}"
        );
        pinned.ready().await
    })
    .await?;
    for kind in Kind::ALL {
        flow.live_table_is_right(kind).await?;
        flow.raw_objects_are_right(kind).await?;
    }
    Ok(())
}

/// What the pipeline says in the field.
async fn newer_field(pipeline: &Pipeline) -> Result<Value> {
    let (place, field, _) = NEWER;
    let mut value = pipeline.get().await?.data;
    for part in place.iter().chain([&field]) {
        value = value[*part].take();
    }
    Ok(value)
}

/// The release as the harness installed it.
struct Release {
    tag: String,
    values: Value,
}

impl Release {
    async fn of_the_harness() -> Result<Self> {
        let values = helm(&[
            "get",
            "values",
            RELEASE,
            "--namespace",
            NAMESPACE,
            "--output",
            "json",
        ])
        .await?;
        let values: Value = serde_json::from_str(&values)?;
        let tag = values["image"]["tag"]
            .as_str()
            .with_context(|| format!("the release has no image.tag: {values}"))?;
        Ok(Self {
            tag: tag.to_owned(),
            values,
        })
    }

    /// Upgrades it to a chart and a tag, or installs it.
    async fn upgrade(&self, chart: &str, tag: &str) -> Result<()> {
        let mut values = self.values.clone();
        values["image"]["tag"] = json!(tag);
        let values = values.to_string();
        let arguments = [
            "upgrade",
            "--install",
            RELEASE,
            chart,
            "--namespace",
            NAMESPACE,
            "--reset-values",
            "--set-json",
            &values,
        ];
        helm(&[&arguments[..], &["--wait", "--timeout", "180s"]].concat())
            .await
            .map(drop)
    }

    /// Gives the images that nodes have another tag, too, as if they were the next ones.
    async fn next_tag(&self, cluster: &Cluster) -> Result<String> {
        let next = format!("{}-next", self.tag);
        node::tag_images(cluster, &self.tag, &next).await?;
        Ok(next)
    }
}

/// A chart's folder, removed in the end.
struct Folder(String);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn chart_before(folder: &Path) -> Result<Folder> {
    copy(Path::new(CHART), folder)?;
    let made = Folder(folder.display().to_string());
    let definition = folder.join("files/pinterestpipelines.yaml");
    let mut document: serde_yaml::Value = serde_yaml::from_str(&fs::read_to_string(&definition)?)?;
    let mut schema =
        &mut document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let (place, field, _) = NEWER;
    for part in place {
        schema = &mut schema[part]["properties"];
    }
    let removed = schema
        .as_mapping_mut()
        .and_then(|properties| properties.remove(field));
    removed.with_context(|| format!("the definition has no {}.{field}", place.join(".")))?;
    fs::write(&definition, serde_yaml::to_string(&document)?)?;
    Ok(made)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Whether all pods of a Deployment are of its template, ready, and no others are left.
fn is_complete(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation >= deployment.metadata.generation
        && [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
        ]
        .iter()
        .all(|count| *count == wanted)
}

fn has_tag(deployment: &Deployment, tag: &str) -> bool {
    let pod = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    pod.into_iter()
        .flat_map(|pod| &pod.containers)
        .all(|container| {
            container
                .image
                .as_deref()
                .and_then(|image| image.rsplit_once(':'))
                .is_some_and(|(_, found)| found == tag)
        })
}

/// Waits until the pipeline runs on images of this tag. One component at a time may be on its way
/// there.
async fn rolled(pipeline: &Pipeline, tag: &str) -> Result<()> {
    let mut order: Vec<String> = Vec::new();
    let mut at_once = Vec::new();
    eventually(
        READY_WITHIN,
        &format!("{} rolled to {tag}", pipeline.name),
        async || {
            let deployments = pipeline.deployments().await?;
            let rolled: Vec<&Deployment> = deployments
                .iter()
                .filter(|deployment| has_tag(deployment, tag))
                .collect();
            let begun = rolled.iter().map(|deployment| deployment.name_any());
            let new: Vec<String> = begun.filter(|name| !order.contains(name)).collect();
            let under_way: Vec<String> = rolled
                .iter()
                .filter(|deployment| !is_complete(deployment))
                .map(|deployment| deployment.name_any())
                .collect();
            // Those that have been through may be short of a pod for a moment, for reasons of their
            // own.
            if !new.is_empty() && under_way.len() > 1 {
                at_once.push(under_way.clone());
            }
            order.extend(new);
            ensure!(
                rolled.len() == deployments.len(),
                "{order:?} of {} Deployments have the tag",
                deployments.len()
            );
            ensure!(under_way.is_empty(), "{under_way:?} still under way");
            Ok(())
        },
    )
    .await?;
    println!("{tag}: {order:?} in this order");
    ensure!(at_once.is_empty(), "rolled at the same time: {at_once:?}");
    pipeline.ready().await
}

/// Uninstalls the operator: pipelines stay, run on, and take records.
async fn without_operator(pipeline: &Pipeline) -> Result<()> {
    let cluster = &pipeline.space.cluster;
    let (was, children) = (pipeline.get().await?, pipeline.children().await?);
    helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).await?;
    eventually(READY_WITHIN, "the operator gone", async || {
        let pods = operator::pods(cluster).await?;
        ensure!(pods.is_empty(), "{:?}", pods.keys());
        Ok(())
    })
    .await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let definition = definitions
        .get("pinterestpipelines.pinpipe.dev")
        .await
        .context("the definition")?;
    ensure!(
        definition.metadata.deletion_timestamp.is_none(),
        "the definition is about to be deleted"
    );
    let is = pipeline.get().await?;
    ensure!(
        is.uid() == was.uid() && is.data["spec"] == was.data["spec"],
        "the pipeline was {was:?}, is {is:?}"
    );
    let left = pipeline.children().await?;
    let ids = |children: &BTreeMap<String, Child>| -> Vec<(String, String)> {
        children
            .iter()
            .map(|(id, child)| (id.clone(), child.uid()))
            .collect()
    };
    ensure!(
        ids(&left) == ids(&children),
        "children were {:?}, are {:?}",
        children.keys(),
        left.keys()
    );
    flows(pipeline, &[live, raw]).await
}
