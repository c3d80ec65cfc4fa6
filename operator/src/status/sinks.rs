//! Status of the sinks: those that read the topics (stream sinks and the archive), and those that
//! batch runs load. Pure.

use std::collections::BTreeMap;

use pinpipe_crds::{SinkKind, SinkStatus, reasons};
use pinpipe_plan::{component::Component, model::BatchSink};
use serde::Deserialize;

use super::{message, shorten};
use crate::finding::Finding;

/// State of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkFinding {
    /// Its component.
    pub component: Component,
    /// Kind of its store.
    pub kind: SinkKind,
    /// Finding about its component.
    pub finding: Finding,
    /// Number of desired pods.
    pub replicas: i32,
    /// Number of ready pods.
    pub ready_replicas: i32,
}

/// Status of the sinks. A sink's sentence stays while only its numbers move.
#[must_use]
pub fn statuses(before: &[SinkStatus], sinks: &[SinkFinding]) -> Vec<SinkStatus> {
    let statuses = sinks.iter().map(|sink| {
        let finding = &sink.finding;
        let name = sink.component.sink().unwrap_or_default();
        let kept = before
            .iter()
            .find(|old| old.name == name && old.ready == finding.ok);
        SinkStatus {
            name: name.to_owned(),
            kind: sink.kind,
            ready: finding.ok,
            reason: finding.reason.to_owned(),
            message: message(finding, kept.map(|old| (&*old.reason, &*old.message))),
            replicas: Some(sink.replicas),
            ready_replicas: Some(sink.ready_replicas),
        }
    });
    statuses.collect()
}

/// What a batch run has loaded into a sink, by the run's termination message.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Loaded {
    /// Rows written.
    pub rows: u64,
    /// Rows that the server refuses for good.
    pub refused: u64,
    /// Whether the run failed at this sink.
    pub failed: bool,
}

/// What is new of the sinks of batch runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunLoads {
    /// Name of the run that ended last.
    pub run: String,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// What each sink got, as far as the run came. Empty where its pod's message is lost.
    pub sinks: BTreeMap<String, Loaded>,
    /// Why the run failed.
    pub failure: Option<String>,
}

/// What each sink got, by a run's termination message. Empty for any other message.
#[must_use]
pub fn loaded(termination_message: &str) -> BTreeMap<String, Loaded> {
    #[derive(Default, Deserialize)]
    struct Report {
        #[serde(default)]
        sinks: BTreeMap<String, Loaded>,
    }
    let report: Report = serde_json::from_str(termination_message).unwrap_or_default();
    report.sinks
}

/// Status of the sinks of batch runs. One of which `new` says nothing stays as it was `before`.
#[must_use]
pub fn batch_statuses(
    before: &[SinkStatus],
    sinks: &[BatchSink],
    new: Option<&RunLoads>,
) -> Vec<SinkStatus> {
    let statuses = sinks.iter().map(|sink| {
        let (sink, kind) = match sink {
            BatchSink::Cassandra(sink) => (&sink.name, SinkKind::Cassandra),
            BatchSink::Postgres(sink) => (&sink.name, SinkKind::Postgres),
        };
        let name = format!("batch/{sink}");
        let finding = new.and_then(|new| load_finding(new, sink));
        let known = before.iter();
        let mut known = known.filter(|old| old.name == name && old.kind == kind);
        if let (None, Some(known)) = (&finding, known.next()) {
            return known.clone();
        }
        let finding = finding
            .unwrap_or_else(|| Finding::good(reasons::SCHEDULED, "no run has reported on it yet"));
        SinkStatus {
            name,
            kind,
            ready: finding.ok,
            reason: finding.reason.to_owned(),
            message: shorten(&finding.message),
            replicas: None,
            ready_replicas: None,
        }
    });
    statuses.collect()
}

