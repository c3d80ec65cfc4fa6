//! How conditions about thresholds change with the metrics.

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

fn status_and_reason(conditions: &[Condition]) -> (&str, &str) {
    assert_eq!(conditions.len(), 1, "{conditions:?}");
    (&conditions[0].status, &conditions[0].reason)
}

#[test]
fn a_lag_that_moves_around_its_threshold_is_written_once() {
    let within = next(&[], 0, &lag(900, 9));
    assert_eq!(
        status_and_reason(&within),
        ("True", reasons::WITHIN_THRESHOLD)
    );
    assert_eq!(next(&within, 10, &lag(1000, 9)), within, "not above it");

    let above = next(&within, 20, &lag(1001, 9));
    assert_eq!(
        status_and_reason(&above),
        ("False", reasons::LAG_ABOVE_THRESHOLD)
    );
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
        (status_and_reason(&back), back[0].last_transition_time.0),
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
    assert_eq!(status_and_reason(&now), ("True", reasons::WITHIN_THRESHOLD));
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
                status_and_reason(&next(&before, 1000, metrics)),
                ("Unknown", reasons::METRICS_MISSING),
                "{metrics:?}"
            );
        }
    }
    // During a rebalance the condition stays as it is.
    let moving = lag(0, 4);
    assert_eq!(status_and_reason(&next(&[], 0, &moving)).0, "Unknown");
    for before in [next(&[], 0, &lag(5000, 9)), next(&[], 0, &lag(0, 9))] {
        assert_eq!(next(&before, 1000, &moving), before);
    }
    assert_eq!(
        status_and_reason(&next(&[], 0, &lag(1001, 4))).0,
        "False",
        "what is known is enough"
    );
    let half = ComponentMetrics {
        asked: 2,
        ..lag(0, 9)
    };
    assert_eq!(
        status_and_reason(&next(&[], 0, &half)).0,
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
    assert_eq!(status_and_reason(&next(&[], 0, &metrics)).0, "False");
}

#[test]
fn each_sink_has_its_own_threshold() {
    let mut spec = whole();
    let sink = |name: &str, lag: i64| {
        json!({
            "name": name,
            "thresholds": {"lag": lag},
            "postgres": {"urlSecretRef": {"name": "w", "key": "u"}},
        })
    };
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
        spec["deadLetters"] = json!({"thresholds": {"maxRejected": "1%"}});
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
    assert_eq!(
        status_and_reason(&next(&[], 0, 0, 0)).0,
        "True",
        "nothing came"
    );
    assert_eq!(
        status_and_reason(&next(&[], 0, 2, 1)).0,
        "True",
        "one is not a hundredth of anything"
    );
    assert_eq!(status_and_reason(&next(&[], 0, 1000, 10)).0, "True");
    let above = next(&[], 0, 1000, 11);
    assert_eq!(
        status_and_reason(&above),
        ("False", reasons::REJECTS_ABOVE_THRESHOLD)
    );
    assert!(
        above[0].message.contains("more than 1% of the records"),
        "{above:?}"
    );
    assert_eq!(next(&above, 1000, 1000, 9), above);
    assert_eq!(status_and_reason(&next(&above, 1000, 1000, 8)).0, "True");
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
    assert_eq!(status_and_reason(&now), ("Unknown", reasons::SUSPENDED));
}

#[test]
fn the_message_names_the_largest_number_of_sinks() {
    let mut spec = whole();
    let name = |at: usize| format!("{at:a>20}");
    spec["stream"]["sinks"] = (0..16)
        .map(|at| {
            json!({
                "name": name(at),
                "thresholds": {"lag": 999_999_999_999_i64},
                "postgres": {"urlSecretRef": {"name": "w", "key": "u"}},
            })
        })
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
