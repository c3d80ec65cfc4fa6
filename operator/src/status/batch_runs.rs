//! State of batch runs. Pure.

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job, JobCondition},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use pinpipe_crds::{BatchStatus, LastRun, Outcome, parse_run_report, reasons};

use super::deployment::last_log_line;
use crate::finding::Finding;

/// Condition of a run that has ended. None: it hasn't.
#[must_use]
pub fn has_ended(job: &Job) -> Option<&JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.as_ref()?.iter();
    conditions.find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })
}

/// Name and outcome of the run that ended last.
#[must_use]
pub fn last_ended(jobs: &[Job]) -> Option<(&str, Outcome)> {
    let ended = jobs.iter().filter_map(|job| {
        let condition = has_ended(job)?;
        let outcome = if condition.type_ == "Complete" {
            Outcome::Succeeded
        } else {
            Outcome::Failed
        };
        let name = job.metadata.name.as_deref()?;
        Some((
            condition
                .last_transition_time
                .as_ref()
                .map(|Time(time)| *time),
            name,
            outcome,
        ))
    });
    ended
        .max_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)))
        .map(|(_, name, outcome)| (name, outcome))
}

/// Termination message of a run's last pod.
#[must_use]
pub fn termination_message(pods: &[Pod]) -> Option<String> {
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

/// A run that ended, as the status keeps it, and the sentence it failed with.
#[must_use]
pub fn last_run(job: &str, outcome: Outcome, message: Option<&str>) -> (LastRun, Option<String>) {
    let message = message.unwrap_or_default();
    let failure = (outcome == Outcome::Failed)
        .then(|| last_log_line(message))
        .flatten();
    (parse_run_report(job, outcome, message), failure)
}

/// Batch section of the status. What a `CronJob` that was created again doesn't know is kept.
#[must_use]
pub fn status(
    cron_job: Option<&CronJob>,
    before: Option<&BatchStatus>,
    last_run: Option<LastRun>,
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
        last_run: last_run.or(before.last_run),
        last_requested: before.last_requested,
        requested_before: before.requested_before,
    }
}

/// State of batch runs. `failure` is the sentence the last run failed with; `place` are the options
/// of kubectl for the namespace.
#[must_use]
pub fn finding(
    suspended: bool,
    last_run: Option<&LastRun>,
    failure: Option<&str>,
    place: &str,
) -> Finding {
    match last_run {
        _ if suspended => Finding::good(
            reasons::SUSPENDED,
            "no runs start while spec.suspend is set",
        ),
        Some(run) if run.outcome == Outcome::Failed => {
            let failure = failure.map_or(String::new(), |failure| format!(": {failure}"));
            Finding::bad(
                reasons::RUN_FAILED,
                format!(
                    "the last run, {}, failed{failure}; its log is in kubectl logs job/{} {place}",
                    run.name, run.name
                ),
            )
        }
        Some(run) => Finding::good(
            reasons::SCHEDULED,
            format!("the last run, {}, succeeded", run.name),
        ),
        None => Finding::good(reasons::SCHEDULED, "no run has ended yet"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(name: &str, condition: &str, time: &str) -> Job {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": condition, "status": "True", "lastTransitionTime": time}]}}),
        )
        .unwrap()
    }

    #[test]
    fn the_last_ended_run_counts_not_the_last_started() {
        let running: Job =
            serde_json::from_value(json!({"metadata": {"name": "z"}, "status": {"active": 1}}))
                .unwrap();
        let jobs = [
            job("b", "Failed", "2026-01-02T00:00:00Z"),
            running,
            job("a", "Complete", "2026-01-03T00:00:00Z"),
            job("c", "FailureTarget", "2026-01-04T00:00:00Z"),
        ];
        assert_eq!(last_ended(&jobs), Some(("a", Outcome::Succeeded)));
        assert_eq!(last_ended(&jobs[..2]), Some(("b", Outcome::Failed)));
        assert_eq!(last_ended(&[]), None);
    }

    #[test]
    fn counts_come_from_the_termination_message() {
        let message = r#"{"run":"r","outcome":"Succeeded","read":5,"clean":4,"repaired":1,
            "rejected":1,"seconds":2.6}"#;
        let (run, said) = last_run("r", Outcome::Succeeded, Some(message));
        assert_eq!(
            (run.read, run.clean, run.repaired, run.rejected, run.seconds),
            (Some(5), Some(4), Some(1), Some(1), Some(3))
        );
        assert_eq!(said, None);

        let (run, said) = last_run(
            "r",
            Outcome::Failed,
            Some(r#"{"run":"r","read":0,"message":"the archive is dead"}"#),
        );
        assert_eq!(
            (run.outcome, said.as_deref()),
            (Outcome::Failed, Some("the archive is dead"))
        );
        assert_eq!(
            last_run("r", Outcome::Failed, Some("killed")).1.as_deref(),
            Some("killed")
        );
        assert_eq!(last_run("r", Outcome::Failed, None).1, None);
    }

    #[test]
    fn a_failed_run_makes_it_not_ready_until_the_next_succeeds() {
        let run = |outcome| last_run("r", outcome, None).0;
        assert!(finding(false, None, None, "").ok);
        assert!(finding(false, Some(&run(Outcome::Succeeded)), None, "").ok);
        let failed = finding(
            false,
            Some(&run(Outcome::Failed)),
            Some("no Cassandra"),
            "-n data",
        );
        assert!(
            !failed.ok && failed.message.contains("no Cassandra"),
            "{failed:?}"
        );
        assert_eq!(
            finding(true, Some(&run(Outcome::Failed)), None, "").reason,
            reasons::SUSPENDED
        );
    }

    #[test]
    fn times_are_kept_when_the_cron_job_is_created_again() {
        let before = BatchStatus {
            last_successful_time: Some(
                serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap(),
            ),
            ..BatchStatus::default()
        };
        assert_eq!(status(None, Some(&before), None), before);
    }
}
