//! The pods of a pipeline.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
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

/// Whether a pod is a worker's: a workload of the pipeline controls it, by the names alone, and it
/// has an address of its own. Labels don't tell, since everybody who may create pods may set them,
/// and the operator sends requests to the addresses of workers.
#[must_use]
pub fn is_worker(pod: &Pod, pipeline: &str) -> bool {
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network);
    let Some(component) = component(pod).filter(|_| on_host != Some(true)) else {
        return false;
    };
    let Some(owner) = controller(pod) else {
        return false;
    };
    match component {
        Component::Batch => owner.kind == "Job",
        component => {
            let labels = pod.metadata.labels.as_ref();
            let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
            let deployment = names::child(pipeline, &component);
            let is_of = |hash: &String| owner.name == format!("{deployment}-{hash}");
            owner.kind == "ReplicaSet" && hash.is_some_and(is_of)
        }
    }
}

/// Whether a Job controls a pod.
#[must_use]
pub fn is_of_job(pod: &Pod, job: &str) -> bool {
    controller(pod).is_some_and(|owner| owner.kind == "Job" && owner.name == job)
}

fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .find(|owner| owner.controller == Some(true))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_with_the_labels_of_a_worker_is_one_only_if_a_workload_controls_it() {
        let pod = |component: &str, owner: Value, host_network: bool| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "p",
                    "labels": {COMPONENT_LABEL: component, "pod-template-hash": "5d4f"},
                    "ownerReferences": [owner],
                },
                "spec": {"hostNetwork": host_network, "containers": []},
            }))
            .unwrap()
        };
        let owner = |kind: &str, name: &str, controls: bool| {
            let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
            json!({
                "apiVersion": version, "kind": kind, "name": name, "uid": "1",
                "controller": controls,
            })
        };
        for (component, owner, host_network, expected) in [
            (
                "ingest",
                owner("ReplicaSet", "flow-ingest-5d4f", true),
                false,
                true,
            ),
            (
                "stream-a",
                owner("ReplicaSet", "flow-stream-a-5d4f", true),
                false,
                true,
            ),
            ("batch", owner("Job", "flow-batch-29", true), false, true),
            (
                "ingest",
                owner("ReplicaSet", "flow-ingest-5d4f", true),
                true,
                false,
            ),
            (
                "ingest",
                owner("ReplicaSet", "flow-ingest-5d4f", false),
                false,
                false,
            ),
            (
                "ingest",
                owner("ReplicaSet", "flow-ingest-x-5d4f", true),
                false,
                false,
            ),
            (
                "ingest",
                owner("ReplicaSet", "other-5d4f", true),
                false,
                false,
            ),
            (
                "ingest",
                owner("Job", "flow-ingest-5d4f", true),
                false,
                false,
            ),
            (
                "batch",
                owner("ReplicaSet", "flow-batch-5d4f", true),
                false,
                false,
            ),
            (
                "other",
                owner("ReplicaSet", "flow-other-5d4f", true),
                false,
                false,
            ),
        ] {
            let pod = pod(component, owner.clone(), host_network);
            assert_eq!(is_worker(&pod, "flow"), expected, "{component} of {owner}");
        }
        let mut unowned = pod("ingest", owner("Job", "x", true), false);
        unowned.metadata.owner_references = None;
        assert!(!is_worker(&unowned, "flow"));
        let run = pod("batch", owner("Job", "run", true), false);
        assert!(is_of_job(&run, "run") && !is_of_job(&run, "another"));
    }
}
