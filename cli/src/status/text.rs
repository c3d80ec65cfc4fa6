//! A status as one screen of text.

use std::fmt::Write as _;

use super::view::{Component, Shown, Status};
use crate::{
    output::{Cell, Colour, Paint, Table},
    runs::Run,
    time::length,
};

/// `Ready`, as a cell.
pub(super) fn verdict(ready: &str) -> Cell {
    let colour = match ready {
        "True" => Colour::Green,
        "False" => Colour::Red,
        _ => Colour::Yellow,
    };
    Cell::coloured(ready, colour)
}

/// The components with their pods and records.
pub(super) fn components(status: &Status) -> Table {
    let mut table = Table::new(["component", "pods", "in/s", "out/s", "lag", "rejected"]);
    for component in &status.components {
        let Component {
            ready_pods,
            desired_pods,
            ..
        } = component;
        let pods = format!("{ready_pods}/{desired_pods}");
        table.row([
            (&component.name).into(),
            if ready_pods < desired_pods {
                Cell::coloured(pods, Colour::Red)
            } else {
                pods.into()
            },
            number(component.records_in),
            number(component.records_out),
            component
                .lag
                .map_or_else(|| "-".into(), |lag| format!("{lag:.0}").into()),
            component.rejected.map_or_else(
                || "-".into(),
                |share| format!("{:.2}%", share * 100.0).into(),
            ),
        ]);
    }
    table
}

fn number(value: Option<f64>) -> Cell {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1}").into())
}

/// Everything about a pipeline.
pub(super) fn screen(status: &Status, paint: Paint) -> String {
    let mut text = format!("{}/{}", status.namespace, status.name);
    if let Some(url) = &status.ingest_url {
        let _ = write!(text, "  {url}");
    }
    text.push_str("\n\n");
    text.push_str(&conditions(&status.conditions).text(paint));
    text.push('\n');
    text.push_str(&components(status).text(paint));
    text.push('\n');
    text.push_str(&run("running:  ", status.running.as_ref()));
    text.push_str(&run("last run: ", status.last_run.as_ref()));
    if let Some(answers) = &status.answers {
        let _ = writeln!(text, "answers:   {} old", length(answers.seconds));
    }
    for note in &status.notes {
        let _ = writeln!(text, "not shown: {note}");
    }
    let step = match &status.next_step {
        Some(step) => paint.text(step, Colour::Yellow),
        None => "nothing to do".to_owned(),
    };
    let _ = writeln!(text, "next step: {step}");
    text
}

fn conditions(conditions: &[Shown]) -> Table {
    let mut table = Table::new(["condition", "status", "for", "reason", "message"]);
    for condition in conditions {
        // These are True while something is wrong.
        let wrong = ["Stalled", "Reconciling"].contains(&&*condition.kind);
        let status = if wrong {
            Cell::coloured(&condition.status, Colour::Yellow)
        } else {
            verdict(&condition.status)
        };
        table.row([
            (&condition.kind).into(),
            status,
            length(condition.seconds).into(),
            (&condition.reason).into(),
            (&condition.message).into(),
        ]);
    }
    table
}

