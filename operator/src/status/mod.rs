//! The status: findings become conditions, and batch runs and events are reported.
//!
//! Nothing in a status changes by itself: there are no restart counts and no ages. So a pipeline at
//! rest has one status, which is written once.

pub mod batch_runs;
pub mod deployment;
pub mod events;
pub mod runs;
pub mod schedule;
pub mod sinks;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use pinpipe_crds::{condition_types, reasons};
use pinpipe_runtime::kafka::Unreachable;

use self::sinks::SinkFinding;
use crate::finding::Finding;

/// Findings about the parts of a pipeline. None: the part isn't deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Progress of a suspension.
    pub suspension: Option<Finding>,
    /// Annotations that do nothing any more, which have no condition of their own.
    pub annotations: Option<Finding>,
    /// The topics.
    pub topics: Finding,
    /// The REST service.
    pub ingest: Option<Finding>,
    /// The stream sinks together.
    pub stream: Option<Finding>,
    /// The archive.
    pub archive: Option<Finding>,
    /// Each stream sink and the archive, which have no conditions of their own.
    pub sinks: Vec<SinkFinding>,
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
            ("", "annotation", self.annotations),
            (condition_types::SUSPENDED, "suspension", self.suspension),
            (condition_types::TOPICS_READY, "topics", Some(self.topics)),
            (condition_types::INGEST_READY, "ingest", self.ingest),
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
                message: message(&finding, kept.map(|old| (&*old.reason, &*old.message))),
                observed_generation: generation,
                last_transition_time: kept
                    .map_or_else(|| timestamp(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Message of a condition or a sink. `kept` are its reason and message before, if the status is the
/// same. A worker's sentence is written once while only its numbers move: the end of a log, for
/// one, moves all the time while a sink that halted stays where it is. So is the first answer of a
/// registry, which may name another port with each attempt, and the cause of an outage of the
/// brokers, which not every attempt finds.
fn message(finding: &Finding, kept: Option<(&str, &str)>) -> String {
    let message = shorten(&finding.message);
    let is_moving = |(reason, old): &(&str, &str)| {
        let is_worker = reasons::FROM_WORKERS.contains(&finding.reason);
        let is_pull = finding.reason == reasons::IMAGE_NOT_PULLABLE;
        *reason == finding.reason
            && (is_worker && without_numbers(old) == without_numbers(&message)
                || is_pull && answered_pull(old) == image_of_pull(&message)
                || Unreachable::is_same_outage(old, &message))
    };
    kept.filter(is_moving)
        .map_or_else(|| message.clone(), |(_, old)| old.to_owned())
}

/// The part of a message about an image before the registry's answer. None: it has no answer.
fn answered_pull(message: &str) -> Option<&str> {
    message
        .split_once(" can't be pulled (")
        .map(|(image, _)| image)
}

/// The part of a message about an image before the registry's answer, if it has one.
fn image_of_pull(message: &str) -> Option<&str> {
    message
        .split_once(" can't be pulled")
        .map(|(image, _)| image)
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
mod tests;
