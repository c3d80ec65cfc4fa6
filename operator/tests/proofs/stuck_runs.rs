//! A corrected pipeline replaces batch runs that never started, and no others.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    pipeline::{Pipeline, SETTLES},
    specs,
    wait::until,
};

const NAMESPACE: &str = "stuck-runs";

pub async fn run(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(NAMESPACE).await?;
    let pipeline = Pipeline::new(&cluster.admin, NAMESPACE, "pinterest");
    operator.start(&["--namespace", NAMESPACE])?;
    let mut spec = specs::whole(&operator.bootstrap_servers);
    pipeline.create(&spec).await?;
    pipeline.settle(&operator).await?;

    let jobs: Api<Job> = Api::namespaced(cluster.admin.clone(), NAMESPACE);
    let manual = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    for (name, annotations) in [
        ("stuck", json!({})),
        ("ran", json!({})),
        ("by-hand", manual),
    ] {
        create(cluster, &jobs, name, &annotations).await?;
    }
    // Nothing works on Jobs here: these wait for their pods, and one has a pod that runs.
    let waits = json!({"startTime": "2026-01-01T00:00:00Z"});
    let runs = json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 1});
    for (name, status) in [("stuck", &waits), ("by-hand", &waits), ("ran", &runs)] {
        let status = json!({"status": status});
        jobs.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
    }

    spec["batch"]["template"] = json!({"resources": {"requests": {"memory": "64Mi"}}});
    pipeline.replace(&json!({}), &spec).await?;
    until("the stuck run is deleted", SETTLES, async || {
        let left = jobs.get_opt("stuck").await?;
        ensure!(left.is_none(), "it is still there");
        Ok(())
    })
    .await
    .with_context(|| operator.log_end())?;
    pipeline.settle(&operator).await?;
    for kept in ["ran", "by-hand"] {
        jobs.get(kept)
            .await
            .with_context(|| format!("Job {kept}"))?;
    }
    Ok("one replaced, one that ran and one made by hand left alone".to_owned())
}

/// Creates a Job as the `CronJob` controller does, with further annotations.
async fn create(cluster: &Cluster, jobs: &Api<Job>, name: &str, more: &Value) -> Result<()> {
    let cron_jobs: Api<CronJob> = Api::namespaced(cluster.admin.clone(), NAMESPACE);
    let cron_job = cron_jobs.get("pinterest-batch").await?;
    let (owner, uid) = (cron_job.name_any(), cron_job.uid());
    let template = cron_job.spec.context("no spec")?.job_template;
    let mut body = serde_json::to_value(template)?;
    body["metadata"]["name"] = json!(name);
    body["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob",
        "name": owner, "uid": uid, "controller": true}]);
    for (key, value) in more.as_object().into_iter().flatten() {
        body["metadata"]["annotations"][key] = value.clone();
    }
    let job = serde_json::from_value(body)?;
    jobs.create(&PostParams::default(), &job).await?;
    Ok(())
}
