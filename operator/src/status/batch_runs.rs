//! State of batch runs. Pure.

use std::time::Duration;

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use pinpipe_crds::{BatchStatus, LastRun, Outcome, parse_run_report, reasons};

use super::{
    deployment::{last_log_line, pod_problem},
    sinks::{RunLoads, loaded},
};
use crate::{
    finding::Finding,
    observe::{
        pods,
        runs::{Run, has_ended},
    },
};

/// Time after which a Job without any pod isn't just about to get one.
const NO_POD_AFTER: Duration = Duration::from_secs(30);
/// Time after which a run that hasn't started counts as stuck although its pod reports no problem:
/// only events tell that a volume can't be mounted.
const STUCK_AFTER: Duration = Duration::from_mins(3);

/// The batch run that ended last, and how. A re-drive is none.
#[must_use]
pub fn last_ended(runs: &[Run]) -> Option<(&Run, Outcome)> {
    let ended = runs.iter().filter(|run| !run.is_redrive());
    let ended = ended.filter_map(|run| {
        let condition = has_ended(&run.job)?;
        let outcome = if condition.type_ == "Complete" {
            Outcome::Succeeded
        } else {
            Outcome::Failed
        };
        let at = condition.last_transition_time.as_ref();
        Some((at.map(|Time(time)| *time), run.name(), run, outcome))
    });
    ended
        .max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))
        .map(|(_, _, run, outcome)| (run, outcome))
}

/// Why a run that is under way has no pod that runs. None, too, while it starts normally.
#[must_use]
pub fn start_problem(run: &Run, namespace: &str, now: Timestamp) -> Option<Finding> {
    if !run.is_active() {
        return None;
    }
    let name = run.name();
    let place = format!("-n {namespace} -l batch.kubernetes.io/job-name={name}");
    let pending = run
        .pods
        .iter()
        .filter(|pod| pods::phase(pod) == Some("Pending"));
    let of_pods = Finding::worst(pending.filter_map(|pod| pod_problem(pod, &place)).collect());
    let problem = of_pods.or_else(|| {
        let refused = run.pods.is_empty() && waits(run, now)? >= NO_POD_AFTER;
        refused.then(|| {
            let message = format!("it has no pod: see kubectl describe job {name} -n {namespace}");
            Finding::bad(reasons::PODS_REFUSED, message)
        })
    })?;
    let message = format!("the run {name} can't start: {}", problem.message);
    Some(Finding { message, ..problem })
}

/// Termination message of a run's last pod.
pub(super) fn termination_message(pods: &[Pod]) -> Option<String> {
    let ended = pods.iter().filter_map(|pod| {
        let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
        let ended = containers.first()?.state.as_ref()?.terminated.as_ref()?;
        Some((
            ended.finished_at.as_ref().map(|Time(time)| *time),
            ended.message.clone()?,
        ))
    });
    ended
        .max_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, message)| message)
}

/// Why the last attempt of a run that is under way failed.
fn failed_attempt(run: &Run) -> Option<String> {
    let failed = run.job.status.as_ref()?.failed?;
    (failed > 0)
        .then(|| termination_message(&run.pods))?
        .and_then(|message| last_log_line(&message))
}

/// Whether a run has never started and won't soon. One that starts normally is not stuck.
#[must_use]
pub fn is_stuck(run: &Run, now: Timestamp) -> bool {
    let waits_long = || waits(run, now).is_some_and(|waits| waits >= STUCK_AFTER);
    run.is_active() && run.never_ran() && (start_problem(run, "", now).is_some() || waits_long())
}

/// Time since the Job controller took up a run.
fn waits(run: &Run, now: Timestamp) -> Option<Duration> {
    let Time(started) = run.job.status.as_ref()?.start_time.as_ref()?;
    Some(Duration::try_from(now.duration_since(*started)).unwrap_or_default())
}

/// A run that ended, as the status keeps it, and what it did with the sinks. `pods` are those that
/// are left.
#[must_use]
pub fn last_run(job: &Job, outcome: Outcome, pods: &[Pod]) -> (LastRun, RunLoads) {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let message = termination_message(pods).unwrap_or_default();
    let failure = (outcome == Outcome::Failed).then(|| failure(job, &message));
    let loads = RunLoads {
        run: name.to_owned(),
        succeeded: outcome == Outcome::Succeeded,
        sinks: loaded(&message),
        failure: failure.flatten(),
    };
    (parse_run_report(name, outcome, &message), loads)
}

