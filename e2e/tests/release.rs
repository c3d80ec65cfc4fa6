//! The operator's chart under load: upgraded, rolled back, uninstalled, and installed again.
//!
//! The previous chart is a copy of the current one whose CRD lacks a field, and whose operator is
//! the current one under another tag. Compatibility with pipelines stored by earlier releases is
//! tested in admission.rs.

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
    Kind, Pipeline, Sandbox, Spec, eventually, finally,
    ledger::Ledger,
    load::{self, grow, live_rows, raw_objects},
    node,
    operator::{self, CHART, NAMESPACE, RELEASE, Release, helm},
    pipeline::{Child, READY_WITHIN},
    scenario::in_sandbox,
};
use serde_json::{Value, json};

/// The field that the previous CRD lacks: the path of its parent, its name, and a value.
const NEW_FIELD: ([&str; 4], &str, &str) = (
    ["spec", "broker", "kafka", "topics"],
    "deletionPolicy",
    "Retain",
);

#[test]
fn pipelines_survive_every_change_of_the_release_and_no_record_is_lost() -> Result<()> {
    in_sandbox("release", async |sandbox| {
        let release = Release::installed().await?;
        finally(change_release(sandbox, &release), async |_| {
            release.upgrade(CHART, &release.tag).await
        })
        .await
    })
}

async fn change_release(sandbox: &Sandbox, release: &Release) -> Result<()> {
    let cluster = &sandbox.cluster;
    let previous =
        previous_chart(&std::env::temp_dir().join(format!("{}-chart", sandbox.namespace)))?;
    release.upgrade(&previous.0, &release.tag).await?;
    let pipeline = sandbox
        .apply(
            "flow",
            &Spec::new()
                .live(sandbox)
                .archive(sandbox, 100)
                .batch(sandbox),
        )
        .await?;
    let mut pinned = Spec::new();
    pinned.0["image"] = json!({"tag": release.tag});
    let pinned = sandbox.apply("pinned", &pinned).await?;
    pipeline.ready().await?;
    pinned.ready().await?;
    let mut ledger = Ledger::new(&pipeline);
    load::during(&mut ledger, 19, async || {
        grow(&pipeline, &[live_rows, raw_objects]).await?;
        let next = node::tag_as_next(cluster, &release.tag).await?;
        let untouched = pinned.children().await?;
        let (upgraded, rolled_out) =
            futures::join!(release.upgrade(CHART, &next), rolled(&pipeline, &next));
        upgraded.and(rolled_out)?;
        pinned.ready().await?;
        let changed = pinned.changed_since(&untouched).await?;
        ensure!(
            changed.is_empty(),
            "the pipeline with an image tag of its own was changed, too: {changed:?}"
        );

        let (parent, field, value) = NEW_FIELD;
        let mut newer = json!({field: value});
        for part in parent.iter().skip(1).rev() {
            newer = json!({*part: newer});
        }
        pipeline.change(newer).await?;
        pipeline.ready().await?;
        ensure!(
            value_of_new_field(&pipeline).await? == value,
            "the upgraded CRD lacks {field}"
        );
        let (rolled_back, rolled_out) = futures::join!(
            helm(&["rollback", RELEASE, "--namespace", NAMESPACE, "--wait"]),
            rolled(&pipeline, &release.tag)
        );
        rolled_back.map(drop).and(rolled_out)?;
        ensure!(
            value_of_new_field(&pipeline).await?.is_null(),
            "the previous CRD has {field}"
        );
        grow(&pipeline, &[live_rows, raw_objects]).await?;

        without_operator(&pipeline).await?;
        release.upgrade(CHART, &release.tag).await?;
        let left = pipeline.children().await?;
        pipeline
            .change(json!({"archive": {"rotate": {"records": 90}}}))
            .await?;
        pipeline.ready().await?;
        let changed = pipeline.changed_since(&left).await?;
        let expected = BTreeSet::from(
            ["Deployment/flow-archive", "ConfigMap/flow-archive"].map(str::to_owned),
        );
        ensure!(
            changed == expected,
            "after the operator was installed again, a change of the archive changed {changed:?}"
        );
        pinned.ready().await
    })
    .await?;
    for kind in Kind::ALL {
        ledger.live_table_is_right(kind).await?;
        ledger.raw_objects_are_right(kind).await?;
    }
    Ok(())
}

/// The value of the new field in the pipeline.
async fn value_of_new_field(pipeline: &Pipeline) -> Result<Value> {
    let (parent, field, _) = NEW_FIELD;
    let mut value = pipeline.get().await?.data;
    for part in parent.iter().chain([&field]) {
        value = value[*part].take();
    }
    Ok(value)
}

/// The folder of a chart, removed when dropped.
struct Folder(String);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Creates the previous chart.
fn previous_chart(folder: &Path) -> Result<Folder> {
    copy(Path::new(CHART), folder)?;
    let chart = Folder(folder.display().to_string());
    let definition = folder.join("files/pinterestpipelines.yaml");
    let mut document: serde_yaml::Value = serde_yaml::from_str(&fs::read_to_string(&definition)?)?;
    let mut schema =
        &mut document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let (parent, field, _) = NEW_FIELD;
    for part in parent {
        schema = &mut schema[part]["properties"];
    }
    let removed = schema
        .as_mapping_mut()
        .and_then(|properties| properties.remove(field));
    removed.with_context(|| format!("the CRD has no {}.{field}", parent.join(".")))?;
    fs::write(&definition, serde_yaml::to_string(&document)?)?;
    Ok(chart)
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

/// Whether the rollout of a Deployment is complete.
fn is_complete(deployment: &Deployment) -> bool {
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas);
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
        .all(|count| *count == desired)
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

/// Waits until the pipeline runs images with this tag. Components must be rolled one at a time.
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
            let names = rolled.iter().map(|deployment| deployment.name_any());
            let new: Vec<String> = names.filter(|name| !order.contains(name)).collect();
            let in_progress: Vec<String> = rolled
                .iter()
                .filter(|deployment| !is_complete(deployment))
                .map(|deployment| deployment.name_any())
                .collect();
            // A component that is done may lack a pod for a moment for other reasons, so only the
            // start of another one counts.
            if !new.is_empty() && in_progress.len() > 1 {
                at_once.push(in_progress.clone());
            }
            order.extend(new);
            ensure!(
                rolled.len() == deployments.len(),
                "{order:?} of {} Deployments have the tag",
                deployments.len()
            );
            ensure!(
                in_progress.is_empty(),
                "{in_progress:?} are still being rolled"
            );
            Ok(())
        },
    )
    .await?;
    println!("{tag}: rolled {order:?} in this order");
    ensure!(at_once.is_empty(), "rolled at the same time: {at_once:?}");
    pipeline.ready().await
}

/// Uninstalls the operator. Pipelines and their children must stay, and records must flow.
async fn without_operator(pipeline: &Pipeline) -> Result<()> {
    let cluster = &pipeline.sandbox.cluster;
    let (before, children) = (pipeline.get().await?, pipeline.children().await?);
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
        .context("the CRD")?;
    ensure!(
        definition.metadata.deletion_timestamp.is_none(),
        "the CRD is being deleted"
    );
    let after = pipeline.get().await?;
    ensure!(
        after.uid() == before.uid() && after.data["spec"] == before.data["spec"],
        "the pipeline was {before:?}, is {after:?}"
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
    grow(pipeline, &[live_rows, raw_objects]).await
}
