//! Runs that re-drive dead letters.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IS_TIME, TIME};
use crate::RecordKind;

/// Writes dead letters back to their topics, each once. What is absent selects everything.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRedrive {
    /// Only records of these kinds.
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<RecordKind>,

    /// Only dead letters with one of these reasons, such as `too-large`.
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9_-]+$'))").message(
            "each of redrive.reasons must be a reason as the header pinpipe.reason has it, such as \
             too-large"
        )
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,

    /// Only dead letters with a fault in one of these raw fields, such as `follower_count`.
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9_-]+$'))").message(
            "each of redrive.fields must be the name of a raw field, such as follower_count"
        )
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,

    /// Only records that one of these sinks refused. A sink of batch runs is `batch/<sink>`.
    #[schemars(length(max = 17), inner(length(min = 1, max = 26)))]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^(batch/)?[a-z][a-z0-9-]*$'))")
            .message(
                "each of redrive.sinks must be the name of a sink as status.sinks of the pipeline \
                 has it: live, batch/serving"
            )
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<String>,

    /// Which dead letters. Defaults to `Refused` with `sinks`, to both with `reasons`, otherwise to
    /// `Rejected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RedriveOutcome>,

    /// Only records that came to the broker at or after this time, such as `2026-01-31T00:00:00Z`.
    #[schemars(length(min = 20, max = 40))]
    #[x_kube(validation = Rule::new(IS_TIME).message(TIME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,

    /// Only records that came to the broker before this time.
    #[schemars(length(min = 20, max = 40))]
    #[x_kube(validation = Rule::new(IS_TIME).message(TIME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,

    /// At most this many dead letters.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_i64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,

    /// Whether records are written back that would be rejected again. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,

    /// Whether nothing is written: the message says what would be. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// Which dead letters are re-driven.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum RedriveOutcome {
    /// Records without a readable key.
    Rejected,
    /// Records that the store of a sink refused.
    Refused,
}