fn failure(job: &Job, termination_message: &str) -> Option<String> {
    let ended = has_ended(job);
    if ended.and_then(|ended| ended.reason.as_deref()) == Some("DeadlineExceeded") {
        return Some("it took longer than spec.batch.deadline and was stopped".to_owned());
    }
    last_log_line(termination_message).or_else(|| ended?.message.clone())
}

/// A `CronJob` that knows of the runs it hasn't started, too, when one last succeeded.
#[must_use]
pub fn with_last_success(mut cron_job: CronJob, runs: &[Run]) -> CronJob {
    let runs = runs.iter().filter(|run| run.is_up_to_date_after());
    let ends = runs.filter_map(|run| run.job.status.as_ref()?.completion_time.clone());
    let known = cron_job
        .status
        .clone()
        .and_then(|status| status.last_successful_time);
    if let Some(last) = ends.chain(known).max() {
        cron_job.status.get_or_insert_default().last_successful_time = Some(last);
    }
    cron_job
}

/// Batch section of the status. What a `CronJob` that was created again doesn't know is kept.
#[must_use]
pub fn status(
    cron_job: Option<&CronJob>,
    before: Option<&BatchStatus>,
    last_run: Option<LastRun>,
    overdue: bool,
) -> BatchStatus {
    let cron = cron_job.and_then(|cron_job| cron_job.status.as_ref());
    let before = before.cloned().unwrap_or_default();
    BatchStatus {
        last_schedule_time: cron
            .and_then(|cron| cron.last_schedule_time.clone())
            .or(before.last_schedule_time),
        last_successful_time: cron
            .and_then(|cron| cron.last_successful_time.clone())
            .or(before.last_successful_time),
        overdue,
        last_run: last_run.or(before.last_run),
    }
}

/// What is known of batch runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs<'a> {
    /// Whether `spec.suspend` is set.
    pub suspended: bool,
    /// Problem of a run that can't start.
    pub start_problem: Option<&'a Finding>,
    /// The run that ended last.
    pub last: Option<&'a LastRun>,
    /// Why it failed.
    pub failure: Option<&'a str>,
    /// The finding that a run is overdue.
    pub overdue: Option<&'a Finding>,
    /// A run that is under way.
    pub active: Option<&'a Run>,
    /// Options of kubectl for the namespace.
    pub place: &'a str,
}

