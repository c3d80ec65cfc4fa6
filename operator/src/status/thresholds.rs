//! Conditions about the lag of sinks and the share of rejected records. Pure.
//!
//! The conditions have hysteresis and remember their own state: a message names what is above its
//! threshold, never by how much. A condition that became False stays so until the value is below
//! [`LOW`] of its threshold and [`HOLD`] has passed. So a value that moves around its threshold
//! costs few writes.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
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

fn rejects(threshold: f64, metrics: &ComponentMetrics) -> Measured {
    let read: u64 = metrics.answers.iter().map(|answer| answer.read).sum();
    let rejected: u64 = metrics.answers.iter().map(|answer| answer.rejected).sum();
    let limit = threshold * read.max(MIN_RECORDS) as f64;
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
mod tests {
    use pinpipe_plan::samples::{validated, whole};
    use pinpipe_runtime::worker_metrics::WorkerMetrics;
    use serde_json::json;

    use super::*;

    fn with_threshold() -> ValidatedPipeline {
        let mut spec = whole();
        spec["stream"]["sinks"][0]["thresholds"] = json!({"lag": 1000});
        validated(spec)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lag(lag: i64, partitions: u32) -> ComponentMetrics {
        ComponentMetrics {
            asked: 1,
            answers: vec![WorkerMetrics {
                lag,
                partitions,
                ..WorkerMetrics::default()
            }],
            has_problem: false,
        }
    }

    /// Condition about the lag, at a second, given the metrics of the sink `live` with nine
    /// partitions.
    fn next(before: &[Condition], second: i64, metrics: &ComponentMetrics) -> Vec<Condition> {
        let metrics = metrics.clone();
        conditions(
            &with_threshold(),
            &move |_| metrics.clone(),
            9,
            before,
            Some(1),
            at(second),
        )
    }

    fn says(conditions: &[Condition]) -> (&str, &str) {
        assert_eq!(conditions.len(), 1, "{conditions:?}");
        (&conditions[0].status, &conditions[0].reason)
    }

    #[test]
    fn a_lag_that_moves_around_its_threshold_is_written_once() {
        let within = next(&[], 0, &lag(900, 9));
        assert_eq!(says(&within), ("True", reasons::WITHIN_THRESHOLD));
        assert_eq!(next(&within, 10, &lag(1000, 9)), within, "not above it");

        let above = next(&within, 20, &lag(1001, 9));
        assert_eq!(says(&above), ("False", reasons::LAG_ABOVE_THRESHOLD));
        assert!(
            above[0]
                .message
                .starts_with("sink live lags by more than 1000 records: "),
            "{above:?}"
        );
        for (second, value) in [
            (30, 50_000),
            (40, 801),
            (50, 0),
            (320 - 1, 800),
            (900, 801),
            (900, 1000),
        ] {
            assert_eq!(
                next(&above, second, &lag(value, 9)),
                above,
                "{value} at {second}: one status, one message"
            );
        }
        let back = next(&above, 320, &lag(800, 9));
        assert_eq!(
            (says(&back), back[0].last_transition_time.0),
            (("True", reasons::WITHIN_THRESHOLD), at(320))
        );
    }

    #[test]
    fn a_changed_threshold_is_judged_without_regard_to_the_past() {
        let above = next(&[], 0, &lag(1001, 9));
        let mut spec = whole();
        spec["stream"]["sinks"][0]["thresholds"] = json!({"lag": 10_000});
        let now = conditions(
            &validated(spec),
            &|_| lag(9_000, 9),
            9,
            &above,
            Some(2),
            at(10),
        );
        assert_eq!(says(&now), ("True", reasons::WITHIN_THRESHOLD));
    }

    #[test]
    fn an_unknown_value_is_not_guessed() {
        let silent = ComponentMetrics {
            asked: 1,
            ..ComponentMetrics::default()
        };
        let halted = ComponentMetrics {
            has_problem: true,
            ..lag(0, 0)
        };
        for before in [
            vec![],
            next(&[], 0, &lag(5000, 9)),
            next(&[], 0, &lag(0, 9)),
        ] {
            for metrics in [&silent, &halted, &ComponentMetrics::default()] {
                assert_eq!(
                    says(&next(&before, 1000, metrics)),
                    ("Unknown", reasons::METRICS_MISSING),
                    "{metrics:?}"
                );
            }
        }
        // Partitions change hands: what was said stands for that long.
        let moving = lag(0, 4);
        assert_eq!(says(&next(&[], 0, &moving)).0, "Unknown");
        for before in [next(&[], 0, &lag(5000, 9)), next(&[], 0, &lag(0, 9))] {
            assert_eq!(next(&before, 1000, &moving), before);
        }
        assert_eq!(
            says(&next(&[], 0, &lag(1001, 4))).0,
            "False",
            "what is known is enough"
        );
        let half = ComponentMetrics {
            asked: 2,
            ..lag(0, 9)
        };
        assert_eq!(
            says(&next(&[], 0, &half)).0,
            "Unknown",
            "a pod didn't answer"
        );
    }

    #[test]
    fn the_values_of_pods_are_added() {
        let pod = |lag| WorkerMetrics {
            lag,
            partitions: 5,
            ..WorkerMetrics::default()
        };
        let metrics = ComponentMetrics {
            asked: 2,
            answers: vec![pod(600), pod(401)],
            has_problem: false,
        };
        assert_eq!(says(&next(&[], 0, &metrics)).0, "False");
    }

    #[test]
    fn each_sink_has_its_own_threshold() {
        let mut spec = whole();
        let sink = |name: &str, lag: i64| json!({"name": name, "thresholds": {"lag": lag}, "postgres": {"urlSecretRef": {"name": "w", "key": "u"}}});
        spec["stream"]["sinks"] = json!([sink("a", 10), sink("b", 100), sink("c", 1000)]);
        spec["archive"]["thresholds"] = json!({"lag": 5});
        let pipeline = validated(spec);
        assert_eq!(
            measured(&pipeline),
            ["archive", "stream-a", "stream-b", "stream-c"].map(|name| name.parse().unwrap())
        );
        let now = conditions(&pipeline, &|_| lag(50, 9), 9, &[], Some(1), at(0));
        assert!(
            now[0].message.starts_with(
                "sink a lags by more than 10 records; the archive lags by more than 5 records: "
            ),
            "{now:?}"
        );
    }

    #[test]
    fn rejects_are_a_share_of_the_records_that_the_writer_of_dead_letters_read() {
        let pipeline = validated({
            let mut spec = whole();
            spec["deadLetters"] = json!({"thresholds": {"rejectedRatio": 0.01}});
            spec
        });
        assert_eq!(measured(&pipeline), [Component::Archive]);
        let next = |before: &[Condition], second, read, rejected| {
            let metrics = ComponentMetrics {
                asked: 1,
                answers: vec![WorkerMetrics {
                    read,
                    rejected,
                    ..WorkerMetrics::default()
                }],
                has_problem: false,
            };
            conditions(
                &pipeline,
                &move |_| metrics.clone(),
                9,
                before,
                Some(1),
                at(second),
            )
        };
        assert_eq!(says(&next(&[], 0, 0, 0)).0, "True", "nothing came");
        assert_eq!(
            says(&next(&[], 0, 2, 1)).0,
            "True",
            "one is not a hundredth of anything"
        );
        assert_eq!(says(&next(&[], 0, 1000, 10)).0, "True");
        let above = next(&[], 0, 1000, 11);
        assert_eq!(says(&above), ("False", reasons::REJECTS_ABOVE_THRESHOLD));
        assert_eq!(next(&above, 1000, 1000, 9), above);
        assert_eq!(says(&next(&above, 1000, 1000, 8)).0, "True");
    }

    #[test]
    fn without_thresholds_no_metrics_are_read_and_no_condition_exists() {
        let pipeline = validated(whole());
        assert!(measured(&pipeline).is_empty());
        assert_eq!(
            conditions(&pipeline, &|_| lag(1, 1), 9, &[], None, at(0)),
            []
        );
        let mut suspended = with_threshold();
        suspended.suspend = true;
        assert!(measured(&suspended).is_empty());
        let now = conditions(
            &suspended,
            &|_| ComponentMetrics::default(),
            9,
            &[],
            None,
            at(0),
        );
        assert_eq!(says(&now), ("Unknown", reasons::SUSPENDED));
    }

    #[test]
    fn the_message_has_room_for_the_largest_number_of_sinks() {
        let mut spec = whole();
        let name = |at: usize| format!("{at:a>20}");
        spec["stream"]["sinks"] = (0..16)
            .map(|at| json!({"name": name(at), "thresholds": {"lag": 999_999_999_999_i64}, "postgres": {"urlSecretRef": {"name": "w", "key": "u"}}}))
            .collect();
        let now = conditions(
            &validated(spec),
            &|_| lag(1_000_000_000_000, 9),
            9,
            &[],
            None,
            at(0),
        );
        assert!(now[0].message.contains(&name(15)), "{now:?}");
    }
}
