//! Whether lag and rejected records are within what the resource says. Pure.
//!
//! A condition is its own memory: a message names what is above its threshold, never by how much,
//! and while it does, that has to come well below before the message lets go of it, and not before
//! [`HOLD`] has passed. So figures that go up and down about a threshold cost few writes.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use pinpipe_crds::condition_types;
use pinpipe_runtime::figures::Figures;

use super::{now, reasons, shorten};
use crate::validate::ValidatedPipeline;

/// How long a condition stays False at least.
const HOLD: Duration = Duration::from_mins(5);
/// What figures must come down to, of their threshold.
const WELL_BELOW: f64 = 0.8;
/// The share of rejected records is that of so many records at least: one of two isn't half of what
/// comes.
const FEWEST: u64 = 100;

/// What the workers of a component told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Pods that were asked.
    pub asked: usize,
    /// What those told that answered.
    pub answers: Vec<Figures>,
    /// Whether they say that something is the matter.
    pub ails: bool,
}

/// How a figure stands to its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Above,
    /// Not above, and not well below.
    Near,
    WellBelow,
    /// Some of it isn't known right now, such as while partitions change hands; what is known isn't
    /// above.
    Partial,
    Unknown,
}

impl Level {
    fn of(known: f64, threshold: f64, complete: bool, told: &Told) -> Self {
        if known > threshold {
            Self::Above
        } else if complete && known <= threshold * WELL_BELOW {
            Self::WellBelow
        } else if complete {
            Self::Near
        } else if told.answers.is_empty() || told.ails {
            Self::Unknown
        } else {
            Self::Partial
        }
    }
}

/// A figure that has a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Watched {
    /// Whose figure it is: `sink live`.
    whose: String,
    /// What is said while it is above.
    phrase: String,
    level: Level,
}

/// The components that are to tell their figures.
#[must_use]
pub fn watched(pipeline: &ValidatedPipeline) -> Vec<String> {
    if pipeline.suspend {
        return Vec::new();
    }
    let lags = lag_thresholds(pipeline)
        .into_iter()
        .map(|(component, _, _)| component);
    let rejects = pipeline
        .rejected_threshold
        .and_then(|_| pipeline.dead_letter_writer());
    let mut components: Vec<_> = lags.chain(rejects).collect();
    components.sort_unstable();
    components.dedup();
    components
}

/// Component, what it is called, and its threshold of lag, of all that have one.
fn lag_thresholds(pipeline: &ValidatedPipeline) -> Vec<(String, String, i64)> {
    let sinks = pipeline.sinks.iter().filter_map(|sink| {
        Some((
            format!("stream-{}", sink.name),
            format!("sink {}", sink.name),
            sink.lag_threshold?,
        ))
    });
    let archive = pipeline.archive.iter().filter_map(|archive| {
        Some((
            "archive".to_owned(),
            "the archive".to_owned(),
            archive.lag_threshold?,
        ))
    });
    sinks.chain(archive).collect()
}

