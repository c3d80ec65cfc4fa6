//! The pods of a pipeline.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use pinpipe_plan::{
    component::Component,
    names::{self, COMPONENT_LABEL},
};

/// Lists every pod of a pipeline, those of batch runs included.
pub async fn list(client: &Client, namespace: &str, pipeline: &str) -> kube::Result<Vec<Pod>> {
    let params = ListParams::default().labels(&names::selector(pipeline, None));
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    Ok(api.list(&params).await?.items)
}

/// Component of a pod.
#[must_use]
pub fn component(pod: &Pod) -> Option<Component> {
    pod.metadata
        .labels
        .as_ref()?
        .get(COMPONENT_LABEL)?
        .parse()
        .ok()
}

/// Whether a pod ran to its end.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
