//! What the status says, and when a condition's transition time moves.
//!
//! Nothing said here moves by itself: no counts of restarts, no ages. So a pipeline at rest has one
//! status, and it is written once.

pub mod batch;
pub mod health;
pub mod reasons;
pub mod thresholds;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use pinpipe_crds::condition_types;

/// How something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is well.
    pub ok: bool,
    /// One of [`reasons`].
    pub reason: &'static str,
    /// What is the matter and what to do, in a sentence.
    pub message: String,
}

impl Finding {
    /// It is well.
    #[must_use]
    pub fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            ok: true,
            reason,
            message: message.into(),
        }
    }

    /// It isn't.
    #[must_use]
    pub fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            ok: false,
            reason,
            message: message.into(),
        }
    }

    /// The first that isn't well, else the first; `None` of none.
    #[must_use]
    pub fn worst(findings: Vec<Self>) -> Option<Self> {
        let at = findings.iter().position(|finding| !finding.ok).unwrap_or(0);
        findings.into_iter().nth(at)
    }
}

/// How each part of a pipeline stands. None: the part isn't deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// How far a suspension has come. None: there is none.
    pub suspension: Option<Finding>,
    /// What of the things annotations ask for can't be done, which has no condition of its own.
    /// None: nothing.
    pub requests: Option<Finding>,
    /// The topics.
    pub topics: Finding,
    /// Ingest.
    pub ingest: Finding,
    /// The live sinks together.
    pub stream: Option<Finding>,
    /// The archive.
    pub archive: Option<Finding>,
    /// Batch runs.
    pub batch: Option<Finding>,
    /// The emulator, which has no condition of its own.
    pub emulator: Option<Finding>,
}

impl Findings {
    /// By condition type, `Ready` first.
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
        // While nothing runs, a broker that is away hurts nobody.
        let matters =
            |type_: &str| !(suspension.is_some() && type_ == condition_types::TOPICS_READY);
        let bad: Vec<_> = parts
            .iter()
            .filter(|(type_, _, _)| matters(type_))
            .filter_map(|(_, part, finding)| finding.as_ref().filter(|f| !f.ok).map(|f| (*part, f)))
            .collect();
        let ready = match bad.as_slice() {
            [] => suspension.unwrap_or_else(|| Finding::good(reasons::READY, "everything works")),
            [(part, first), rest @ ..] => {
                let others: Vec<_> = rest.iter().map(|(part, _)| *part).collect();
                let more = if others.is_empty() {
                    String::new()
                } else {
                    format!(" (also not ready: {})", others.join(", "))
                };
                Finding::bad(first.reason, format!("{part}: {}{more}", first.message))
            }
        };
        let parts = parts
            .into_iter()
            .filter_map(|(type_, _, finding)| finding.map(|finding| (type_, finding)));
        summary(ready)
            .into_iter()
            .chain(parts)
            .filter(|(type_, _)| !type_.is_empty())
            .collect()
    }
}

/// How the pipeline stands as a whole: `Ready`, and where that isn't True, either `Reconciling` or
/// `Stalled`, which are there only then. Source: sigs.k8s.io/cli-utils, `pkg/kstatus`, by which
/// Flux, kpt and others tell how far an object is.
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

/// The types of [`summary`]'s conditions.
pub const SUMMARY: [&str; 3] = [
    condition_types::READY,
    condition_types::RECONCILING,
    condition_types::STALLED,
];

/// `Ready` where it says something else than before.
#[must_use]
pub fn ready_anew<'a>(before: &[Condition], now: &'a [Condition]) -> Option<&'a Condition> {
    let ready = now
        .iter()
        .find(|condition| condition.type_ == condition_types::READY)?;
    let same = |old: &Condition| {
        (&old.type_, &old.status, &old.reason) == (&ready.type_, &ready.status, &ready.reason)
    };
    (!before.iter().any(same)).then_some(ready)
}

/// The conditions to be written. One whose status is as before keeps its transition time.
#[must_use]
pub fn conditions(
    before: &[Condition],
    findings: Vec<(&'static str, Finding)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|(type_, finding)| {
            let status = if finding.ok { "True" } else { "False" };
            let kept = before
                .iter()
                .find(|old| old.type_ == type_ && old.status == status);
            let message = shorten(&finding.message);
            let message = kept
                .filter(|old| {
                    old.reason == finding.reason && reasons::FROM_WORKERS.contains(&finding.reason)
                })
                .map(|old| &old.message)
                .filter(|old| without_figures(old) == without_figures(&message))
                .cloned()
                .unwrap_or(message);
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: finding.reason.to_owned(),
                message,
                observed_generation: generation,
                last_transition_time: kept
                    .map_or_else(|| self::now(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

/// A sentence without its numbers. The log's end, say, moves all the time while a sink stands still
/// before it, and isn't told anew each time.
fn without_figures(message: &str) -> String {
    message
        .split(|c: char| c.is_ascii_digit())
        .filter(|words| !words.is_empty())
        .collect::<Vec<_>>()
        .join("#")
}

/// A time as a condition has it: of whole seconds.
pub(crate) fn now(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// At most what an event's note may hold, and a person reads.
pub(crate) fn shorten(message: &str) -> String {
    const MOST: usize = 1024;
    const CUT: &str = "…";
    if message.len() <= MOST {
        return message.to_owned();
    }
    format!(
        "{}{CUT}",
        &message[..message.floor_char_boundary(MOST - CUT.len())]
    )
}

#[cfg(test)]
mod tests {
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
    fn a_reset_that_cannot_be_done_is_told_and_touches_no_other_condition() {
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
    fn what_is_not_ready_is_worked_on_or_stalled_and_what_is_ready_is_neither() {
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
    fn ready_is_told_anew_when_its_status_or_reason_changes() {
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
            ready_anew(&[], &first).map(|ready| ready.reason.as_str()),
            Some(reasons::PROGRESSING)
        );
        let more = write(&first, progress("1 of 2"));
        assert_eq!(ready_anew(&first, &more), None, "other words");
        let crashed = write(&more, Finding::bad(reasons::CRASHING, "no url"));
        assert!(ready_anew(&more, &crashed).is_some(), "another reason");
        assert!(
            ready_anew(&crashed, &write(&crashed, good())).is_some(),
            "another status"
        );
    }

    #[test]
    fn a_sentence_of_a_worker_is_written_once_while_only_its_figures_move() {
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
        let other = stopped("position 5 of u[0], the log holds 10 to 1204").conditions();
        assert_ne!(conditions(&first, other, Some(1), at(200)), first);
        // Another's figures are what changed.
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
    fn a_part_taken_out_loses_its_condition() {
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
        let documented = include_str!("../../../docs/reference/conditions.md");
        let constants = include_str!("reasons.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub const ")?.split('"').nth(1));
        for reason in constants {
            assert!(
                documented.contains(&format!("`{reason}`")),
                "docs/reference/conditions.md says nothing of {reason}"
            );
        }
        for reason in reasons::STALLED {
            assert!(
                documented.contains(&format!("`{reason}`\\*")),
                "docs/reference/conditions.md doesn't mark {reason}"
            );
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert!(shorten(&"ü".repeat(2000)).len() <= 1024);
        assert_eq!(shorten("short"), "short");
    }
}
