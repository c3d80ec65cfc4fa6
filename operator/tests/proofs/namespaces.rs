//! An operator whose rights in a namespace are a Role there, which the deletion of the namespace
//! deletes before the pipelines.

use anyhow::{Result, ensure};
use k8s_openapi::api::rbac::v1::Role;
use kube::{Api, api::DeleteParams};

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
    roles.delete(RESTRICTED, &DeleteParams::default()).await?;
    pipeline.delete().await?;
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
