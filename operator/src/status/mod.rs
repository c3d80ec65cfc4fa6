//! The status: findings become conditions, and batch runs, thresholds and events are reported.
//!
//! Nothing in a status changes by itself: there are no restart counts and no ages. So a pipeline at
//! rest has one status, which is written once.

pub mod batch_runs;
pub mod deployment;
pub mod events;
pub mod schedule;
pub mod thresholds;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use pinpipe_crds::{condition_types, reasons};

use crate::finding::Finding;

/// Findings about the parts of a pipeline. None: the part isn't deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Progress of a suspension.
    pub suspension: Option<Finding>,
    /// Problem of an annotation, which has no condition of its own.
    pub requests: Option<Finding>,
    /// The topics.
    pub topics: Finding,
    /// The REST service.
    pub ingest: Finding,
    /// The stream sinks together.
    pub stream: Option<Finding>,
    /// The archive.
    pub archive: Option<Finding>,
    /// Batch runs.
    pub batch: Option<Finding>,
    /// The emulator, which has no condition of its own.
    pub emulator: Option<Finding>,
}

impl Findings {
    /// Findings by condition type, `Ready` first.
    #[must_use]
    pub fn conditions(self) -> Vec<(&'static str, Finding)> {
        let suspension = self.suspension.clone();
        let parts = [
            ("", "annotation", self.requests),
            (condition_types::SUSPENDED, "suspension", self.suspension),
            (condition_types::TOPICS_READY, "topics", Some(self.topics)),
            (condition_types::INGEST_READY, "ingest", Some(self.ingest)),
            (condition_types::STREAM_READY, "stream", self.stream),
            (condition_types::ARCHIVE_READY, "archive", self.archive),
            (condition_types::BATCH_READY, "batch", self.batch),
            ("", "emulator", self.emulator),
        ];
        let counts = |type_: &str, finding: &Finding| match type_ {
            // A broker that is unavailable is no problem of a suspended pipeline.
            condition_types::TOPICS_READY => suspension.is_none(),
            // How a run goes says nothing about what is deployed.
            condition_types::BATCH_READY => NOT_DEPLOYED.contains(&finding.reason),
            _ => true,
        };
        let found = parts
            .iter()
            .filter_map(|(type_, part, finding)| Some((*type_, *part, finding.as_ref()?)));
        let found = found
            .filter(|(type_, _, finding)| counts(type_, finding))
            .map(|(_, part, finding)| (part, finding));
        let bad: Vec<_> = found.filter(|(_, finding)| !finding.ok).collect();
        let ready = match bad.as_slice() {
            [] => suspension.unwrap_or_else(|| Finding::good(reasons::READY, "everything works")),
            [(part, first), rest @ ..] => {
                let others: Vec<_> = rest.iter().map(|(part, _)| *part).collect();
                let more = match others.join(", ") {
                    others if others.is_empty() => others,
                    others => format!(" (also not ready: {others})"),
                };
                Finding::bad(first.reason, format!("{part}: {}{more}", first.message))
            }
        };
        let parts = parts.into_iter();
        let parts = parts.filter_map(|(type_, _, finding)| Some((type_, finding?)));
        summary(ready)
            .into_iter()
            .chain(parts)
            .filter(|(type_, _)| !type_.is_empty())
            .collect()
    }
}

/// Reasons of `BatchReady` that `Ready` depends on: no run can be started, since what starts runs
/// isn't there.
const NOT_DEPLOYED: [&str; 3] = [
    reasons::CHILD_CONFLICT,
    reasons::CHILD_REFUSED,
    reasons::SECRET_MISSING,
];

/// Condition types of [`summary`].
pub const SUMMARY: [&str; 3] = [
    condition_types::READY,
    condition_types::RECONCILING,
    condition_types::STALLED,
];

