//! How a Deployment stands, and why. Pure.

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    core::v1::{ContainerStatus, Pod},
};

use super::{Finding, reasons};

/// A Deployment's figures, without its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// As many pods as wished, all of the current template and ready.
    Complete,
    /// All of the current template and enough of them ready, while an autoscaler adds pods or takes
    /// some away.
    Scaling,
    /// Not so: how many are ready of how many.
    Incomplete {
        /// Ready for long enough.
        available: i32,
        /// Wished for.
        wanted: i32,
        /// Why the cluster makes no pods, if it says so.
        refused: Option<String>,
    },
}

/// How far a Deployment has come. `least` is the fewest pods that are enough where an autoscaler
/// says how many there are.
#[must_use]
pub fn rollout(deployment: &Deployment, least: Option<i32>) -> Rollout {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let count = |number: Option<i32>| number.unwrap_or(0);
    let current = status.observed_generation >= deployment.metadata.generation;
    let available = count(status.available_replicas);
    if current
        && count(status.updated_replicas) == wanted
        && count(status.replicas) == wanted
        && available >= wanted
    {
        return Rollout::Complete;
    }
    let is_current = current && status.updated_replicas == status.replicas;
    if is_current && least.is_some_and(|least| available >= least) && refusal(&status).is_none() {
        return Rollout::Scaling;
    }
    let refused = refusal(&status).and_then(|condition| condition.message.clone());
    Rollout::Incomplete {
        available,
        wanted,
        refused,
    }
}

/// Why the cluster makes no pods, if it says so.
fn refusal(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
}

/// How a component stands. `said` is what its workers say is the matter; `place` names the
/// component for a person: `-n data -l app.kubernetes.io/instance=…`.
#[must_use]
pub fn finding(
    rollout: &Rollout,
    pods: &[&Pod],
    said: Option<&Finding>,
    suspended: bool,
    place: &str,
) -> Finding {
    let (available, wanted, refused) = match rollout {
        Rollout::Complete if suspended => {
            return Finding::good(reasons::SUSPENDED, "no pods, since spec.suspend is set");
        }
        Rollout::Complete => {
            return said
                .cloned()
                .unwrap_or_else(|| Finding::good(reasons::AVAILABLE, "all pods are ready"));
        }
        Rollout::Scaling | Rollout::Incomplete { .. } if suspended => {
            return Finding::bad(
                reasons::SUSPENDING,
                "pods are stopping, since spec.suspend is set",
            );
        }
        Rollout::Scaling => {
            let problem = Finding::worst(
                pods.iter()
                    .filter_map(|pod| pod_problem(pod, place))
                    .collect(),
            );
            let available = || {
                Finding::good(
                    reasons::AVAILABLE,
                    "as many pods are ready as there must be, and their number is changing",
                )
            };
            return problem.or_else(|| said.cloned()).unwrap_or_else(available);
        }
        Rollout::Incomplete {
            available,
            wanted,
            refused,
        } => (available, wanted, refused),
    };
    if let Some(found) = Finding::worst(
        pods.iter()
            .filter_map(|pod| pod_problem(pod, place))
            .collect(),
    ) {
        return found;
    }
    if let Some(said) = said {
        return said.clone();
    }
    match refused {
        Some(message) => Finding::bad(
            reasons::PODS_REFUSED,
            format!("the cluster refuses to make the pods: {message}"),
        ),
        None => Finding::bad(
            reasons::PROGRESSING,
            format!(
                "{available} of {wanted} pods are ready; if it stays so, see kubectl describe pods {place}"
            ),
        ),
    }
}

