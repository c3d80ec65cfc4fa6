//! Conditions about the lag of sinks and the share of rejected records. Pure.
//!
//! The conditions have hysteresis and remember their own state: a message names what is above its
//! threshold, never by how much. A condition that became False stays so until the value is below
//! [`LOW`] of its threshold and [`HOLD`] has passed. So a value that moves around its threshold
//! costs few writes.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use pinpipe_config::Percentage;
use pinpipe_crds::{condition_types, reasons};
use pinpipe_plan::{component::Component, model::ValidatedPipeline};

use super::{shorten, timestamp};
use crate::observe::worker_health::ComponentMetrics;

/// Shortest time for which a condition stays False.
const HOLD: Duration = Duration::from_mins(5);
/// Share of its threshold that a value must fall below.
const LOW: f64 = 0.8;
/// Number of records below which the share of rejected ones is taken of this number: one of two
/// records isn't half of the traffic.
const MIN_RECORDS: u64 = 100;

/// A value compared with its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Above,
    /// Neither above nor low.
    Near,
    Low,
    /// Not above, as far as it is known; a part is unknown, as during a rebalance.
    Partial,
    Unknown,
}

impl Level {
    fn of(known: f64, threshold: f64, complete: bool, metrics: &ComponentMetrics) -> Self {
        if known > threshold {
            Self::Above
        } else if complete && known <= threshold * LOW {
            Self::Low
        } else if complete {
            Self::Near
        } else if metrics.answers.is_empty() || metrics.has_problem {
            Self::Unknown
        } else {
            Self::Partial
        }
    }
}

/// A value that has a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Measured {
    /// What it belongs to, such as `sink live`.
    owner: String,
    /// Phrase of the message while it is above the threshold.
    phrase: String,
    level: Level,
}

/// Components whose metrics are needed.
#[must_use]
pub fn measured(pipeline: &ValidatedPipeline) -> Vec<Component> {
    if pipeline.suspend {
        return Vec::new();
    }
    let lags = lag_thresholds(pipeline)
        .into_iter()
        .map(|lag| lag.component);
    let rejects = pipeline
        .rejected_threshold
        .and_then(|_| pipeline.dead_letter_writer());
    let mut components: Vec<_> = lags.chain(rejects).collect();
    components.sort_unstable();
    components.dedup();
    components
}

/// Threshold of a component's lag.
struct LagThreshold {
    component: Component,
    /// The component in a message.
    owner: String,
    records: i64,
}

fn lag_thresholds(pipeline: &ValidatedPipeline) -> Vec<LagThreshold> {
    let sinks = pipeline.sinks.iter().filter_map(|sink| {
        let (component, owner) = (Component::stream(&sink.name), format!("sink {}", sink.name));
        Some(LagThreshold {
            component,
            owner,
            records: sink.lag_threshold?,
        })
    });
    let archive = pipeline.archive.iter().filter_map(|archive| {
        let (component, owner) = (Component::Archive, "the archive".to_owned());
        Some(LagThreshold {
            component,
            owner,
            records: archive.lag_threshold?,
        })
    });
    sinks.chain(archive).collect()
}

/// Conditions about thresholds. `metrics` gives the values of a component; `partitions` is the
/// number of partitions of all topics of records.
#[must_use]
pub fn conditions(
    pipeline: &ValidatedPipeline,
    metrics: &dyn Fn(&Component) -> ComponentMetrics,
    partitions: u32,
    before: &[Condition],
    generation: Option<i64>,
    at: Timestamp,
) -> Vec<Condition> {
    let lags = lag_thresholds(pipeline).into_iter();
    let lags = lags.map(|threshold| lag(&threshold, &metrics(&threshold.component), partitions));
    let rejects = pipeline.rejected_threshold.and_then(|threshold| {
        // Every sink reads every record, so one of them is enough.
        Some(rejects(
            threshold,
            &metrics(&pipeline.dead_letter_writer()?),
        ))
    });
    let kinds = [
        Kind {
            type_: condition_types::LAG_WITHIN_THRESHOLD,
            above: reasons::LAG_ABOVE_THRESHOLD,
            advice: "check whether its store keeps up, or give it more replicas; the metric \
                     pinpipe_stream_lag_records has the values",
            measured: lags.collect(),
        },
        Kind {
            type_: condition_types::REJECTS_WITHIN_THRESHOLD,
            above: reasons::REJECTS_ABOVE_THRESHOLD,
            advice: "the metric pinpipe_stream_rejections_total has the reasons; the records are \
                     in the dead-letter topics",
            measured: rejects.into_iter().collect(),
        },
    ];
    let kinds = kinds.into_iter().filter(|kind| !kind.measured.is_empty());
    kinds
        .map(|kind| kind.condition(pipeline.suspend, before, generation, at))
        .collect()
}