/// State of the pipeline as a whole: `Ready`, and only where that isn't True, `Reconciling` or
/// `Stalled`. Source: sigs.k8s.io/cli-utils, `pkg/kstatus`, which Flux, kpt and others use.
#[must_use]
pub fn summary(ready: Finding) -> Vec<(&'static str, Finding)> {
    let why = (!ready.ok).then(|| {
        let type_ = if reasons::STALLED.contains(&ready.reason) {
            condition_types::STALLED
        } else {
            condition_types::RECONCILING
        };
        (type_, Finding::good(ready.reason, ready.message.clone()))
    });
    [(condition_types::READY, ready)]
        .into_iter()
        .chain(why)
        .collect()
}

/// `Ready`, if its status or reason changed.
#[must_use]
pub fn changed_ready<'a>(before: &[Condition], now: &'a [Condition]) -> Option<&'a Condition> {
    let ready = now
        .iter()
        .find(|condition| condition.type_ == condition_types::READY)?;
    let is_same = |old: &Condition| {
        (&old.type_, &old.status, &old.reason) == (&ready.type_, &ready.status, &ready.reason)
    };
    (!before.iter().any(is_same)).then_some(ready)
}

/// `BatchReady`, if it became False or True, or is False for another reason, and `Ready` doesn't
/// say the same.
#[must_use]
pub fn changed_batch<'a>(before: &[Condition], now: &'a [Condition]) -> Option<&'a Condition> {
    let find = |list: &'a [Condition], type_: &str| {
        let mut list = list.iter();
        list.find(|condition| condition.type_ == type_)
    };
    let batch = find(now, condition_types::BATCH_READY)?;
    let old = before.iter().find(|old| old.type_ == batch.type_);
    let is_changed = match old {
        Some(old) => {
            old.status != batch.status || (batch.status == "False" && old.reason != batch.reason)
        }
        None => batch.status == "False",
    };
    let is_told = find(now, condition_types::READY)
        .is_some_and(|ready| (&ready.status, &ready.reason) == (&batch.status, &batch.reason));
    (is_changed && !is_told).then_some(batch)
}