/// What keeps a pod from being ready, as far as it tells. A pod on its way tells nothing.
fn pod_problem(pod: &Pod, place: &str) -> Option<Finding> {
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
            format!("a pod finds no node: {why}: add nodes or lower resources.requests"),
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
        // What the registry said comes and goes with each attempt, so it isn't repeated here.
        Some(
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable",
        ) => {
            return Some(Finding::bad(
                reasons::IMAGE_NOT_PULLABLE,
                format!(
                    "the image {} can't be pulled: check spec.image (registry, tag, pullSecrets); the registry's answer is in kubectl \
                     describe pods {place}",
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
        _ => last_words(ended.message.as_deref().unwrap_or_default())
            .unwrap_or_else(|| format!("exit code {}", ended.exit_code)),
    };
    Some(Finding::bad(
        reasons::CRASHING,
        format!("the worker stopped: {why}; its log is in kubectl logs --previous {place}"),
    ))
}

/// The message of the last line of a log. Times and fields are left out: they would make each crash
/// another message.
#[must_use]
pub fn last_words(log: &str) -> Option<String> {
    const MOST: usize = 400;
    let line = log
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let words = parsed
        .as_ref()
        .and_then(|line| line["message"].as_str())
        .unwrap_or(line);
    Some(words[..words.floor_char_boundary(MOST.min(words.len()))].to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(spec: i32, status: &Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": spec, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"containerStatuses": [{"name": "ingest", "image": "r/ingest:1", "imageID": "", "ready": false, "restartCount": 3,
            "state": state, "lastState": last}]})
    }

    #[test]
    fn a_rollout_is_complete_when_nothing_old_is_left() {
        let full = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert_eq!(rollout(&deployment(2, &full), None), Rollout::Complete);
        for (field, value) in [
            ("observedGeneration", 1),
            ("replicas", 3),
            ("updatedReplicas", 1),
            ("availableReplicas", 1),
        ] {
            let mut status = full.clone();
            status[field] = json!(value);
            assert!(
                matches!(
                    rollout(&deployment(2, &status), None),
                    Rollout::Incomplete { .. }
                ),
                "{field}"
            );
        }
        assert_eq!(
            rollout(&deployment(0, &json!({"observedGeneration": 2})), None),
            Rollout::Complete
        );
    }

    /// Pods there, of the current template, available; what the least is → how far it is, with 4
    /// wished for.
    #[test]
    fn an_autoscaler_at_work_is_no_rollout() {
        for (there, current, available, least, scaling) in [
            (2, 2, 2, Some(2), true),
            (6, 6, 4, Some(2), true),
            (2, 2, 1, Some(2), false),
            (4, 3, 4, Some(2), false),
            (2, 2, 2, None, false),
        ] {
            let status = json!({"observedGeneration": 2, "replicas": there, "updatedReplicas": current, "availableReplicas": available});
            let found = rollout(&deployment(4, &status), least);
            assert_eq!(found == Rollout::Scaling, scaling, "{status} {least:?}");
        }
        let refused = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]});
        assert!(matches!(
            rollout(&deployment(4, &refused), Some(2)),
            Rollout::Incomplete {
                refused: Some(_),
                ..
            }
        ));

        let crashed = pod(&container(
            &json!({"running": {}}),
            &json!({"terminated": {"exitCode": 1}}),
        ));
        assert!(finding(&Rollout::Scaling, &[], None, false, "").ok);
        assert_eq!(
            finding(&Rollout::Scaling, &[&crashed], None, false, "").reason,
            reasons::CRASHING
        );
        assert_eq!(
            finding(&Rollout::Scaling, &[], None, true, "").reason,
            reasons::SUSPENDING
        );
    }

    #[test]
    fn what_pods_say_becomes_a_reason_and_a_sentence() {
        let incomplete = Rollout::Incomplete {
            available: 0,
            wanted: 1,
            refused: None,
        };
        let crashed = json!({"terminated": {"exitCode": 1, "message": "{\"timestamp\":\"t\",\"message\":\"no url\"}\n"}});
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
                    &json!({"waiting": {"reason": "CreateContainerConfigError", "message": "no key"}}),
                    &json!({}),
                ),
                reasons::CONTAINER_REFUSED,
                "no key",
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}),
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
        let refused = Rollout::Incomplete {
            available: 0,
            wanted: 1,
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
        let incomplete = Rollout::Incomplete {
            available: 0,
            wanted: 1,
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
        let incomplete = Rollout::Incomplete {
            available: 0,
            wanted: 1,
            refused: None,
        };
        assert_eq!(
            finding(&Rollout::Complete, &[], Some(&said), false, ""),
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
            last_words("one\n{\"level\":\"ERROR\",\"message\":\"two\"}\n\n").as_deref(),
            Some("two")
        );
        assert_eq!(last_words("plain\n").as_deref(), Some("plain"));
        assert_eq!(last_words("\n"), None);
    }
}
