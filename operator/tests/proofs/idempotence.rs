//! A settled pipeline causes no write, neither when it is reconciled again nor when a new operator
//! reconciles it for the first time. A change of a child by somebody else causes one.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{cluster::Cluster, operator::Operator, pipeline::Pipeline, specs};

pub async fn run(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    let mut results = Vec::new();
    for (name, spec) in [
        ("thorough", specs::thorough(&operator.bootstrap_servers)),
        ("whole", specs::whole(&operator.bootstrap_servers)),
    ] {
        let namespace = format!("idempotence-{name}");
        cluster.namespace_with_secrets(&namespace).await?;
        let arguments = ["--namespace", &namespace];
        let pipeline = Pipeline::new(&cluster.admin, &namespace, "pinterest");
        pipeline.create(&spec).await?;
        operator.start(&arguments)?;
        pipeline.settle(&operator).await?;
        let written = operator.traffic.writes().len();

        operator.traffic.begin(None);
        let reconciles = operator.reconciles().await?;
        pipeline
            .annotate("example.com/irrelevant", "touched")
            .await?;
        operator.wait_for_reconciles(reconciles + 1.0).await?;
        let again = operator.traffic.attempts();
        ensure!(
            again.is_empty(),
            "{name}: reconciled again, it was written to: {again:?}"
        );

        if name == "whole" {
            repairs(cluster, &operator, &pipeline).await?;
        }
        operator.traffic.kill();
        operator.traffic.begin(None);
        operator.start(&arguments)?;
        operator.wait_for_reconciles(1.0).await?;
        let by_new = operator.traffic.attempts();
        ensure!(
            by_new.is_empty(),
            "{name}: a new operator wrote: {by_new:?}"
        );
        operator.traffic.kill();
        results.push(format!(
            "{name}: {written} writes until settled, none after that"
        ));
    }
    Ok(results.join("; "))
}

/// Changes a Deployment as its user may, each of which the operator undoes with one write.
async fn repairs(cluster: &Cluster, operator: &Operator, pipeline: &Pipeline) -> Result<()> {
    let name = "pinterest-stream-live";
    let api: Api<Deployment> = Api::namespaced(cluster.admin.clone(), &pipeline.namespace);
    let template = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let label = json!([{"op": "remove", "path": "/metadata/labels/app.kubernetes.io~1name"}]);
    let cleared = json!({"metadata": {"managedFields": [{}]}});
    let changes: [(&str, Patch<Value>); 5] = [
        (
            "edit",
            Patch::Strategic(template(json!({"terminationGracePeriodSeconds": 1}))),
        ),
        ("scale", Patch::Merge(json!({"spec": {"replicas": 9}}))),
        (
            "set image",
            Patch::Strategic(template(
                json!({"containers": [{"name": "stream", "image": "x"}]}),
            )),
        ),
        ("field removed", Patch::Json(serde_json::from_value(label)?)),
        ("managedFields cleared", Patch::Merge(cleared)),
    ];
    for (what, change) in changes {
        let before = api.get(name).await?;
        operator.traffic.begin(None);
        if what == "scale" {
            api.patch_scale(name, &PatchParams::default(), &change)
                .await?;
        } else {
            api.patch(name, &PatchParams::default(), &change).await?;
        }
        let reconciles = operator.reconciles().await?;
        operator
            .wait_for_reconciles(reconciles + 1.0)
            .await
            .context(what)?;
        pipeline.settle(operator).await.context(what)?;
        let mut written = operator.traffic.writes();
        written.retain(|write| write.contains(" deployments "));
        ensure!(written.len() == 1, "{what}: {written:?}");
        let after = api.get(name).await?;
        ensure!(
            before.spec == after.spec && before.metadata.labels == after.metadata.labels,
            "{what}: it isn't undone: {before:?} {after:?}"
        );
    }
    Ok(())
}
