//! Status of the sinks that read the topics: stream sinks and the archive. Pure.

use pinpipe_crds::{SinkKind, SinkStatus};
use pinpipe_plan::component::Component;

use super::message;
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
            replicas: sink.replicas,
            ready_replicas: sink.ready_replicas,
        }
    });
    statuses.collect()
}

#[cfg(test)]
mod tests {
    use pinpipe_crds::reasons;
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
}
