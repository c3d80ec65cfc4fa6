//! Thresholds of rejected records.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::RejectThresholds;

/// Rejected records, which are set aside in the dead-letter topics.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// Threshold of the condition `RejectsWithinThreshold`. Exceeding it only sets the condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<RejectThresholds>,
}
