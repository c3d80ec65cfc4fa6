//! Thresholds of conditions.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{IS_PERCENTAGE, PERCENTAGE};

/// Thresholds of lag.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LagThresholds {
    /// Maximum lag: records between the end of the topics and the stored positions, all partitions
    /// together. Above it, `LagWithinThreshold` is False until the lag falls to 80 % of it, for at
    /// least five minutes. Not checked by default.
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// Thresholds of rejected records.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectThresholds {
    /// Maximum percentage of rejected records, such as `1%`, among those read in the last ten
    /// minutes. If fewer than a hundred were read, it is a percentage of a hundred. Above it,
    /// `RejectsWithinThreshold` is False until the number falls to 80 % of it, for at least five
    /// minutes. Not checked by default.
    #[schemars(length(min = 2, max = 9))]
    #[x_kube(validation = Rule::new(IS_PERCENTAGE).message(PERCENTAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rejected: Option<String>,
}
