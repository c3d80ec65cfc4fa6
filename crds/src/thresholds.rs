//! Figures above which a condition says so.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How far behind is too far.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LagThresholds {
    /// Records between the topics' ends and what is stored, all partitions together. Above it
    /// `LagWithinThreshold` is False, until it has come down to four fifths of it, and for five
    /// minutes at least. No threshold unless set.
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// How many rejected records are too many.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectThresholds {
    /// Rejected records of those read in the last ten minutes (of a hundred, where they were
    /// fewer), 0 to 1: `0.01` is one in a hundred. Above it `RejectsWithinThreshold` is False,
    /// until it has come down to four fifths of it, and for five minutes at least. No threshold
    /// unless set.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_ratio: Option<f64>,
}
