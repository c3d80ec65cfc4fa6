//! A status as data: computed from what was read, without a client and without a clock.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::ResourceExt as _;
use pinpipe_crds::{PinterestPipeline, condition_types::READY};
use pinpipe_plan::names::COMPONENT_LABEL;
use serde::Serialize;

use super::{
    next_step::next_step,
    observe::{Observed, Sampled},
};
use crate::{
    metrics::{Sample, sum},
    runs::{self, Run},
    time::seconds_between,
};

// Metrics, as docs/reference/metrics.md has them.
const ACCEPTED: &str = "pinpipe_ingest_records_accepted_total";
const REFUSED: &str = "pinpipe_ingest_records_refused_total";
const READ: &str = "pinpipe_stream_records_total";
const STORED: &str = "pinpipe_stream_committed_records_total";
const LAG: &str = "pinpipe_stream_lag_records";
const POSTED: &str = "pinpipe_emulator_acknowledged_records_total";

/// A pipeline in one line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overview {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Status of the condition `Ready`; `Unknown` without one.
    pub(super) ready: String,
    pub(super) reason: String,
    /// Outcome of the last batch run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_run: Option<String>,
    /// When a batch run last succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answers_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_step: Option<String>,
}

/// A pipeline on one screen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) ready: String,
    pub(super) conditions: Vec<Shown>,
    pub(super) components: Vec<Component>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_run: Option<Run>,
    /// The run that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) running: Option<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answers: Option<Answers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ingest_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_step: Option<String>,
    /// What could not be read, and which right is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) seconds: u64,
}

/// A component with its pods and its records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Component {
    #[serde(rename = "component")]
    pub(super) name: String,
    pub(super) ready_pods: i32,
    pub(super) desired_pods: i32,
    /// Records a second that came in: accepted or read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) records_in: Option<f64>,
    /// Records a second that went out: confirmed by the broker, or stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) records_out: Option<f64>,
    /// Records between the ends of the topics and what is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag: Option<f64>,
    /// Share of the records that were rejected since the pods started, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rejected: Option<f64>,
}

/// How old the answers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Answers {
    /// When the run that gave them succeeded.
    pub(super) since: Timestamp,
    pub(super) seconds: u64,
}

impl Overview {
    /// Overview of a pipeline.
    pub(super) fn of(pipeline: &PinterestPipeline) -> Self {
        let status = pipeline.status.clone().unwrap_or_default();
        let ready = condition(&status.conditions, READY);
        let batch = status.batch.unwrap_or_default();
        Self {
            namespace: pipeline.namespace().unwrap_or_default(),
            name: pipeline.name_any(),
            ready: ready.map_or("Unknown", |it| &it.status).to_owned(),
            reason: ready.map(|it| it.reason.clone()).unwrap_or_default(),
            last_run: batch.last_run.map(|run| format!("{:?}", run.outcome)),
            answers_since: batch.last_successful_time.map(|time| time.0),
            next_step: next_step(pipeline),
        }
    }
}

impl Status {
    /// Status of a pipeline.
    pub(super) fn of(observed: &Observed) -> Self {
        let pipeline = &observed.pipeline;
        let overview = Overview::of(pipeline);
        let status = pipeline.status.clone().unwrap_or_default();
        let conditions = status.conditions.iter().map(|condition| Shown {
            kind: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            seconds: seconds_between(condition.last_transition_time.0, observed.now),
        });
        let runs = observed.runs.iter();
        let runs: Vec<Run> = runs.map(|run| Run::of(run, observed.now)).collect();
        Self {
            namespace: overview.namespace,
            name: overview.name,
            ready: overview.ready,
            conditions: conditions.collect(),
            components: components(observed),
            last_run: runs::last(&runs).cloned(),
            running: runs.into_iter().find(|run| run.phase == "Running"),
            answers: overview.answers_since.map(|since| Answers {
                since,
                seconds: seconds_between(since, observed.now),
            }),
            ingest_url: status.ingest.map(|ingest| ingest.url),
            next_step: overview.next_step,
            notes: observed.notes.clone(),
        }
    }
}

/// A condition by its type.
pub(super) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn components(observed: &Observed) -> Vec<Component> {
    let mut components: Vec<Component> = observed
        .deployments
        .iter()
        .map(|deployment| {
            let status = deployment.status.as_ref();
            let name = deployment.labels().get(COMPONENT_LABEL);
            let mut component = Component {
                name: name.cloned().unwrap_or_else(|| deployment.name_any()),
                ready_pods: status.and_then(|it| it.ready_replicas).unwrap_or(0),
                desired_pods: deployment
                    .spec
                    .as_ref()
                    .and_then(|it| it.replicas)
                    .unwrap_or(1),
                ..Component::default()
            };
            if let Some(sampled) = observed.sampled.get(&component.name) {
                measure(&mut component, sampled);
            }
            component
        })
        .collect();
    components.sort_by(|one, other| flow(&one.name).cmp(&flow(&other.name)));
    components
}

/// Order in which records pass the components.
fn flow(component: &str) -> (u8, &str) {
    let place = match component {
        "emulator" => 0,
        "ingest" => 1,
        "archive" => 3,
        _ => 2,
    };
    (place, component)
}

fn measure(component: &mut Component, pods: &[Sampled]) {
    let (input, output) = match component.name.as_str() {
        "emulator" => (None, Some(POSTED)),
        "ingest" => (Some(ACCEPTED), None),
        _ => (Some(READ), Some(STORED)),
    };
    component.records_in = input.and_then(|metric| rate(pods, metric));
    component.records_out = output.and_then(|metric| rate(pods, metric));
    let all: Vec<Sample> = pods.iter().flat_map(|pod| pod.second.clone()).collect();
    component.lag = sum(&all, LAG, &[]);
    let (all_records, rejected) = if component.name == "ingest" {
        let refused = sum(&all, REFUSED, &[]);
        let accepted = sum(&all, ACCEPTED, &[]);
        (
            accepted.map(|accepted| accepted + refused.unwrap_or(0.0)),
            refused,
        )
    } else {
        (
            sum(&all, READ, &[]),
            sum(&all, READ, &[("outcome", "rejected")]),
        )
    };
    component.rejected = all_records
        .filter(|records| *records > 0.0)
        .map(|records| rejected.unwrap_or(0.0) / records);
}

/// Increase a second of a counter, of all pods together. A pod that has started again in between
/// counts from nothing.
fn rate(pods: &[Sampled], metric: &str) -> Option<f64> {
    let rates = pods.iter().filter_map(|pod| {
        let after = sum(&pod.second, metric, &[])?;
        let before = sum(&pod.first, metric, &[]).unwrap_or(0.0);
        let more = if after < before {
            after
        } else {
            after - before
        };
        (pod.seconds > 0.0).then(|| more / pod.seconds)
    });
    rates.reduce(|sum, rate| sum + rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_are_those_that_workers_have() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        let documented = std::fs::read_to_string(path).unwrap();
        for metric in [ACCEPTED, REFUSED, READ, STORED, LAG, POSTED] {
            assert!(documented.contains(&format!("| `{metric}` |")), "{metric}");
        }
    }
}
