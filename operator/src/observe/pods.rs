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

/// Phase of a pod, such as `Pending`.
#[must_use]
pub fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Whether a pod ran to its end.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}