/// State of batch runs. What somebody can do something about now comes first.
#[must_use]
pub fn finding(runs: &Runs<'_>) -> Finding {
    if runs.suspended {
        return Finding::good(
            reasons::SUSPENDED,
            "the schedule starts no runs while spec.suspend is set",
        );
    }
    if let Some(problem) = runs.start_problem {
        return problem.clone();
    }
    if let Some(run) = runs.last.filter(|run| run.outcome == Outcome::Failed) {
        let failure = runs.failure.map_or(String::new(), |why| format!(": {why}"));
        let (name, place) = (&run.name, runs.place);
        return Finding::bad(
            reasons::RUN_FAILED,
            format!(
                "the last run, {name}, failed{failure}; its log, if a pod is left, is in kubectl \
                 logs job/{name} {place}"
            ),
        );
    }
    if let Some(overdue) = runs.overdue {
        return overdue.clone();
    }
    if let Some(run) = runs.active {
        let retried = failed_attempt(run).map_or(String::new(), |why| {
            format!(" again, after an attempt failed: {why}")
        });
        let message = format!("the run {} is under way{retried}", run.name());
        return Finding::good(reasons::RUNNING, message);
    }
    match runs.last {
        Some(run) => Finding::good(
            reasons::SCHEDULED,
            format!("the last run, {}, succeeded", run.name),
        ),
        None => Finding::good(reasons::SCHEDULED, "no run has ended yet"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use pinpipe_crds::RunAction;
    use pinpipe_plan::run::{ACTION_LABEL, label};

    use super::*;
    use crate::observe::runs::tests::run;

    fn ended(name: &str, condition: &str, time: &str) -> Run {
        let condition = json!({"type": condition, "status": "True", "lastTransitionTime": time});
        let mut run = run(&json!({"conditions": [condition]}), &[]);
        run.job.metadata.name = Some(name.to_owned());
        run
    }

    /// A pod whose container ended with this termination message.
    fn ended_pod(message: &str) -> Pod {
        let state = json!({"terminated": {"exitCode": 1, "message": message}});
        let container = json!({"name": "batch", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": state});
        serde_json::from_value(json!({"status": {"containerStatuses": [container]}})).unwrap()
    }

    #[test]
    fn the_last_ended_run_counts_not_the_last_started() {
        let runs = [
            ended("b", "Failed", "2026-01-02T00:00:00Z"),
            run(&json!({"active": 1}), &[]),
            ended("a", "Complete", "2026-01-03T00:00:00Z"),
            ended("c", "FailureTarget", "2026-01-04T00:00:00Z"),
        ];
        let last = |runs: &[Run]| last_ended(runs).map(|(run, outcome)| (run.name(), outcome));
        assert_eq!(last(&runs), Some(("a".to_owned(), Outcome::Succeeded)));
        assert_eq!(last(&runs[..2]), Some(("b".to_owned(), Outcome::Failed)));
        assert_eq!(last(&[]), None);
    }

    #[test]
    fn counts_come_from_the_termination_message() {
        let message = r#"{"run":"r","outcome":"Succeeded","read":5,"clean":4,"repaired":1,
            "rejected":1,"seconds":2.6,"sinks":{"serving":{"rows":7,"refused":0}}}"#;
        let complete = ended("r", "Complete", "2026-01-02T00:00:00Z").job;
        let (run, loads) = last_run(&complete, Outcome::Succeeded, &[ended_pod(message)]);
        assert_eq!(
            (run.read, run.clean, run.repaired, run.rejected, run.seconds),
            (Some(5), Some(4), Some(1), Some(1), Some(3))
        );
        assert_eq!((loads.failure, loads.sinks["serving"].rows), (None, 7));

        let mut job = ended("r", "Failed", "2026-01-02T00:00:00Z").job;
        let failure = |job: &Job, pods: &[Pod]| last_run(job, Outcome::Failed, pods).1.failure;
        let message = r#"{"run":"r","read":0,"message":"the archive is dead"}"#;
        for (message, expected) in [(message, "the archive is dead"), ("killed", "killed")] {
            assert_eq!(
                failure(&job, &[ended_pod(message)]).as_deref(),
                Some(expected)
            );
        }
        assert_eq!(failure(&job, &[]), None);
        let conditions = job.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].reason = Some("DeadlineExceeded".to_owned());
        let stopped = failure(&job, &[ended_pod("terminated")]).unwrap();
        assert!(stopped.contains("spec.batch.deadline"), "{stopped}");
    }

    #[test]
    fn a_run_whose_pod_cannot_start_is_named_with_the_reason() {
        let started = json!({"active": 1, "startTime": "2026-01-01T10:00:00Z"});
        let container = |reason: &str| {
            json!({"status": {"phase": "Pending", "containerStatuses": [
                {"name": "batch", "image": "r/batch:1", "imageID": "", "ready": false,
                    "restartCount": 0, "state": {"waiting": {"reason": reason}}}]}})
        };
        let unscheduled = json!({"status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient memory."}]}});
        let soon = "2026-01-01T10:00:05Z".parse().unwrap();
        let problem =
            |status: &Value, pods: &[Value]| start_problem(&run(status, pods), "data", soon);
        for (pod, reason) in [
            (&unscheduled, reasons::UNSCHEDULABLE),
            (&container("ImagePullBackOff"), reasons::IMAGE_NOT_PULLABLE),
            (
                &container("CreateContainerConfigError"),
                reasons::CONTAINER_REFUSED,
            ),
        ] {
            let found = problem(&started, std::slice::from_ref(pod)).unwrap();
            assert!(!found.ok && found.reason == reason, "{found:?}");
            assert!(
                found.message.starts_with("the run r can't start: "),
                "{found:?}"
            );
        }
        let starting = container("ContainerCreating");
        let mut running = starting.clone();
        running["status"]["phase"] = json!("Running");
        for pods in [vec![starting], vec![running], vec![]] {
            assert_eq!(problem(&started, &pods), None, "{pods:?}");
        }
        let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        assert_eq!(problem(&failed, &[unscheduled]), None);

        let later = "2026-01-01T10:01:00Z".parse().unwrap();
        let found = start_problem(&run(&started, &[]), "data", later).unwrap();
        assert_eq!(found.reason, reasons::PODS_REFUSED);
    }

    #[test]
    fn a_run_is_stuck_by_its_problem_or_after_some_minutes_unless_it_has_run() {
        let started = json!({"active": 1, "startTime": "2026-01-01T10:00:00Z"});
        let pod = |state: Value| {
            json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:01Z"},
                "status": {"phase": "Pending", "containerStatuses": [{"name": "batch",
                    "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": state}]}})
        };
        let stuck = |pods: &[Value], time: &str| {
            let now = format!("2026-01-01T10:{time}Z").parse().unwrap();
            is_stuck(&run(&started, pods), now)
        };
        let starting = [pod(json!({"waiting": {"reason": "ContainerCreating"}}))];
        assert!(!stuck(&starting, "02:59"), "it pulls its image, for one");
        assert!(stuck(&starting, "03:00"));
        let unpullable = [pod(json!({"waiting": {"reason": "ErrImagePull"}}))];
        assert!(stuck(&unpullable, "00:10"));
        assert!(!stuck(&[], "00:10") && stuck(&[], "00:30"));
        let ended = pod(json!({"terminated": {"exitCode": 1}}));
        let [unpullable] = unpullable;
        assert!(!stuck(&[ended, unpullable], "30:00"), "a retry of a run");
    }

    #[test]
    fn what_somebody_can_do_something_about_comes_first() {
        let failed = last_run(
            &ended("r", "Failed", "2026-01-02T00:00:00Z").job,
            Outcome::Failed,
            &[],
        )
        .0;
        let good = last_run(
            &ended("r", "Complete", "2026-01-02T00:00:00Z").job,
            Outcome::Succeeded,
            &[],
        )
        .0;
        let stuck = Finding::bad(reasons::UNSCHEDULABLE, "500Gi");
        let overdue = Finding::bad(reasons::BATCH_OVERDUE, "late");
        let under_way = run(&json!({"active": 1}), &[]);
        let mut runs = Runs {
            suspended: true,
            start_problem: Some(&stuck),
            last: Some(&failed),
            failure: Some("no Cassandra"),
            overdue: Some(&overdue),
            active: Some(&under_way),
            place: "-n data",
        };
        assert_eq!(finding(&runs).reason, reasons::SUSPENDED);
        runs.suspended = false;
        assert_eq!(finding(&runs), stuck);
        runs.start_problem = None;
        let found = finding(&runs);
        assert!(
            !found.ok && found.reason == reasons::RUN_FAILED,
            "{found:?}"
        );
        assert!(found.message.contains("no Cassandra"), "{found:?}");
        runs.last = Some(&good);
        assert_eq!(finding(&runs), overdue);
        runs.overdue = None;
        let found = finding(&runs);
        assert!(found.ok && found.reason == reasons::RUNNING, "{found:?}");
        let mut retried = run(&json!({"active": 1, "failed": 1}), &[]);
        retried.pods = vec![ended_pod(
            r#"{"run":"r","message":"PostgreSQL refuses us"}"#,
        )];
        runs.active = Some(&retried);
        let found = finding(&runs);
        assert!(
            found.ok && found.message.ends_with("PostgreSQL refuses us"),
            "{found:?}"
        );
        runs.active = None;
        assert!(finding(&runs).ok);
        assert!(finding(&Runs::default()).ok);
    }

    #[test]
    fn a_run_that_the_schedule_has_not_started_counts_unless_it_is_a_backfill() {
        let at = |time: &str| -> Time { serde_json::from_value(json!(time)).unwrap() };
        let [early, late] = ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"].map(at);
        let succeeded = |action: Option<RunAction>, end: &Time| {
            let mut run = run(&json!({"completionTime": end}), &[]);
            let action = action.map(|action| (ACTION_LABEL.to_owned(), label(action).to_owned()));
            run.job.metadata.labels = Some(action.into_iter().collect());
            run
        };
        let cron_job: CronJob =
            serde_json::from_value(json!({"status": {"lastSuccessfulTime": early}})).unwrap();
        let last = |runs: &[Run]| {
            let known = with_last_success(cron_job.clone(), runs);
            known.status.unwrap().last_successful_time.unwrap()
        };
        assert_eq!(last(&[]), early);
        for action in [None, Some(RunAction::Batch), Some(RunAction::FullBatch)] {
            assert_eq!(last(&[succeeded(action, &late)]), late);
        }
        for action in [RunAction::Backfill, RunAction::Import, RunAction::Redrive] {
            assert_eq!(last(&[succeeded(Some(action), &late)]), early);
        }
        let new = with_last_success(CronJob::default(), &[]);
        assert_eq!(new, CronJob::default());
    }

    #[test]
    fn times_are_kept_when_the_cron_job_is_created_again() {
        let before = BatchStatus {
            last_successful_time: Some(
                serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap(),
            ),
            ..BatchStatus::default()
        };
        assert_eq!(status(None, Some(&before), None, false), before);
    }
}