/// Conditions to write. One whose status doesn't change keeps its transition time.
#[must_use]
pub fn conditions(
    before: &[Condition],
    findings: Vec<(&'static str, Finding)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let findings = findings.into_iter();
    findings
        .map(|(type_, finding)| {
            let status = if finding.ok { "True" } else { "False" };
            let kept = before
                .iter()
                .find(|old| old.type_ == type_ && old.status == status);
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: finding.reason.to_owned(),
                message: message(&finding, kept),
                observed_generation: generation,
                last_transition_time: kept
                    .map_or_else(|| timestamp(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Message of a condition. A worker's sentence is written once while only its numbers move: the end
/// of a log, for one, moves all the time while a sink that halted stays where it is.
fn message(finding: &Finding, kept: Option<&Condition>) -> String {
    let message = shorten(&finding.message);
    let is_moving = |old: &&Condition| {
        old.reason == finding.reason
            && reasons::FROM_WORKERS.contains(&finding.reason)
            && without_numbers(&old.message) == without_numbers(&message)
    };
    kept.filter(is_moving)
        .map_or_else(|| message.clone(), |old| old.message.clone())
}

/// A message with `#` for each number that stands alone, such as a position or a count. The digits
/// of a name (`a1`), a partition (`t[0]`) or an address are no such number.
fn without_numbers(message: &str) -> String {
    let words = message.split_whitespace().map(|word| {
        let number = word.trim_matches(|c: char| matches!(c, '(' | ')' | ',' | ';' | ':' | '.'));
        let is_number = number.starts_with(|c: char| c.is_ascii_digit())
            && number.trim_end_matches('%').parse::<f64>().is_ok();
        if is_number {
            word.replace(number, "#")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A time as conditions have it, in whole seconds.
#[must_use]
pub fn timestamp(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// A message cut to the length that an event's note may have.
#[must_use]
pub fn shorten(message: &str) -> String {
    const MAX_BYTES: usize = 1024;
    const CUT: &str = "…";
    if message.len() <= MAX_BYTES {
        return message.to_owned();
    }
    format!(
        "{}{CUT}",
        &message[..message.floor_char_boundary(MAX_BYTES - CUT.len())]
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn good() -> Finding {
        Finding::good(reasons::AVAILABLE, "fine")
    }

    fn findings() -> Findings {
        let (topics, ingest) = (good(), good());
        Findings {
            suspension: None,
            requests: None,
            topics,
            ingest,
            stream: Some(good()),
            archive: None,
            batch: None,
            emulator: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ready_is_all_of_them_and_names_the_first_that_is_not() {
        let conditions = findings().conditions();
        let types: Vec<_> = conditions.iter().map(|(type_, _)| *type_).collect();
        assert_eq!(
            types,
            ["Ready", "TopicsReady", "IngestReady", "StreamReady"]
        );
        assert_eq!(
            conditions[0].1,
            Finding::good(reasons::READY, "everything works")
        );

        let bad = Findings {
            ingest: Finding::bad(reasons::IMAGE_NOT_PULLABLE, "no image"),
            emulator: Some(Finding::bad(reasons::CRASHING, "crash")),
            ..findings()
        };
        let ready = bad.conditions().remove(0).1;
        assert_eq!(
            ready,
            Finding::bad(
                reasons::IMAGE_NOT_PULLABLE,
                "ingest: no image (also not ready: emulator)"
            )
        );
    }

    #[test]
    fn a_batch_run_that_fails_leaves_the_pipeline_ready_unless_none_can_be_started() {
        let with = |reason| {
            let batch = Some(Finding::bad(reason, "no"));
            Findings {
                batch,
                ..findings()
            }
            .conditions()
        };
        for reason in [
            reasons::RUN_FAILED,
            reasons::BATCH_OVERDUE,
            reasons::UNSCHEDULABLE,
            reasons::IMAGE_NOT_PULLABLE,
            reasons::PODS_REFUSED,
        ] {
            let found = with(reason);
            assert_eq!(
                found[0].1,
                Finding::good(reasons::READY, "everything works")
            );
            assert!(found.contains(&(condition_types::BATCH_READY, Finding::bad(reason, "no"))));
            assert!(
                found.iter().all(|(type_, _)| !SUMMARY[1..].contains(type_)),
                "{reason}"
            );
        }
        for reason in NOT_DEPLOYED {
            assert_eq!(with(reason)[0].1, Finding::bad(reason, "batch: no"));
        }
    }

    #[test]
    fn an_event_tells_when_batch_runs_go_wrong_and_when_they_are_well_again() {
        let write = |before: &[Condition], batch: Finding| {
            let findings = Findings {
                batch: Some(batch),
                ..findings()
            };
            conditions(before, findings.conditions(), Some(1), at(100))
        };
        let good = |reason| Finding::good(reason, "good");
        let bad = |reason| Finding::bad(reason, "bad");
        let reason = |before: &[Condition], now: &[Condition]| {
            changed_batch(before, now).map(|batch| batch.reason.clone())
        };
        let scheduled = write(&[], good(reasons::SCHEDULED));
        assert_eq!(reason(&[], &scheduled), None);
        let running = write(&scheduled, good(reasons::RUNNING));
        assert_eq!(reason(&scheduled, &running), None);
        let failed = write(&running, bad(reasons::RUN_FAILED));
        assert_eq!(
            reason(&running, &failed).as_deref(),
            Some(reasons::RUN_FAILED)
        );
        assert_eq!(reason(&failed, &failed), None);
        let stuck = write(&failed, bad(reasons::UNSCHEDULABLE));
        assert_eq!(
            reason(&failed, &stuck).as_deref(),
            Some(reasons::UNSCHEDULABLE)
        );
        assert_eq!(
            reason(&stuck, &scheduled).as_deref(),
            Some(reasons::SCHEDULED)
        );
        let missing = write(&scheduled, bad(reasons::SECRET_MISSING));
        assert_eq!(
            reason(&scheduled, &missing),
            None,
            "the event of Ready says it"
        );
    }

    #[test]
    fn a_suspended_pipeline_is_ready_without_its_broker() {
        let away = Findings {
            topics: Finding::bad(reasons::BROKER_UNREACHABLE, "away"),
            ..findings()
        };
        let suspension = |finding| Findings {
            suspension: Some(finding),
            ..away.clone()
        };
        let suspended = suspension(Finding::good(reasons::SUSPENDED, "resume")).conditions();
        assert_eq!(
            suspended[0],
            (
                condition_types::READY,
                Finding::good(reasons::SUSPENDED, "resume")
            )
        );
        assert_eq!(suspended[1].0, condition_types::SUSPENDED);
        let draining = suspension(Finding::bad(reasons::DRAINING, "reads on")).conditions();
        assert_eq!(
            draining[0].1,
            Finding::bad(reasons::DRAINING, "suspension: reads on")
        );
        assert!(!away.conditions()[0].1.ok);
    }

    #[test]
    fn transition_times_move_with_the_status_alone() {
        let first = conditions(&[], findings().conditions(), Some(1), at(100));
        assert!(
            first
                .iter()
                .all(|c| c.last_transition_time == Time(at(100)))
        );

        let again = conditions(&first, findings().conditions(), Some(1), at(200));
        assert_eq!(again, first, "the same findings give the same conditions");

        let other_words = Findings {
            ingest: Finding::good(reasons::AVAILABLE, "still fine"),
            ..findings()
        };
        let reworded = conditions(&first, other_words.conditions(), Some(2), at(200));
        assert!(
            reworded.iter().all(
                |c| c.last_transition_time == Time(at(100)) && c.observed_generation == Some(2)
            )
        );

        let worse = Findings {
            ingest: Finding::bad(reasons::CRASHING, "crash"),
            ..findings()
        };
        let fallen = conditions(&first, worse.conditions(), Some(1), at(300));
        for condition in &fallen {
            let moved = matches!(
                condition.type_.as_str(),
                "Ready" | "Reconciling" | "IngestReady"
            );
            assert_eq!(
                condition.last_transition_time,
                Time(at(if moved { 300 } else { 100 })),
                "{}",
                condition.type_
            );
        }
    }

    #[test]
    fn a_reset_that_cannot_be_done_is_reported_and_changes_no_other_condition() {
        let asked = Findings {
            requests: Some(Finding::bad(reasons::INVALID_RESET, "no sink")),
            ..findings()
        };
        let conditions = asked.conditions();
        assert_eq!(
            conditions[0].1,
            Finding::bad(reasons::INVALID_RESET, "annotation: no sink")
        );
        assert!(conditions.len() == 5 && conditions[1..].iter().all(|(_, finding)| finding.ok));
    }

    /// A reason of `Ready` → the condition that goes with it.
    #[test]
    fn a_pipeline_that_is_not_ready_is_reconciling_or_stalled_and_a_ready_one_is_neither() {
        for (finding, expected) in [
            (good(), None),
            (Finding::good(reasons::SUSPENDED, ""), None),
            (
                Finding::bad(reasons::PROGRESSING, "0 of 1"),
                Some(condition_types::RECONCILING),
            ),
            (
                Finding::bad(reasons::BROKER_UNREACHABLE, "away"),
                Some(condition_types::RECONCILING),
            ),
            (
                Finding::bad(reasons::INVALID_SPEC, "no"),
                Some(condition_types::STALLED),
            ),
            (
                Finding::bad(reasons::TOPIC_MISSING, "gone"),
                Some(condition_types::STALLED),
            ),
            (
                Finding::bad(reasons::TOPIC_CONFLICT, "another's"),
                Some(condition_types::STALLED),
            ),
        ] {
            let found = summary(finding.clone());
            assert_eq!(found[0], (condition_types::READY, finding.clone()));
            let expected = expected.map(|type_| {
                (
                    type_,
                    Finding {
                        ok: true,
                        ..finding
                    },
                )
            });
            assert_eq!(found.get(1), expected.as_ref());
            assert!(found.iter().all(|(type_, _)| SUMMARY.contains(type_)));
        }
    }

    #[test]
    fn ready_counts_as_changed_when_its_status_or_reason_changes() {
        let write = |before: &[Condition], ingest: Finding| {
            conditions(
                before,
                Findings {
                    ingest,
                    ..findings()
                }
                .conditions(),
                Some(1),
                at(100),
            )
        };
        let progress = |message: &str| Finding::bad(reasons::PROGRESSING, message);
        let first = write(&[], progress("0 of 2"));
        assert_eq!(
            changed_ready(&[], &first).map(|ready| ready.reason.as_str()),
            Some(reasons::PROGRESSING)
        );
        let more = write(&first, progress("1 of 2"));
        assert_eq!(changed_ready(&first, &more), None, "other words");
        let crashed = write(&more, Finding::bad(reasons::CRASHING, "no url"));
        assert!(changed_ready(&more, &crashed).is_some(), "another reason");
        assert!(
            changed_ready(&crashed, &write(&crashed, good())).is_some(),
            "another status"
        );
    }

    #[test]
    fn a_sentence_of_a_worker_is_written_once_while_only_its_numbers_move() {
        let stopped = |message: &str| Findings {
            stream: Some(Finding::bad(reasons::OFFSET_OUT_OF_RANGE, message)),
            ..findings()
        };
        let first = conditions(
            &[],
            stopped("position 5 of t[0], the log holds 9 to 99").conditions(),
            Some(1),
            at(100),
        );
        let moved = stopped("position 5 of t[0], the log holds 10 to 1204").conditions();
        assert_eq!(conditions(&first, moved, Some(1), at(200)), first);
        for other in [
            "position 5 of u[0], the log holds 9 to 99",
            "position 5 of t[1], the log holds 9 to 99",
            "position 5 of t1[0], the log holds 9 to 99",
            "position 5 of t[0], the log holds 9 to 99 MiB",
        ] {
            let moved = conditions(&first, stopped(other).conditions(), Some(1), at(200));
            assert_ne!(moved, first, "{other}");
        }
        // The numbers of another reason are what changed.
        let progress = |message: &str| Findings {
            ingest: Finding::bad(reasons::PROGRESSING, message),
            ..findings()
        };
        let first = conditions(&[], progress("0 of 2 pods").conditions(), Some(1), at(100));
        assert_ne!(
            conditions(
                &first,
                progress("1 of 2 pods").conditions(),
                Some(1),
                at(100)
            ),
            first
        );
    }

    #[test]
    fn a_part_that_was_removed_loses_its_condition() {
        let first = conditions(&[], findings().conditions(), Some(1), at(100));
        let without = Findings {
            stream: None,
            ..findings()
        };
        let then = conditions(&first, without.conditions(), Some(2), at(200));
        assert!(then.iter().all(|c| c.type_ != "StreamReady"));
    }

    #[test]
    fn every_reason_is_documented() {
        let page = include_str!("../../../docs/reference/conditions.md");
        let (mut documented, mut stalled) = (BTreeSet::new(), BTreeSet::new());
        for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
            // The first column lists reasons, or in another table conditions, separated by commas.
            let first = row.split(" | ").next().unwrap_or_default();
            for entry in first.split(", ") {
                let marked = entry.strip_suffix("\\*");
                let name = marked.unwrap_or(entry).trim_matches('`');
                documented.insert(name);
                stalled.extend(marked.map(|_| name));
            }
        }
        let constants = include_str!("../../../crds/src/reasons.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub const ")?.split('"').nth(1));
        let missing: Vec<_> = constants
            .filter(|reason| !documented.contains(reason))
            .collect();
        assert_eq!(missing, [""; 0], "not in a table of the page");
        assert_eq!(
            stalled,
            BTreeSet::from(reasons::STALLED),
            "marked on the page"
        );
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert!(shorten(&"ü".repeat(2000)).len() <= 1024);
        assert_eq!(shorten("short"), "short");
    }
}
