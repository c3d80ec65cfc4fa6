//! Whether an inspection's pod has started, or why not.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerState, Event, Pod};
use kube::api::ListParams;
use tokio::time::sleep;

use crate::{cluster::Cluster, failure::Failure};

/// Pause between two looks at the pod.
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    /// Its container runs or has ended, or it will never run.
    Over,
    /// It may still start. A sentence says what it waits for.
    Waits(String),
    /// It won't start. A sentence says why, and what to do.
    Fails(String),
}

/// Waits until the pod has started. What it waits for is told as it changes.
pub(super) async fn wait(cluster: &Cluster, name: &str, timeout: i64) -> Result<(), Failure> {
    let within = Duration::from_secs(u64::try_from(timeout).unwrap_or_default());
    let (begun, mut told) = (Instant::now(), String::new());
    loop {
        let pod = get(cluster, name).await?;
        let events = ListParams::default().fields(&format!("involvedObject.name={name}"));
        // They only explain more.
        let events = cluster.api::<Event>().list(&events).await;
        let events = events.map(|list| list.items).unwrap_or_default();
        let waits = match start(&pod, &events) {
            Start::Over => return Ok(()),
            Start::Fails(why) => return Err(Failure::Cluster(format!("pod {name}: {why}"))),
            Start::Waits(waits) => waits,
        };
        if begun.elapsed() > within {
            return Err(Failure::Cluster(format!(
                "pod {name} hasn't started within {timeout} s (--timeout): {waits}"
            )));
        }
        // The first look comes before any scheduler's.
        if waits != told && !told.is_empty() {
            eprintln!("pod {name}: {waits}");
        }
        told = waits;
        sleep(BETWEEN_LOOKS).await;
    }
}

/// The pod as it is now.
pub(super) async fn get(cluster: &Cluster, name: &str) -> Result<Pod, Failure> {
    let found = cluster.api::<Pod>().get_opt(name).await;
    let found = found.map_err(|error| cluster.failure("get pods", &error))?;
    found.ok_or_else(|| {
        Failure::Cluster(format!(
            "pod {name} was deleted before its end, by somebody or with its node: try again"
        ))
    })
}

/// State of the pod's own container: the first, others were added by the cluster.
pub(super) fn state(pod: &Pod) -> Option<&ContainerState> {
    let name = &pod.spec.as_ref()?.containers.first()?.name;
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let of_container = statuses.iter().find(|status| status.name == *name)?;
    of_container.state.as_ref()
}

fn start(pod: &Pod, events: &[Event]) -> Start {
    let status = pod.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Start::Over;
    }
    let state = state(pod);
    if state.is_some_and(|state| state.running.is_some() || state.terminated.is_some()) {
        return Start::Over;
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    let message = waiting.and_then(|waiting| waiting.message.clone());
    let message = message.unwrap_or_default();
    match reason {
        Some(
            reason @ ("ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"),
        ) => {
            return Start::Fails(format!(
                "its image can't be pulled ({reason}): {message}: correct spec.image or \
                 imagePullSecrets in spec.template, or set --image"
            ));
        }
        Some("CreateContainerConfigError") => {
            return Start::Fails(format!("{message}: create it, or correct spec.template"));
        }
        Some(reason @ ("CreateContainerError" | "RunContainerError" | "StartError")) => {
            return Start::Fails(format!(
                "its container can't be started ({reason}): {message}: if the image is not the \
                 pipeline's batch image, correct --image"
            ));
        }
        _ => {}
    }
    let conditions = status.conditions.unwrap_or_default();
    let scheduled = conditions.iter().find(|it| it.type_ == "PodScheduled");
    match scheduled {
        None => return Start::Waits("it waits for a scheduler".to_owned()),
        Some(condition) if condition.status != "True" => {
            return Start::Waits(format!(
                "no node takes it: {}: free resources, or change nodeSelector, affinity or \
                 tolerations in spec.template",
                condition.message.as_deref().unwrap_or_default()
            ));
        }
        Some(_) => {}
    }
    let warnings = events
        .iter()
        .filter(|it| it.type_.as_deref() == Some("Warning"));
    let last = warnings.max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    let warning = last.and_then(|event| event.message.as_deref());
    match warning {
        Some(warning) if is_missing(warning) => Start::Fails(format!(
            "{warning}: create what is missing; if the operator has just replaced a ConfigMap, try \
             again"
        )),
        Some(warning) => Start::Waits(warning.to_owned()),
        None => Start::Waits("its container is being created".to_owned()),
    }
}

/// Whether a mount lacks a Secret, a `ConfigMap`, or a key.
fn is_missing(warning: &str) -> bool {
    warning.contains("MountVolume")
        && (warning.contains("not found") || warning.contains("non-existent"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "spec": {"containers": [{"name": "inspect"}, {"name": "proxy"}]},
            "status": status,
        }))
        .unwrap()
    }

    fn warning(message: &str, second: u32) -> Event {
        serde_json::from_value(
            json!({"metadata": {}, "involvedObject": {}, "type": "Warning",
            "message": message, "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z")}),
        )
        .unwrap()
    }

    #[test]
    fn a_pod_that_doesnt_start_says_why() {
        let scheduled = json!([{"type": "PodScheduled", "status": "True"}]);
        let container = |state: Value| {
            json!({"phase": "Pending", "conditions": scheduled, "containerStatuses": [
                {"name": "proxy", "state": {"running": {}}, "ready": true, "image": "",
                    "imageID": "", "restartCount": 0},
                {"name": "inspect", "state": state, "ready": false, "image": "", "imageID": "",
                    "restartCount": 0},
            ]})
        };
        let waiting = |reason: &str| {
            container(json!({"waiting": {"reason": reason, "message": "as the kubelet told"}}))
        };
        let secret = "MountVolume.SetUp failed for volume \"secret-postgres\" : secret \
                      \"warehouse\" not found";
        let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
            "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]});
        for (status, events, expected) in [
            (
                json!({}),
                vec![],
                Start::Waits("it waits for a scheduler".to_owned()),
            ),
            (
                unschedulable,
                vec![],
                Start::Waits("no node takes it: 0/1 nodes: ".to_owned()),
            ),
            (
                waiting("ImagePullBackOff"),
                vec![],
                Start::Fails("its image can't be pulled (ImagePullBackOff): as ".to_owned()),
            ),
            (
                waiting("CreateContainerConfigError"),
                vec![],
                Start::Fails("as the kubelet told: create it".to_owned()),
            ),
            (
                waiting("ContainerCreating"),
                vec![warning("timed out", 1)],
                Start::Waits("timed out".to_owned()),
            ),
            (
                waiting("ContainerCreating"),
                vec![warning(secret, 2), warning("timed out", 1)],
                Start::Fails(secret.to_owned()),
            ),
            (container(json!({"running": {}})), vec![], Start::Over),
            (
                json!({"phase": "Failed", "reason": "OutOfcpu"}),
                vec![],
                Start::Over,
            ),
        ] {
            let found = start(&pod(&status), &events);
            let begins = match (&found, &expected) {
                (Start::Waits(found), Start::Waits(begin))
                | (Start::Fails(found), Start::Fails(begin)) => found.starts_with(begin.as_str()),
                (found, expected) => found == expected,
            };
            assert!(begins, "{found:?}, expected {expected:?}");
        }
    }
}
