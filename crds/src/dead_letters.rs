//! What becomes of records that can't be kept as they are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RejectThresholds;

/// What becomes of records that are rejected or repaired on their way into sinks.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// What becomes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DeadLetterMode>,

    /// What the condition `RejectsWithinThreshold` is held against. Nothing is stopped or slowed by
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<RejectThresholds>,
}

/// `Reject`, unless set: a rejected record goes to its topic's dead letters, and what is behind it
/// goes on. `RejectAndLogRepairs`: a copy of each repaired one, with the fields and reasons, goes
/// there, too. `Fail`: every sink stops at the first rejected record.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum DeadLetterMode {
    /// Rejected records are dead letters.
    #[default]
    Reject,
    /// Copies of repaired records are, too.
    RejectAndLogRepairs,
    /// A rejected record stops every sink, until somebody has decided about it.
    Fail,
}