/// A run in a line that begins with this title.
fn run(title: &str, run: Option<&Run>) -> String {
    let Some(run) = run else {
        return String::new();
    };
    let mut text = format!("{title} {} {}", run.name, run.phase);
    if let Some(seconds) = run.seconds {
        let _ = write!(text, " in {}", length(seconds));
    }
    for (count, word) in run.counts() {
        let _ = write!(text, ", {count} {word}");
    }
    if !run.has_succeeded() && !run.message.is_empty() {
        let _ = write!(text, ": {}", run.message);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::api::DynamicObject;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        metrics::parse,
        status::{
            observe::{Observed, Sampled},
            view::Status,
        },
    };

    fn deployment(component: &str, ready: i32) -> k8s_openapi::api::apps::v1::Deployment {
        let deployment = json!({
            "metadata": {"name": format!("pinterest-{component}"),
                "labels": {"app.kubernetes.io/component": component}},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"readyReplicas": ready},
        });
        serde_json::from_value(deployment).unwrap()
    }

    fn sampled(before: &str, after: &str) -> Sampled {
        Sampled {
            first: parse(before),
            second: parse(after),
            seconds: 2.0,
        }
    }

    fn run(name: &str, status: &Value) -> DynamicObject {
        let run = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestRun",
            "metadata": {"name": name},
            "spec": {"pipelineRef": {"name": "pinterest"}, "batch": {}},
            "status": status,
        });
        serde_json::from_value(run).unwrap()
    }

    fn observed() -> Observed {
        let mut pipeline = pinpipe_plan::samples::pipeline(json!({}));
        let condition = |kind, status, reason, message| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let status = json!({
            "conditions": [
                condition("Ready", "False", "SinkUnavailable", "no answer"),
                condition("Reconciling", "True", "SinkUnavailable", "no answer"),
                condition("StreamReady", "False", "SinkUnavailable", "no answer"),
            ],
            "ingest": {"url": "http://pinterest-ingest.data.svc:8080"},
            "batch": {
                "lastSuccessfulTime": "2026-01-01T00:00:00Z",
                "lastRun": {"name": "nightly", "outcome": "Succeeded", "read": 10, "clean": 9,
                    "repaired": 2, "rejected": 1, "seconds": 75},
            },
        });
        pipeline.status = serde_json::from_value(status).unwrap();
        let (accepted, read) = (
            "pinpipe_ingest_records_accepted_total",
            "pinpipe_stream_records_total",
        );
        let stored = "pinpipe_stream_committed_records_total";
        let lag = "pinpipe_stream_lag_records";
        let ingest = [
            sampled(
                &format!("{accepted}{{kind=\"pin\"}} 100"),
                &format!("{accepted}{{kind=\"pin\"}} 140"),
            ),
            // Started again in between.
            sampled(&format!("{accepted} 900"), &format!("{accepted} 10")),
        ];
        let live = sampled(
            &format!("{read}{{outcome=\"clean\"}} 90\n{stored} 80"),
            &format!(
                "{read}{{outcome=\"clean\"}} 96\n{read}{{outcome=\"rejected\"}} 4\n{stored} 85\n\
                 {lag}{{partition=\"0\"}} 5\n{lag}{{partition=\"1\"}} 7"
            ),
        );
        Observed {
            pipeline,
            deployments: vec![
                deployment("stream-live", 1),
                deployment("archive", 2),
                deployment("ingest", 2),
            ],
            runs: vec![
                run(
                    "next",
                    &json!({"phase": "Running", "startTime": "2026-01-01T03:06:55Z",
                "progress": {"step": "Clean", "read": 10, "of": 40}}),
                ),
                run(
                    "nightly",
                    &json!({"phase": "Succeeded", "message": "read 10 records",
                "startTime": "2025-12-31T23:58:45Z", "completionTime": "2026-01-01T00:00:00Z",
                "total": {"read": 10, "clean": 9, "repaired": 2, "rejected": 1}}),
                ),
            ],
            sampled: BTreeMap::from([
                ("ingest".to_owned(), ingest.into()),
                ("stream-live".to_owned(), vec![live]),
            ]),
            notes: vec!["pod x doesn't answer".to_owned()],
            now: "2026-01-01T03:07:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn one_screen_has_all_that_is_known_and_the_next_step() {
        assert_eq!(
            screen(&Status::of(&observed()), Paint::PLAIN),
            "\
data/pinterest  http://pinterest-ingest.data.svc:8080

CONDITION    STATUS  FOR   REASON           MESSAGE
Ready        False   3h7m  SinkUnavailable  no answer
Reconciling  True    3h7m  SinkUnavailable  no answer
StreamReady  False   3h7m  SinkUnavailable  no answer

COMPONENT    PODS  IN/S  OUT/S  LAG  REJECTED
ingest       2/2   25.0  -      -    0.00%
stream-live  1/2   5.0   2.5    12   4.00%
archive      2/2   -     -      -    -

running:   next Running in 5s: Clean 10 of 40
last run:  nightly Succeeded in 1m15s, 10 read, 9 clean, 2 repaired, 1 rejected
answers:   3h7m old
not shown: pod x doesn't answer
next step: docs/how-to/troubleshoot.md#connections
"
        );
    }

    #[test]
    fn programs_get_numbers() {
        let status = serde_json::to_value(Status::of(&observed())).unwrap();
        assert_eq!(status["ready"], "False");
        assert_eq!(status["components"][1]["lag"], 12.0);
        assert_eq!(status["components"][2].get("lag"), None);
        assert_eq!(status["lastRun"]["rejected"], 1);
        assert_eq!(status["answers"]["seconds"], 3 * 3600 + 7 * 60);
    }
}
