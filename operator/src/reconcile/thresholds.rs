//! The thresholds' part of a pass: workers are asked for their figures where the resource has
//! thresholds, and nowhere else.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp,
};
use kube::runtime::events::EventType;
use pinpipe_crds::{TopicStatus, condition_types};

use super::Pass;
use crate::{
    said,
    status::{Finding, thresholds},
    validate::ValidatedPipeline,
};

impl Pass<'_> {
    /// The conditions of thresholds. `said` is what workers say is the matter, by component.
    pub(super) async fn thresholds(
        &self,
        pipeline: &ValidatedPipeline,
        pods: &[Pod],
        said: &BTreeMap<String, Finding>,
        topics: &[TopicStatus],
    ) -> Vec<Condition> {
        let watched = thresholds::watched(pipeline);
        let mut told = said::figures(&self.context.pods, pods, &watched).await;
        for (component, told) in &mut told {
            told.ails = said.contains_key(component);
        }
        let partitions = |name: &str, wished: i32| {
            let known = topics
                .iter()
                .find(|topic| topic.name == name && topic.id.is_some());
            u32::try_from(known.map_or(wished, |topic| topic.partitions)).unwrap_or_default()
        };
        let partitions = pipeline
            .topics
            .iter()
            .map(|topic| partitions(&topic.name, topic.partitions))
            .sum();
        let before = self
            .resource
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let told = |component: &str| told.get(component).cloned().unwrap_or_default();
        thresholds::conditions(
            pipeline,
            &told,
            partitions,
            before,
            self.resource.metadata.generation,
            Timestamp::now(),
        )
    }

    /// An event for each threshold that was passed, and for each figure that came back below one.
    pub(super) async fn tell_of_thresholds(&self, before: &[Condition], now: &[Condition]) {
        for condition in crossed(before, now) {
            let type_ = if condition.status == "False" {
                EventType::Warning
            } else {
                EventType::Normal
            };
            self.event(type_, &condition.reason, "Watch", &condition.message, None)
                .await;
        }
    }
}

/// The conditions of thresholds that became False, or were.
fn crossed<'a>(before: &[Condition], now: &'a [Condition]) -> Vec<&'a Condition> {
    let types = [
        condition_types::LAG_WITHIN_THRESHOLD,
        condition_types::REJECTS_WITHIN_THRESHOLD,
    ];
    let status = |type_: &str| {
        before
            .iter()
            .find(|old| old.type_ == type_)
            .map(|old| old.status.as_str())
    };
    now.iter()
        .filter(|condition| types.contains(&condition.type_.as_str()))
        .filter(|condition| match condition.status.as_str() {
            "False" => status(&condition.type_) != Some("False"),
            "True" => status(&condition.type_) == Some("False"),
            _ => false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_tell_of_what_passes_a_threshold_and_of_nothing_else() {
        let condition = |status: &str| -> Vec<Condition> {
            let condition = serde_json::json!({"type": "LagWithinThreshold", "status": status, "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            vec![serde_json::from_value(condition).unwrap()]
        };
        for (before, now, told) in [
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
                told,
                "{before:?} {now}"
            );
        }
    }
}
