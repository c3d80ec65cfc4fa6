//! Removes what earlier test runs left: their namespaces, and what has their names in the stores.

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _, api::ListParams};
use pinpipe_e2e::{Cluster, Space};

/// The label of the namespaces of tests.
const LABEL: &str = "pinpipe.dev/e2e";

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    for left in namespaces
        .list(&ListParams::default().labels(LABEL))
        .await?
    {
        println!("removing {}", left.name_any());
        let space = Space {
            cluster: cluster.clone(),
            namespace: left.name_any(),
        };
        space.end().await?;
    }
    Ok(())
}