/// Finding about a sink of batch runs. None: the run that ended last didn't come to it.
fn load_finding(new: &RunLoads, sink: &str) -> Option<Finding> {
    let RunLoads {
        run,
        succeeded,
        sinks,
        failure,
    } = new;
    if *succeeded && sinks.is_empty() {
        let message = format!("the run {run} has succeeded; its report has the numbers of rows");
        return Some(Finding::good(reasons::LOADED, message));
    }
    let loaded = sinks.get(sink)?;
    if loaded.failed {
        let failure = failure.as_deref().unwrap_or("see its log");
        let own = format!("sink {sink}: ");
        let failure = failure.strip_prefix(&own).unwrap_or(failure);
        let message = format!("the run {run} failed at it: {failure}");
        return Some(Finding::bad(reasons::RUN_FAILED, message));
    }
    let refused = match loaded.refused {
        0 => String::new(),
        refused => format!("; the server refuses {refused}, see the run's report"),
    };
    let message = format!("the run {run} has written {} rows{refused}", loaded.rows);
    Some(Finding::good(reasons::LOADED, message))
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::samples::{validated, whole};
    use serde_json::json;

    use super::*;

    fn sink(component: Component, kind: SinkKind, finding: Finding) -> SinkFinding {
        SinkFinding {
            component,
            kind,
            finding,
            replicas: 2,
            ready_replicas: 1,
        }
    }

    #[test]
    fn each_sink_has_its_own_reason_and_pods() {
        let live = Component::stream("live");
        let down = Finding::bad(reasons::SINK_UNAVAILABLE, "PostgreSQL doesn't answer");
        let fine = Finding::good(reasons::AVAILABLE, "all pods are ready");
        let sinks = [
            sink(live, SinkKind::Postgres, down),
            sink(Component::Archive, SinkKind::Archive, fine),
        ];
        assert_eq!(
            serde_json::to_value(statuses(&[], &sinks)).unwrap(),
            json!([
                {"name": "live", "kind": "Postgres", "ready": false, "reason": "SinkUnavailable",
                    "message": "PostgreSQL doesn't answer", "replicas": 2, "readyReplicas": 1},
                {"name": "archive", "kind": "Archive", "ready": true, "reason": "Available",
                    "message": "all pods are ready", "replicas": 2, "readyReplicas": 1},
            ])
        );
    }

    #[test]
    fn a_sentence_whose_numbers_alone_move_is_written_once() {
        let stopped = |end: u32| {
            let message = format!("position 5 is outside the log, which ends at {end}");
            let finding = Finding::bad(reasons::OFFSET_OUT_OF_RANGE, message);
            vec![sink(Component::Archive, SinkKind::Archive, finding)]
        };
        let first = statuses(&[], &stopped(10));
        assert_eq!(statuses(&first, &stopped(11)), first);
    }

    /// Each run's termination message and failure → what the sinks say after it.
    #[test]
    fn a_sink_of_batch_runs_says_what_the_last_run_that_came_to_it_did() {
        let mut spec = whole();
        let url = json!({"name": "warehouse", "key": "url"});
        spec["batch"]["sinks"] = json!([
            {"name": "serving", "cassandra": {"contactPoints": ["c:9042"]}},
            {"name": "live", "postgres": {"urlSecretRef": url}},
        ]);
        let sinks = validated(spec).batch.unwrap().sinks;
        let mut known = batch_statuses(&[], &sinks, None);
        let first = serde_json::to_value(&known[0]).unwrap();
        assert_eq!(
            first,
            json!({"name": "batch/serving", "kind": "Cassandra", "ready": true,
                "reason": "Scheduled", "message": "no run has reported on it yet"})
        );
        let failure = "sink live: can't connect to PostgreSQL";
        for (run, report, failure, expected) in [
            (
                "a",
                json!({"serving": {"rows": 5, "refused": 0}, "live": {"rows": 4, "refused": 1}}),
                None,
                [
                    (true, "Loaded", "the run a has written 5 rows"),
                    (
                        true,
                        "Loaded",
                        "the run a has written 4 rows; the server refuses 1, see the run's report",
                    ),
                ],
            ),
            (
                "b",
                json!({"serving": {"rows": 6, "refused": 0}, "live": {"failed": true}}),
                Some(failure),
                [
                    (true, "Loaded", "the run b has written 6 rows"),
                    (
                        false,
                        "RunFailed",
                        "the run b failed at it: can't connect to PostgreSQL",
                    ),
                ],
            ),
            // It came to no sink.
            (
                "c",
                json!({}),
                Some("the object store is unavailable"),
                [
                    (true, "Loaded", "the run b has written 6 rows"),
                    (
                        false,
                        "RunFailed",
                        "the run b failed at it: can't connect to PostgreSQL",
                    ),
                ],
            ),
            // It succeeded, but its pod is gone with the message.
            (
                "d",
                json!({}),
                None,
                [
                    (
                        true,
                        "Loaded",
                        "the run d has succeeded; its report has the numbers of rows",
                    ),
                    (
                        true,
                        "Loaded",
                        "the run d has succeeded; its report has the numbers of rows",
                    ),
                ],
            ),
        ] {
            let message = json!({"run": run, "sinks": report}).to_string();
            let new = RunLoads {
                run: run.to_owned(),
                succeeded: failure.is_none(),
                sinks: loaded(&message),
                failure: failure.map(str::to_owned),
            };
            known = batch_statuses(&known, &sinks, Some(&new));
            assert_eq!(batch_statuses(&known, &sinks, None), known, "at rest");
            let found = known.iter();
            let found = found.map(|sink| (sink.ready, &*sink.reason, &*sink.message));
            assert_eq!(found.collect::<Vec<_>>(), expected);
        }
        assert_eq!(loaded("killed"), BTreeMap::new());
        // Another kind of store under the name is another sink.
        let others = whole();
        let others = json!({"schedule": "@daily", "sinks": [{"name": "serving", "postgres":
            {"urlSecretRef": others["stream"]["sinks"][0]["postgres"]["urlSecretRef"]}}]});
        let mut spec = whole();
        spec["batch"] = others;
        let sinks = validated(spec).batch.unwrap().sinks;
        assert_eq!(batch_statuses(&known, &sinks, None)[0].reason, "Scheduled");
    }
}
