//! The one thing to do next: a command, or a page of the documentation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use pinpipe_crds::{
    PinterestPipeline,
    condition_types::{
        ARCHIVE_READY, BATCH_READY, INGEST_READY, READY, STREAM_READY, TOPICS_READY,
    },
    reasons,
};

/// Conditions in the order in which they are looked at. `Ready` takes its reason from those before
/// `BatchReady`.
const ORDER: [&str; 6] = [
    TOPICS_READY,
    INGEST_READY,
    STREAM_READY,
    ARCHIVE_READY,
    READY,
    BATCH_READY,
];

/// What the worst condition asks for. None: nothing is wrong.
pub(super) fn next_step(pipeline: &PinterestPipeline) -> Option<String> {
    let status = pipeline.status.clone().unwrap_or_default();
    if status.conditions.is_empty() {
        return Some("docs/how-to/troubleshoot.md#the-pipeline-has-no-status".to_owned());
    }
    let worst = worst(&status.conditions)?;
    let (namespace, name) = (
        pipeline.namespace().unwrap_or_default(),
        pipeline.name_any(),
    );
    let component = component(worst, pipeline);
    Some(step(&worst.reason, &namespace, &name, component.as_deref()))
}

/// The condition that has the reason of `Ready`, or the first that isn't True.
fn worst(conditions: &[Condition]) -> Option<&Condition> {
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let isnt_true = |condition: &&Condition| condition.status != "True";
    let all = || ORDER.iter().filter_map(|kind| find(kind)).filter(isnt_true);
    let ready = find(READY).filter(isnt_true);
    ready
        .and_then(|ready| all().find(|condition| condition.reason == ready.reason))
        .or_else(|| all().next())
}

/// The component that a condition is about.
fn component(condition: &Condition, pipeline: &PinterestPipeline) -> Option<String> {
    match condition.type_.as_str() {
        INGEST_READY => Some("ingest".to_owned()),
        ARCHIVE_READY => Some("archive".to_owned()),
        BATCH_READY => Some("batch".to_owned()),
        STREAM_READY => {
            let mut sinks = pipeline.status.iter().flat_map(|status| &status.sinks);
            let isnt_ready = |name: &str| !name.contains('/') && name != "archive";
            let sink = sinks.find(|sink| !sink.ready && isnt_ready(&sink.name))?;
            Some(format!("stream-{}", sink.name))
        }
        _ => None,
    }
}

fn step(reason: &str, namespace: &str, name: &str, component: Option<&str>) -> String {
    let component = component.unwrap_or_default();
    match reason {
        reasons::CRASHING | reasons::RUN_FAILED => {
            format!("kubectl pinpipe logs -n {namespace} {name} {component}")
                .trim_end()
                .to_owned()
        }
        reasons::PAUSED => format!(
            "kubectl annotate -n {namespace} pp {name} {}-",
            pinpipe_plan::names::PAUSED_ANNOTATION
        ),
        reasons::SECRET_MISSING => format!("kubectl get secrets -n {namespace}"),
        reasons::PROGRESSING
        | reasons::TOPICS_PENDING
        | reasons::SUSPENDING
        | reasons::DRAINING
        | reasons::RUNNING => format!("kubectl pinpipe status -n {namespace} {name} --watch"),
        reason => format!("docs/{}", page(reason)),
    }
}

