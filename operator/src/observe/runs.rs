//! The batch runs of a pipeline: their Jobs, and the pods of those that haven't ended.

use futures::future::try_join_all;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use pinpipe_crds::RunAction;
pub use pinpipe_plan::queue::{has_ended, is_of_run};
use pinpipe_plan::run::{ACTION_LABEL, LIVE_BACKFILL, label};

use super::pods;

/// Annotation of Jobs that were made from a `CronJob` by hand.
const INSTANTIATED: &str = "cronjob.kubernetes.io/instantiate";
/// Longest time between a Job's start and the creation of its first pod, seconds.
const FIRST_POD_SECONDS: i64 = 60;

/// A batch run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Its Job.
    pub job: Job,
    /// Its pods. Empty once it has ended.
    pub pods: Vec<Pod>,
}

impl Run {
    /// Name of the Job, and of the run.
    #[must_use]
    pub fn name(&self) -> String {
        self.job.name_any()
    }

    /// Whether the Job controller works on it. A suspended Job waits for a queue, such as Kueue's.
    #[must_use]
    pub fn is_active(&self) -> bool {
        let suspended = self.job.spec.as_ref().and_then(|spec| spec.suspend);
        has_ended(&self.job).is_none()
            && suspended != Some(true)
            && self.job.metadata.deletion_timestamp.is_none()
    }

    /// Whether the schedule started it.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        !self.job.annotations().contains_key(INSTANTIATED)
    }

    /// Whether it writes what batch runs write: no re-drive, and no backfill of a live sink.
    #[must_use]
    pub fn is_batch_run(&self) -> bool {
        let action = self.job.labels().get(ACTION_LABEL);
        let others = [label(RunAction::Redrive), LIVE_BACKFILL];
        action.is_none_or(|action| !others.contains(&action.as_str()))
    }

    /// Whether it brings the answers up to date, as a run of the schedule does.
    #[must_use]
    pub fn is_up_to_date_after(&self) -> bool {
        let action = self.job.labels().get(ACTION_LABEL);
        let own = [RunAction::Batch, RunAction::FullBatch].map(label);
        action.is_none_or(|action| own.contains(&action.as_str()))
    }

    /// Whether it is certain that no container of it has ever run.
    #[must_use]
    pub fn never_ran(&self) -> bool {
        let status = self.job.status.clone().unwrap_or_default();
        let counts = [status.succeeded, status.failed, status.ready];
        if counts.into_iter().flatten().any(|count| count > 0) {
            return false;
        }
        let Some(started) = status.start_time else {
            return self.pods.is_empty();
        };
        // A pod that was evicted is gone without a trace, except that another was created later.
        let is_first = |pod: &Pod| {
            let created = pod.creation_timestamp();
            created.is_some_and(|created| {
                created.0.duration_since(started.0).as_secs() <= FIRST_POD_SECONDS
            })
        };
        self.pods.iter().all(|pod| is_first(pod) && is_waiting(pod))
    }
}

/// Whether none of a pod's containers has been started.
fn is_waiting(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return true;
    };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let mut containers = lists.into_iter().flatten().flatten();
    let is_pending = pods::phase(pod).is_none_or(|phase| phase == "Pending");
    is_pending
        && containers.all(|container| {
            let state = container.state.clone().unwrap_or_default();
            let last = container.last_state.clone().unwrap_or_default();
            state.running.is_none() && state.terminated.is_none() && last.terminated.is_none()
        })
}

/// Batch runs with these Jobs. Lists the pods of those that haven't ended.
pub async fn with_pods(client: &Client, namespace: &str, jobs: Vec<Job>) -> kube::Result<Vec<Run>> {
    let runs = jobs.into_iter().map(async |job| {
        let pods = match has_ended(&job) {
            Some(_) => Vec::new(),
            None => pods_of(client, namespace, &job).await?,
        };
        Ok(Run { job, pods })
    });
    try_join_all(runs).await
}

/// Lists the pods of a Job; those of an earlier Job of its name aren't among them.
pub async fn pods_of(client: &Client, namespace: &str, job: &Job) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params =
        ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
    let mut pods = api.list(&params).await?.items;
    let uid = job.uid();
    pods.retain(|pod| {
        let owners = pod.owner_references().iter();
        uid.is_some()
            && owners
                .into_iter()
                .any(|owner| Some(&owner.uid) == uid.as_ref())
    });
    Ok(pods)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The run of a Job with this status, with these pods.
    pub(crate) fn run(status: &Value, pods: &[Value]) -> Run {
        let job = json!({"metadata": {"name": "r"}, "status": status});
        Run {
            job: serde_json::from_value(job).unwrap(),
            pods: pods
                .iter()
                .map(|pod| serde_json::from_value(pod.clone()).unwrap())
                .collect(),
        }
    }

    fn pod(minute: u8, phase: &str, state: &Value) -> Value {
        let containers = json!([{"name": "batch", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": state}]);
        json!({"metadata": {"creationTimestamp": format!("2026-01-01T10:{minute:02}:01Z")},
            "status": {"phase": phase, "containerStatuses": containers}})
    }

    #[test]
    fn a_run_never_ran_while_every_container_waits() {
        let started = json!({"startTime": "2026-01-01T10:00:00Z", "active": 1});
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff"}});
        let unscheduled = json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:01Z"},
            "status": {"phase": "Pending"}});
        for pods in [vec![], vec![unscheduled], vec![pod(0, "Pending", &waiting)]] {
            assert!(run(&started, &pods).never_ran(), "{pods:?}");
        }
        let running = json!({"running": {}});
        let ended = json!({"terminated": {"exitCode": 1}});
        for pods in [
            vec![pod(0, "Running", &running)],
            vec![pod(0, "Pending", &running)],
            vec![pod(0, "Failed", &ended)],
            vec![pod(0, "Failed", &ended), pod(0, "Pending", &waiting)],
            // The first pod was evicted.
            vec![pod(30, "Pending", &waiting)],
        ] {
            assert!(!run(&started, &pods).never_ran(), "{pods:?}");
        }
        for status in [json!({"failed": 1}), json!({"ready": 1})] {
            assert!(!run(&status, &[]).never_ran(), "{status}");
        }
    }

    #[test]
    fn a_run_is_active_until_it_has_ended_unless_its_job_is_suspended() {
        assert!(run(&json!({"active": 1}), &[]).is_active());
        assert!(run(&Value::Null, &[]).is_active());
        let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        assert!(!run(&failed, &[]).is_active());
        let mut suspended = run(&Value::Null, &[]);
        suspended.job.spec = serde_json::from_value(
            json!({"suspend": true, "template": {"spec": {"containers": []}}}),
        )
        .unwrap();
        assert!(!suspended.is_active());
    }
}
