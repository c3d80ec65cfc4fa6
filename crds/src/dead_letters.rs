//! Handling of rejected and repaired records.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RejectThresholds;

/// How rejected and repaired records are handled.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// How rejected and repaired records are handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DeadLetterMode>,

    /// Threshold of the condition `RejectsWithinThreshold`. Exceeding it only sets the condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<RejectThresholds>,
}

/// `Reject` (default): rejected records go to the topic's dead letters. `RejectAndLogRepairs`: in
/// addition, a copy of each repaired record goes there, with the repaired fields and reasons.
/// `Fail`: every sink stops at the first rejected record.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum DeadLetterMode {
    /// Rejected records go to the dead letters.
    #[default]
    Reject,
    /// Copies of repaired records go there, too.
    RejectAndLogRepairs,
    /// A rejected record stops every sink until somebody intervenes.
    Fail,
}