/// Page of the documentation about a reason.
fn page(reason: &str) -> &'static str {
    match reason {
        reasons::SUSPENDED | reasons::DRAIN_DEADLINE_EXCEEDED => "how-to/suspend-and-resume.md",
        reasons::DELETING => "how-to/delete.md#a-deletion-that-hangs",
        reasons::INVALID_SPEC => "reference/pinterestpipeline.md#what-cant-be-changed",
        reasons::TOPIC_MISSING | reasons::TOPIC_REPLACED => "how-to/recover-a-topic.md",
        reasons::TOPIC_REFUSED | reasons::PARTITIONS_REFUSED | reasons::READ_NOT_AUTHORIZED => {
            "reference/kafka-rights.md"
        }
        reasons::BROKER_UNREACHABLE
        | reasons::BROKER_FAILED
        | reasons::BROKER_UNAVAILABLE
        | reasons::SINK_UNAVAILABLE
        | reasons::SINK_ACCESS_DENIED
        | reasons::DATABASE_MISSING
        | reasons::DEAD_LETTERS_UNAVAILABLE
        | reasons::SECRET_UNUSABLE => "how-to/troubleshoot.md#connections",
        reasons::IMAGE_NOT_PULLABLE
        | reasons::UNSCHEDULABLE
        | reasons::PODS_REFUSED
        | reasons::CONTAINER_REFUSED => "how-to/troubleshoot.md#pods",
        reasons::OFFSET_OUT_OF_RANGE | reasons::POSITION_UNREADABLE | reasons::RESET_IMPOSSIBLE => {
            "how-to/reset-a-sink.md"
        }
        reasons::RECORDS_REFUSED | reasons::STORE_UNSUITABLE | reasons::TABLE_UNSUITABLE => {
            "how-to/troubleshoot.md#a-sink-stopped"
        }
        reasons::BATCH_OVERDUE => "how-to/run-the-batch.md#when-a-run-cant-start",
        _ => "reference/conditions.md#reasons",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::json;

    use super::*;

    fn after(conditions: &[(&str, &str, &str)]) -> Option<String> {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({"type": kind, "status": status, "reason": reason, "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let sink = json!({"name": "live", "kind": "Postgres", "ready": false, "reason": "x",
            "message": ""});
        let mut pipeline = pinpipe_plan::samples::pipeline(json!({}));
        let status = json!({"conditions": conditions, "sinks": [sink]});
        pipeline.status = serde_json::from_value(status).unwrap();
        next_step(&pipeline)
    }

    #[test]
    fn the_worst_condition_decides() {
        let well = ["Ready", "TopicsReady", "BatchReady"].map(|kind| (kind, "True", "Ready"));
        assert_eq!(after(&well), None);
        for (conditions, step) in [
            (
                vec![],
                "docs/how-to/troubleshoot.md#the-pipeline-has-no-status",
            ),
            (
                vec![
                    ("StreamReady", "False", "Crashing"),
                    ("Ready", "False", "Crashing"),
                ],
                "kubectl pinpipe logs -n data pinterest stream-live",
            ),
            (
                vec![
                    ("IngestReady", "False", "Progressing"),
                    ("StreamReady", "False", "OffsetOutOfRange"),
                    ("Ready", "False", "OffsetOutOfRange"),
                ],
                "docs/how-to/reset-a-sink.md",
            ),
            (
                vec![
                    ("Ready", "True", "Ready"),
                    ("BatchReady", "False", "RunFailed"),
                ],
                "kubectl pinpipe logs -n data pinterest batch",
            ),
            (
                vec![("Ready", "Unknown", "Paused")],
                "kubectl annotate -n data pp pinterest pinpipe.dev/paused-",
            ),
        ] {
            assert_eq!(after(&conditions).as_deref(), Some(step), "{conditions:?}");
        }
    }

    /// Headings of a page as links name them.
    fn anchors(text: &str) -> BTreeSet<String> {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let headings = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
        headings
            .map(|heading| {
                let kept = heading
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -".contains(*c));
                kept.collect::<String>().replace(' ', "-")
            })
            .collect()
    }

    #[test]
    fn every_page_and_section_exists() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let all = reasons::STALLED.iter().chain(&reasons::FROM_WORKERS);
        let others = [
            reasons::SUSPENDED,
            reasons::DELETING,
            reasons::UNSCHEDULABLE,
            reasons::BATCH_OVERDUE,
            reasons::BROKER_UNREACHABLE,
        ];
        for reason in all.chain(&others) {
            let (file, section) = page(reason).split_once('#').unwrap_or((page(reason), ""));
            let text = fs::read_to_string(docs.join(file)).unwrap();
            assert!(
                section.is_empty() || anchors(&text).contains(section),
                "{reason}: {section}"
            );
        }
    }
}
