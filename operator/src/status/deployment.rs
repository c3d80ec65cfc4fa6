//! State of a component by its Deployment, its pods and its workers. Pure.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use pinpipe_crds::reasons;

use crate::{finding::Finding, observe::deployment::Progress};

/// State of a component. `problem` is what its workers report; `place` are the options of kubectl
/// that select its pods: `-n data -l app.kubernetes.io/instance=…`.
#[must_use]
pub fn finding(
    progress: &Progress,
    pods: &[&Pod],
    problem: Option<&Finding>,
    suspended: bool,
    place: &str,
) -> Finding {
    if suspended {
        return match progress {
            Progress::Complete => {
                Finding::good(reasons::SUSPENDED, "no pods while spec.suspend is set")
            }
            Progress::Scaling | Progress::Incomplete { .. } => Finding::bad(
                reasons::SUSPENDING,
                "pods are stopping because spec.suspend is set",
            ),
        };
    }
    let of_pods = || {
        pods.iter()
            .filter_map(|pod| pod_problem(pod, place))
            .collect()
    };
    match progress {
        Progress::Complete => problem.cloned(),
        Progress::Scaling | Progress::Incomplete { .. } => {
            Finding::worst(of_pods()).or_else(|| problem.cloned())
        }
    }
    .unwrap_or_else(|| without_problem(progress, place))
}

/// State of a component by its Deployment alone.
fn without_problem(progress: &Progress, place: &str) -> Finding {
    match progress {
        Progress::Complete => Finding::good(reasons::AVAILABLE, "all pods are ready"),
        Progress::Scaling => Finding::good(
            reasons::AVAILABLE,
            "at least the minimum number of pods is ready while their number changes",
        ),
        Progress::Incomplete {
            refused: Some(message),
            ..
        } => Finding::bad(
            reasons::PODS_REFUSED,
            format!("the cluster refuses to create the pods: {message}"),
        ),
        Progress::Incomplete {
            available,
            desired,
            refused: None,
        } => Finding::bad(
            reasons::PROGRESSING,
            format!(
                "{}; if that doesn't change, see kubectl describe pods {place}",
                match available.cmp(desired) {
                    Ordering::Less => format!("{available} of {desired} pods are ready"),
                    Ordering::Equal => "new pods are replacing the old ones".to_owned(),
                    Ordering::Greater => "pods are being stopped".to_owned(),
                }
            ),
        ),
    }
}

/// Why a pod isn't ready. None, too, while it starts normally.
pub(super) fn pod_problem(pod: &Pod, place: &str) -> Option<Finding> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled");
    if let Some(condition) =
        scheduled.filter(|condition| condition.reason.as_deref() == Some("Unschedulable"))
    {
        let why = condition.message.as_deref().unwrap_or("no node fits");
        return Some(Finding::bad(
            reasons::UNSCHEDULABLE,
            format!("no node fits a pod: {why}: add nodes or lower resources.requests"),
        ));
    }
    let containers = status
        .container_statuses
        .iter()
        .flatten()
        .filter(|container| !container.ready);
    Finding::worst(
        containers
            .filter_map(|container| container_problem(container, place))
            .collect(),
    )
}

fn container_problem(container: &ContainerStatus, place: &str) -> Option<Finding> {
    let waiting = container
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some(
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable",
        ) => {
            let message = waiting.and_then(|waiting| waiting.message.as_deref());
            let why = pull_error(message.unwrap_or_default());
            return Some(Finding::bad(
                reasons::IMAGE_NOT_PULLABLE,
                format!(
                    "the image {} can't be pulled{why}: check spec.image and the \
                     imagePullSecrets of spec.template, or the operator's own registry and tag \
                     where spec.image sets none; see kubectl describe pods {place}",
                    container.image
                ),
            ));
        }
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            let why = waiting
                .and_then(|waiting| waiting.message.as_deref())
                .unwrap_or("no reason given");
            return Some(Finding::bad(
                reasons::CONTAINER_REFUSED,
                format!("the container can't be started: {why}"),
            ));
        }
        _ => {}
    }
    let ended = [&container.state, &container.last_state]
        .into_iter()
        .find_map(|state| state.as_ref().and_then(|state| state.terminated.as_ref()))?;
    if ended.exit_code == 0 {
        return None;
    }
    let why = match ended.reason.as_deref() {
        Some("OOMKilled") => "out of memory: raise resources.limits.memory".to_owned(),
        _ => last_log_line(ended.message.as_deref().unwrap_or_default())
            .unwrap_or_else(|| format!("exit code {}", ended.exit_code)),
    };
    Some(Finding::bad(
        reasons::CRASHING,
        format!("the worker stopped: {why}; its log is in kubectl logs --previous {place}"),
    ))
}

/// The registry's answer, with a leading space, from the message of a waiting container. It is the
/// same while pulling fails and while the kubelet backs off: the message of `ImagePullBackOff` has
/// that of `ErrImagePull` behind it. Empty where there is no answer.
fn pull_error(message: &str) -> String {
    const MAX_BYTES: usize = 700;
    let answer = match message.split_once("ErrImagePull: ") {
        Some((_, answer)) => answer,
        None if message.starts_with("Back-off") => "",
        None => message,
    };
    let answer = &answer[..answer.floor_char_boundary(MAX_BYTES.min(answer.len()))];
    if answer.is_empty() {
        String::new()
    } else {
        format!(" ({answer})")
    }
}

