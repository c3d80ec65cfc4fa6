//! A section that is removed and added again must be as it was.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    pipeline::{Pipeline, SETTLES},
    snapshot::{Snapshots, children, ensure_same},
    specs,
    wait::until,
};

/// Removes archive and batch, and adds them again with another bucket: refused, until the bucket is
/// set back or removed from the record.
pub async fn run(cluster: &Cluster) -> Result<String> {
    let namespace = "record";
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(namespace).await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    operator.start(&["--namespace", namespace])?;
    let whole = specs::whole(&operator.bootstrap_servers);
    pipeline.create(&whole).await?;
    pipeline.settle(&operator).await?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let current = async || anyhow::Ok(children(namespace, snapshots.objects(namespace).await?));

    let mut without = whole.clone();
    let sections = without.as_object_mut().context("the spec is no object")?;
    sections.retain(|section, _| section != "archive" && section != "batch");
    pipeline.replace(&json!({}), &without).await?;
    pipeline.settle(&operator).await?;
    let before = current().await?;

    let mut moved = whole.clone();
    moved["archive"]["bucket"] = json!("other");
    pipeline.replace(&json!({}), &moved).await?;
    let is_refused = async || {
        pipeline.has_reason("Ready", "InvalidSpec").await?;
        pipeline.has_reason("Stalled", "InvalidSpec").await
    };
    until("the other bucket is refused", SETTLES, &is_refused).await?;
    let status = pipeline.get().await?["status"].to_string();
    for part in ["`other`", "`raw`", "pinterest-record"] {
        ensure!(status.contains(part), "{part}: {status}");
    }
    ensure_same(&before, &current().await?).context("a refused change was applied")?;

    // Back to the same bucket, and away again, through the removal that the CRD's rules ask for.
    pipeline.replace(&json!({}), &without).await?;
    pipeline.replace(&json!({}), &whole).await?;
    pipeline.settle(&operator).await?;
    pipeline.replace(&json!({}), &without).await?;
    pipeline.replace(&json!({}), &moved).await?;
    until("the other bucket is refused again", SETTLES, &is_refused).await?;
    let records: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), namespace);
    let remove: Patch<()> = Patch::Json(serde_json::from_value(
        json!([{"op": "remove", "path": "/data/archive.bucket"}]),
    )?);
    let params = PatchParams::default();
    records.patch("pinterest-record", &params, &remove).await?;
    pipeline.settle(&operator).await?;
    let record = records.get("pinterest-record").await?.data;
    let bucket = record.and_then(|mut record| record.remove("archive.bucket"));
    ensure!(bucket.as_deref() == Some("other"), "recorded: {bucket:?}");
    Ok("another bucket was refused until it was removed from the record".to_owned())
}
