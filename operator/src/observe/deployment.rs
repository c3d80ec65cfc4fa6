//! How far a Deployment's rollout is.

use super::{children::Children, managed_fields};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use pinpipe_plan::{
    build::RunningDeployment,
    component::Component,
    model::{Replicas, ValidatedPipeline},
    names::{IMAGE_ANNOTATION, MANAGER},
};

/// Progress of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All desired pods exist, have the current template and are ready.
    Complete,
    /// All pods have the current template and enough are ready, while an autoscaler changes their
    /// number.
    Scaling,
    /// Pods are missing, old, or not ready.
    Incomplete {
        /// Pods that have been ready for long enough.
        available: i32,
        /// Desired pods.
        desired: i32,
        /// Why the cluster refuses to create pods, in its own words.
        refused: Option<String>,
    },
}

/// Progress of a Deployment. `least` is the number of ready pods that is enough where an autoscaler
/// sets the number of pods.
#[must_use]
pub fn progress(deployment: &Deployment, least: Option<i32>) -> Progress {
    let desired = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let count = |number: Option<i32>| number.unwrap_or(0);
    let observed = status.observed_generation >= deployment.metadata.generation;
    let available = count(status.available_replicas);
    let all = count(status.updated_replicas) == desired && count(status.replicas) == desired;
    if observed && all && available >= desired {
        return Progress::Complete;
    }
    let current = observed && status.updated_replicas == status.replicas;
    if current && least.is_some_and(|least| available >= least) && refusal(&status).is_none() {
        return Progress::Scaling;
    }
    let refused = refusal(&status).and_then(|condition| condition.message.clone());
    Progress::Incomplete {
        available,
        desired,
        refused,
    }
}

/// Condition that says why the cluster refuses to create pods.
fn refusal(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
}

/// Whether all pods of the current template have ever been ready together. That isn't forgotten
/// when pods crash or move. Source: k8s.io/kubernetes/pkg/controller/deployment,
/// `syncRolloutStatus`.
fn rolled_out(deployment: &Deployment) -> bool {
    let conditions = deployment
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref());
    let progress = conditions
        .flatten()
        .find(|condition| condition.type_ == "Progressing");
    progress.is_none_or(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable"))
}

/// A component's Deployment as building needs it.
#[must_use]
pub fn running(
    children: &Children,
    pipeline: &ValidatedPipeline,
    component: &Component,
) -> Option<RunningDeployment> {
    let deployment = children.deployment(pipeline, component)?;
    let live = children.get("Deployment", &pipeline.child(component))?;
    let applied = managed_fields::applied(live, MANAGER);
    let image = &live["metadata"]["annotations"][IMAGE_ANNOTATION];
    let template = applied.map(|mut fields| {
        let mut template = fields["spec"]["template"].take();
        let applied = template.pointer_mut("/spec/containers/0/image");
        // An admission webhook may have rewritten it.
        if let Some(applied) = applied.filter(|_| image.is_string()) {
            *applied = image.clone();
        }
        template
    });
    let least = pipeline.replicas(component).and_then(Replicas::least);
    let progress = progress(&deployment, least);
    Some(RunningDeployment {
        template: template.and_then(|template| serde_json::from_value(template).ok()),
        ready: matches!(progress, Progress::Complete | Progress::Scaling),
        rolled_out: rolled_out(&deployment),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(replicas: i32, status: &Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": replicas, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_complete_when_no_old_pod_is_left() {
        let full = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2,
            "availableReplicas": 2});
        assert_eq!(progress(&deployment(2, &full), None), Progress::Complete);
        for (field, value) in [
            ("observedGeneration", 1),
            ("replicas", 3),
            ("updatedReplicas", 1),
            ("availableReplicas", 1),
        ] {
            let mut status = full.clone();
            status[field] = json!(value);
            let found = progress(&deployment(2, &status), None);
            assert!(matches!(found, Progress::Incomplete { .. }), "{field}");
        }
        let none = json!({"observedGeneration": 2});
        assert_eq!(progress(&deployment(0, &none), None), Progress::Complete);
    }

    /// Pods, pods of the current template, available pods, fewest that are enough → whether it is
    /// scaling, with 4 pods desired.
    #[test]
    fn an_autoscaler_at_work_is_not_a_rollout() {
        let status = |pods: i32, current: i32, available: i32| {
            json!({"observedGeneration": 2, "replicas": pods, "updatedReplicas": current,
                "availableReplicas": available})
        };
        for (pods, current, available, least, scaling) in [
            (2, 2, 2, Some(2), true),
            (6, 6, 4, Some(2), true),
            (2, 2, 1, Some(2), false),
            (4, 3, 4, Some(2), false),
            (2, 2, 2, None, false),
        ] {
            let status = status(pods, current, available);
            let found = progress(&deployment(4, &status), least);
            assert_eq!(found == Progress::Scaling, scaling, "{status} {least:?}");
        }
        let mut refused = status(2, 2, 2);
        refused["conditions"] =
            json!([{"type": "ReplicaFailure", "status": "True", "message": "quota"}]);
        let found = progress(&deployment(4, &refused), Some(2));
        assert!(matches!(
            found,
            Progress::Incomplete {
                refused: Some(_),
                ..
            }
        ));
    }

    #[test]
    fn a_rollout_that_once_completed_stays_so_when_pods_crash() {
        let with = |reason: &str| {
            let condition = json!({"type": "Progressing", "status": "True", "reason": reason});
            rolled_out(&deployment(1, &json!({"conditions": [condition]})))
        };
        assert!(with("NewReplicaSetAvailable") && !with("ReplicaSetUpdated"));
    }
}