/// The conditions of thresholds. `told` is what components told; `partitions` are those of the
/// topics of records, in all.
#[must_use]
pub fn conditions(
    pipeline: &ValidatedPipeline,
    told: &dyn Fn(&str) -> Told,
    partitions: u32,
    before: &[Condition],
    generation: Option<i64>,
    at: Timestamp,
) -> Vec<Condition> {
    let lags = lag_thresholds(pipeline)
        .into_iter()
        .map(|(component, whose, threshold)| {
            let told = told(&component);
            let lag = told.answers.iter().map(|answer| answer.lag).sum::<i64>() as f64;
            let known: u32 = told.answers.iter().map(|answer| answer.partitions).sum();
            let complete =
                told.answers.len() == told.asked && told.asked > 0 && known >= partitions;
            let level = Level::of(lag, threshold as f64, complete, &told);
            Watched {
                phrase: format!("{whose} lags by more than {threshold} records"),
                whose,
                level,
            }
        });
    let rejects = pipeline.rejected_threshold.and_then(|threshold| {
        // Every sink reads every record: one is enough.
        let told = told(&pipeline.dead_letter_writer()?);
        let read: u64 = told.answers.iter().map(|answer| answer.read).sum();
        let rejected: u64 = told.answers.iter().map(|answer| answer.rejected).sum();
        let complete = told.answers.len() == told.asked && told.asked > 0;
        let level = Level::of(
            rejected as f64,
            threshold * read.max(FEWEST) as f64,
            complete,
            &told,
        );
        let phrase =
            format!("more than {threshold} of the records of the last ten minutes were rejected");
        Some(Watched {
            whose: "the worker that writes the dead letters".to_owned(),
            phrase,
            level,
        })
    });
    let kinds = [
        Kind {
            type_: condition_types::LAG_WITHIN_THRESHOLD,
            above: reasons::LAG_ABOVE_THRESHOLD,
            advice: "see whether its store keeps up, or give it more replicas; pinpipe_stream_lag_records has the figures",
            watched: lags.collect(),
        },
        Kind {
            type_: condition_types::REJECTS_WITHIN_THRESHOLD,
            above: reasons::REJECTS_ABOVE_THRESHOLD,
            advice: "pinpipe_stream_rejections_total tells why; the records are in the dead-letter topics",
            watched: rejects.into_iter().collect(),
        },
    ];
    let kinds = kinds.into_iter().filter(|kind| !kind.watched.is_empty());
    kinds
        .map(|kind| kind.condition(pipeline.suspend, before, generation, at))
        .collect()
}

/// A condition and what it is about.
struct Kind {
    type_: &'static str,
    /// Its reason while something is above its threshold.
    above: &'static str,
    advice: &'static str,
    watched: Vec<Watched>,
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
            last_transition_time: kept
                .map_or_else(|| now(at), |before| before.last_transition_time.clone()),
        }
    }

    fn judge(
        &self,
        suspended: bool,
        before: Option<&Condition>,
        at: Timestamp,
    ) -> (&'static str, &'static str, String) {
        if suspended {
            return (
                "Unknown",
                reasons::SUSPENDED,
                "nobody tells, since spec.suspend is set".to_owned(),
            );
        }
        let is_above = |watched: &Watched| is_above(watched, before, at);
        let above: Vec<_> = self
            .watched
            .iter()
            .filter(|w| is_above(w) == Some(true))
            .map(|w| w.phrase.as_str())
            .collect();
        if !above.is_empty() {
            return (
                "False",
                self.above,
                format!("{}: {}", above.join("; "), self.advice),
            );
        }
        let silent: Vec<_> = self
            .watched
            .iter()
            .filter(|w| is_above(w).is_none())
            .map(|w| w.whose.as_str())
            .collect();
        if !silent.is_empty() {
            let message = format!(
                "{} can't tell now; the other conditions say why",
                silent.join(", ")
            );
            return ("Unknown", reasons::FIGURES_MISSING, message);
        }
        (
            "True",
            reasons::WITHIN_THRESHOLD,
            "within what spec says".to_owned(),
        )
    }
}