/// Message of the last line of a log. Time and fields are left out, since they would differ in each
/// crash.
#[must_use]
pub fn last_log_line(log: &str) -> Option<String> {
    const MAX_BYTES: usize = 400;
    let line = log
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let message = parsed
        .as_ref()
        .and_then(|line| line["message"].as_str())
        .unwrap_or(line);
    let end = message.floor_char_boundary(MAX_BYTES.min(message.len()));
    let cut = if end < message.len() { " …" } else { "" };
    Some(format!("{}{cut}", &message[..end]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"containerStatuses": [{
            "name": "ingest",
            "image": "r/ingest:1",
            "imageID": "",
            "ready": false,
            "restartCount": 3,
            "state": state,
            "lastState": last,
        }]})
    }

    #[test]
    fn a_scaling_component_is_available_unless_a_pod_crashes() {
        let crashed = json!({"terminated": {"exitCode": 1}});
        let crashed = pod(&container(&json!({"running": {}}), &crashed));
        let found =
            |pods: &[&Pod], suspended| finding(&Progress::Scaling, pods, None, suspended, "");
        assert!(found(&[], false).ok);
        assert_eq!(found(&[&crashed], false).reason, reasons::CRASHING);
        assert_eq!(found(&[], true).reason, reasons::SUSPENDING);
    }

    #[test]
    fn the_registrys_answer_is_the_same_while_the_kubelet_backs_off() {
        let answer = "failed to resolve reference \"r/i:1\": not found";
        let back_off = format!("Back-off pulling image \"r/i:1\": ErrImagePull: {answer}");
        assert_eq!(pull_error(answer), format!(" ({answer})"));
        assert_eq!(pull_error(&back_off), pull_error(answer));
        assert_eq!(pull_error("Back-off 5m"), "");
    }

    #[test]
    fn what_pods_say_becomes_a_reason_and_a_sentence() {
        let incomplete = Progress::Incomplete {
            available: 0,
            desired: 1,
            refused: None,
        };
        let message = "{\"timestamp\":\"t\",\"message\":\"no url\"}\n";
        let crashed = json!({"terminated": {"exitCode": 1, "message": message}});
        for (status, reason, words) in [
            (json!({}), reasons::PROGRESSING, "0 of 1"),
            (
                container(
                    &json!({"waiting": {"reason": "ContainerCreating"}}),
                    &json!({}),
                ),
                reasons::PROGRESSING,
                "0 of 1",
            ),
            (
                container(
                    &json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off 5m"}}),
                    &json!({}),
                ),
                reasons::IMAGE_NOT_PULLABLE,
                "r/ingest:1",
            ),
            (
                container(
                    &json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    &crashed,
                ),
                reasons::CRASHING,
                "no url",
            ),
            (
                container(&json!({"running": {}}), &crashed),
                reasons::CRASHING,
                "no url",
            ),
            (
                container(
                    &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                    &json!({}),
                ),
                reasons::CRASHING,
                "raise resources.limits.memory",
            ),
            (
                container(
                    &json!({"waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": "no key",
                    }}),
                    &json!({}),
                ),
                reasons::CONTAINER_REFUSED,
                "no key",
            ),
            (
                json!({"conditions": [{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes",
                }]}),
                reasons::UNSCHEDULABLE,
                "0/1 nodes",
            ),
        ] {
            let found = finding(&incomplete, &[&pod(&status)], None, false, "-n data");
            assert!(
                !found.ok && found.reason == reason && found.message.contains(words),
                "{status}: {found:?}"
            );
        }
    }

    #[test]
    fn a_refusal_of_the_cluster_is_told_and_a_pod_that_goes_is_not_asked() {
        let refused = Progress::Incomplete {
            available: 0,
            desired: 1,
            refused: Some("exceeded quota".into()),
        };
        assert_eq!(
            finding(&refused, &[], None, false, "").reason,
            reasons::PODS_REFUSED
        );

        let mut going = pod(&container(
            &json!({"waiting": {"reason": "ErrImagePull"}}),
            &json!({}),
        ));
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let incomplete = Progress::Incomplete {
            available: 0,
            desired: 1,
            refused: None,
        };
        assert_eq!(
            finding(&incomplete, &[&going], None, false, "").reason,
            reasons::PROGRESSING
        );
    }

    #[test]
    fn what_workers_say_counts_after_what_keeps_them_from_running() {
        let said = Finding::bad(reasons::SINK_UNAVAILABLE, "PostgreSQL refuses");
        let incomplete = Progress::Incomplete {
            available: 0,
            desired: 1,
            refused: None,
        };
        assert_eq!(
            finding(&Progress::Complete, &[], Some(&said), false, ""),
            said
        );
        assert_eq!(finding(&incomplete, &[], Some(&said), false, ""), said);
        let unpullable = pod(&container(
            &json!({"waiting": {"reason": "ErrImagePull"}}),
            &json!({}),
        ));
        assert_eq!(
            finding(&incomplete, &[&unpullable], Some(&said), false, "").reason,
            reasons::IMAGE_NOT_PULLABLE
        );
        assert_eq!(
            finding(&incomplete, &[], Some(&said), true, "").reason,
            reasons::SUSPENDING
        );
    }

    #[test]
    fn last_words_are_those_of_the_last_line() {
        assert_eq!(
            last_log_line("one\n{\"level\":\"ERROR\",\"message\":\"two\"}\n\n").as_deref(),
            Some("two")
        );
        assert_eq!(last_log_line("plain\n").as_deref(), Some("plain"));
        assert_eq!(last_log_line("\n"), None);
    }
}
