//! Thresholds of conditions.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

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
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectThresholds {
    /// Maximum ratio of rejected records among those read in the last ten minutes, 0 to 1: `0.01`
    /// is one in a hundred. If fewer than a hundred were read, the ratio is of a hundred. Above it,
    /// `RejectsWithinThreshold` is False until the ratio falls to 80 % of it, for at least five
    /// minutes. Not checked by default.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_ratio: Option<f64>,
}