fn lag(threshold: &LagThreshold, metrics: &ComponentMetrics, partitions: u32) -> Measured {
    let LagThreshold { owner, records, .. } = threshold;
    let lag = metrics.answers.iter().map(|answer| answer.lag).sum::<i64>() as f64;
    let known: u32 = metrics.answers.iter().map(|answer| answer.partitions).sum();
    let complete = all_answered(metrics) && known >= partitions;
    Measured {
        owner: owner.clone(),
        phrase: format!("{owner} lags by more than {records} records"),
        level: Level::of(lag, *records as f64, complete, metrics),
    }
}

fn rejects(threshold: Percentage, metrics: &ComponentMetrics) -> Measured {
    let read: u64 = metrics.answers.iter().map(|answer| answer.read).sum();
    let rejected: u64 = metrics.answers.iter().map(|answer| answer.rejected).sum();
    let limit = threshold.of(read.max(MIN_RECORDS));
    Measured {
        owner: "the worker that writes the dead letters".to_owned(),
        phrase: format!(
            "more than {threshold} of the records of the last ten minutes were rejected"
        ),
        level: Level::of(rejected as f64, limit, all_answered(metrics), metrics),
    }
}

fn all_answered(metrics: &ComponentMetrics) -> bool {
    metrics.asked > 0 && metrics.answers.len() == metrics.asked
}

/// A condition and the values it is about.
struct Kind {
    type_: &'static str,
    /// Its reason while a value is above its threshold.
    above: &'static str,
    advice: &'static str,
    measured: Vec<Measured>,
}

impl Kind {
    fn condition(
        &self,
        suspended: bool,
        before: &[Condition],
        generation: Option<i64>,
        at: Timestamp,
    ) -> Condition {
        let before = before
            .iter()
            .find(|condition| condition.type_ == self.type_);
        let (status, reason, message) = self.judge(suspended, before, at);
        let kept = before.filter(|before| before.status == status);
        Condition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: shorten(&message),
            observed_generation: generation,
            last_transition_time: kept.map_or_else(
                || timestamp(at),
                |before| before.last_transition_time.clone(),
            ),
        }
    }

    /// Status, reason and message.
    fn judge(
        &self,
        suspended: bool,
        before: Option<&Condition>,
        at: Timestamp,
    ) -> (&'static str, &'static str, String) {
        if suspended {
            let message = "unknown while spec.suspend is set".to_owned();
            return ("Unknown", reasons::SUSPENDED, message);
        }
        let judged = self
            .measured
            .iter()
            .map(|value| (value, is_above(value, before, at)));
        let judged: Vec<_> = judged.collect();
        let with = |state| judged.iter().filter(move |(_, found)| *found == state);
        let above: Vec<_> = with(Some(true))
            .map(|(value, _)| value.phrase.as_str())
            .collect();
        if !above.is_empty() {
            return (
                "False",
                self.above,
                format!("{}: {}", above.join("; "), self.advice),
            );
        }
        let unknown: Vec<_> = with(None).map(|(value, _)| value.owner.as_str()).collect();
        if !unknown.is_empty() {
            let owners = unknown.join(", ");
            let message = format!("no values from {owners}; the other conditions say why");
            return ("Unknown", reasons::METRICS_MISSING, message);
        }
        (
            "True",
            reasons::WITHIN_THRESHOLD,
            "every value is within its threshold".to_owned(),
        )
    }
}

/// Whether a value counts as above its threshold. None: it isn't known.
fn is_above(value: &Measured, before: Option<&Condition>, at: Timestamp) -> Option<bool> {
    let was_false = before.filter(|before| before.status == "False");
    // A changed threshold gives another phrase, and is judged without regard to the past.
    let was_above = was_false.is_some_and(|before| before.message.contains(&value.phrase));
    let held = was_false.is_some_and(|before| {
        let since = at.duration_since(before.last_transition_time.0);
        Duration::try_from(since).unwrap_or_default() < HOLD
    });
    match value.level {
        Level::Above => Some(true),
        Level::Near => Some(was_above),
        Level::Low => Some(was_above && held),
        Level::Partial if was_above => Some(true),
        Level::Partial => before
            .filter(|before| before.status != "Unknown")
            .map(|_| false),
        Level::Unknown => None,
    }
}

#[cfg(test)]
mod tests;
