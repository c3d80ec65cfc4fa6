//! Conditions about thresholds. Workers are asked for metrics only where the resource has some.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp,
};
use kube::runtime::events::EventType;
use pinpipe_crds::{TopicStatus, condition_types};
use pinpipe_plan::{component::Component, model::ValidatedPipeline};

use super::Reconciler;
use crate::{finding::Finding, observe::worker_health, status::thresholds};

impl Reconciler<'_> {
    /// Conditions about thresholds. `problems` are those that workers report.
    pub(super) async fn thresholds(
        &self,
        pipeline: &ValidatedPipeline,
        pods: &[Pod],
        problems: &BTreeMap<Component, Finding>,
        topics: &[TopicStatus],
    ) -> Vec<Condition> {
        let measured = thresholds::measured(pipeline);
        let client = &self.context.pod_client;
        let mut metrics = worker_health::metrics(client, pods, &measured).await;
        for (component, metrics) in &mut metrics {
            metrics.has_problem = problems.contains_key(component);
        }
        let partitions = pipeline.topics.iter().map(|topic| {
            let known = topics
                .iter()
                .find(|known| known.name == topic.name && known.id.is_some());
            u32::try_from(known.map_or(topic.partitions, |known| known.partitions))
                .unwrap_or_default()
        });
        let before = self
            .resource
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice());
        let metrics = |component: &Component| metrics.get(component).cloned().unwrap_or_default();
        thresholds::conditions(
            pipeline,
            &metrics,
            partitions.sum(),
            before.unwrap_or_default(),
            self.resource.metadata.generation,
            Timestamp::now(),
        )
    }

    /// Publishes an event for each condition that became False, or is True again.
    pub(super) async fn report_thresholds(&self, before: &[Condition], now: &[Condition]) {
        for condition in crossed(before, now) {
            let is_above = condition.status == "False";
            let type_ = if is_above {
                EventType::Warning
            } else {
                EventType::Normal
            };
            self.event(type_, &condition.reason, "Watch", &condition.message, None)
                .await;
        }
    }
}

/// Conditions about thresholds that became False, or are True again.
fn crossed<'a>(before: &[Condition], now: &'a [Condition]) -> Vec<&'a Condition> {
    let types = [
        condition_types::LAG_WITHIN_THRESHOLD,
        condition_types::REJECTS_WITHIN_THRESHOLD,
    ];
    let was_false = |type_: &str| {
        before
            .iter()
            .any(|old| old.type_ == type_ && old.status == "False")
    };
    let crossed = now
        .iter()
        .filter(|condition| types.contains(&condition.type_.as_str()));
    let crossed = crossed.filter(|condition| match condition.status.as_str() {
        "False" => !was_false(&condition.type_),
        "True" => was_false(&condition.type_),
        _ => false,
    });
    crossed.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Status before and now → number of events.
    #[test]
    fn an_event_is_published_when_a_threshold_is_crossed_and_never_else() {
        let condition = |status: &str| -> Vec<Condition> {
            let condition = json!({"type": "LagWithinThreshold", "status": status, "reason": "R",
                "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            vec![serde_json::from_value(condition).unwrap()]
        };
        for (before, now, events) in [
            (vec![], "True", 0),
            (vec![], "False", 1),
            (condition("True"), "False", 1),
            (condition("Unknown"), "False", 1),
            (condition("False"), "False", 0),
            (condition("False"), "True", 1),
            (condition("Unknown"), "True", 0),
            (condition("False"), "Unknown", 0),
        ] {
            assert_eq!(
                crossed(&before, &condition(now)).len(),
                events,
                "{before:?} {now}"
            );
        }
    }
}
