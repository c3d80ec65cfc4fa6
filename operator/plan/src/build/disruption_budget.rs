//! `PodDisruptionBudgets`: a drained node takes one pod of a component at a time.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Builder, labels};
use crate::{component::Component, model::Replicas};

impl Builder<'_> {
    /// Adds a budget for a component that may have several pods. For a single pod it would either
    /// block the drain for ever or mean nothing.
    pub(super) fn disruption_budget(&mut self, component: &Component, replicas: &Replicas) {
        if !replicas.may_be_several() {
            return;
        }
        self.push(&PodDisruptionBudget {
            metadata: labels::metadata(self.pipeline, component),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(labels::label_selector(self.pipeline, component)),
                // A pod that isn't ready serves nobody and must not block the drain of its node.
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                ..PodDisruptionBudgetSpec::default()
            }),
            status: None,
        });
    }
}
