//! An operator whose rights in a namespace are a Role there, which the deletion of the namespace
//! deletes before the pipelines.

use anyhow::{Result, ensure};
use k8s_openapi::api::rbac::v1::Role;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};

use crate::{
    cluster::{Cluster, RESTRICTED},
    pipeline::{Pipeline, SETTLES},
    snapshot::Snapshots,
    specs,
    wait::until,
};

/// A deleted pipeline is released although the operator may do nothing else in its namespace.
pub async fn role_gone(cluster: &Cluster) -> Result<String> {
    let namespace = "role-gone";
    cluster.namespace_with_secrets(namespace).await?;
    let operator = cluster.operator_of(namespace).await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    operator.start(&["--namespace", namespace])?;
    pipeline
        .create(&specs::whole(&operator.bootstrap_servers))
        .await?;
    pipeline.settle(&operator).await?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let prefix = format!("{namespace}.");
    let topics = snapshots.topics(&prefix).await?.len();
    ensure!(topics == 6, "{topics} topics");
    let roles: Api<Role> = Api::namespaced(cluster.admin.clone(), namespace);
    let mut lacking = roles.get(RESTRICTED).await?;
    for rule in lacking.rules.iter_mut().flatten() {
        if rule.api_groups.as_deref() == Some(&["batch".to_owned()]) {
            rule.verbs.retain(|verb| verb != "list");
        }
    }
    let params = PostParams::default();
    roles.replace(RESTRICTED, &params, &lacking).await?;
    operator.traffic.kill();
    pipeline.delete().await?;
    operator.start(&["--namespace", namespace])?;
    until("a list is refused", SETTLES, async || {
        let failures = operator.metric("pinpipe_operator_errors_total").await?;
        ensure!(failures > 0.5, "{}", operator.log_end());
        Ok(())
    })
    .await?;
    let left = snapshots.topics(&prefix).await?.len();
    ensure!(
        left == topics,
        "{left} topics: one permission was taken for the Role"
    );

    roles.delete(RESTRICTED, &DeleteParams::default()).await?;
    until("the pipeline is released", SETTLES, async || {
        pipeline.is_gone().await
    })
    .await?;
    until("its topics are deleted", SETTLES, async || {
        let left = snapshots.topics(&prefix).await?;
        ensure!(left.is_empty(), "left: {:?}", left.keys());
        Ok(())
    })
    .await?;
    Ok("released, with its topics deleted".to_owned())
}