/// Whether a figure counts as above its threshold. None: that isn't known.
fn is_above(watched: &Watched, before: Option<&Condition>, at: Timestamp) -> Option<bool> {
    let was_false = before.filter(|before| before.status == "False");
    // Another threshold makes another phrase, and is judged anew.
    let was_above = was_false.is_some_and(|before| before.message.contains(&watched.phrase));
    let held = was_false.is_some_and(|before| {
        Duration::try_from(at.duration_since(before.last_transition_time.0)).unwrap_or_default()
            < HOLD
    });
    match watched.level {
        Level::Above => Some(true),
        Level::Near => Some(was_above),
        Level::WellBelow => Some(was_above && held),
        Level::Partial if was_above => Some(true),
        Level::Partial => before
            .filter(|before| before.status != "Unknown")
            .map(|_| false),
        Level::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::tests::{validated, whole};

    fn watching() -> ValidatedPipeline {
        let mut spec = whole();
        spec["stream"]["sinks"][0]["thresholds"] = json!({"lag": 1000});
        validated(spec)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lag(lag: i64, partitions: u32) -> Told {
        Told {
            asked: 1,
            answers: vec![Figures {
                lag,
                partitions,
                ..Figures::default()
            }],
            ails: false,
        }
    }

    /// What the condition of lag says, at a second, by what the sink `live` told of its nine
    /// partitions.
    fn next(before: &[Condition], second: i64, told: &Told) -> Vec<Condition> {
        let told = told.clone();
        conditions(
            &watching(),
            &move |_| told.clone(),
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
    fn a_lag_that_moves_about_its_threshold_is_told_once() {
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
        for (second, figure) in [
            (30, 50_000),
            (40, 801),
            (50, 0),
            (320 - 1, 800),
            (900, 801),
            (900, 1000),
        ] {
            assert_eq!(
                next(&above, second, &lag(figure, 9)),
                above,
                "{figure} at {second}: one status, one message"
            );
        }
        let back = next(&above, 320, &lag(800, 9));
        assert_eq!(
            (says(&back), back[0].last_transition_time.0),
            (("True", reasons::WITHIN_THRESHOLD), at(320))
        );
    }

    #[test]
    fn another_threshold_is_judged_anew() {
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
    fn what_is_not_known_is_not_guessed() {
        let silent = Told {
            asked: 1,
            ..Told::default()
        };
        let halted = Told {
            ails: true,
            ..lag(0, 0)
        };
        for before in [
            vec![],
            next(&[], 0, &lag(5000, 9)),
            next(&[], 0, &lag(0, 9)),
        ] {
            for told in [&silent, &halted, &Told::default()] {
                assert_eq!(
                    says(&next(&before, 1000, told)),
                    ("Unknown", reasons::FIGURES_MISSING),
                    "{told:?}"
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
        let half = Told {
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
    fn pods_add_up() {
        let pod = |lag| Figures {
            lag,
            partitions: 5,
            ..Figures::default()
        };
        let told = Told {
            asked: 2,
            answers: vec![pod(600), pod(401)],
            ails: false,
        };
        assert_eq!(says(&next(&[], 0, &told)).0, "False");
    }

    #[test]
    fn each_sink_is_held_against_its_own() {
        let mut spec = whole();
        let sink = |name: &str, lag: i64| json!({"name": name, "thresholds": {"lag": lag}, "postgres": {"urlSecretRef": {"name": "w", "key": "u"}}});
        spec["stream"]["sinks"] = json!([sink("a", 10), sink("b", 100), sink("c", 1000)]);
        spec["archive"]["thresholds"] = json!({"lag": 5});
        let pipeline = validated(spec);
        assert_eq!(
            watched(&pipeline),
            ["archive", "stream-a", "stream-b", "stream-c"]
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
    fn rejects_are_a_share_of_what_the_writer_of_dead_letters_read() {
        let pipeline = validated({
            let mut spec = whole();
            spec["deadLetters"] = json!({"thresholds": {"rejectedRatio": 0.01}});
            spec
        });
        assert_eq!(watched(&pipeline), ["archive"]);
        let next = |before: &[Condition], second, read, rejected| {
            let told = Told {
                asked: 1,
                answers: vec![Figures {
                    read,
                    rejected,
                    ..Figures::default()
                }],
                ails: false,
            };
            conditions(
                &pipeline,
                &move |_| told.clone(),
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
    fn without_thresholds_nobody_is_asked_and_nothing_is_said() {
        let pipeline = validated(whole());
        assert!(watched(&pipeline).is_empty());
        assert_eq!(
            conditions(&pipeline, &|_| lag(1, 1), 9, &[], None, at(0)),
            []
        );
        let mut suspended = watching();
        suspended.suspend = true;
        assert!(watched(&suspended).is_empty());
        let now = conditions(&suspended, &|_| Told::default(), 9, &[], None, at(0));
        assert_eq!(says(&now), ("Unknown", reasons::SUSPENDED));
    }

    #[test]
    fn as_many_sinks_as_there_may_be_fit_into_the_message() {
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
