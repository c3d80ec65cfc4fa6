//! What becomes of records that can't be kept as they are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of records that are rejected or repaired on their way into sinks.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// `Reject`, unless set: a rejected record goes to its topic's dead letters. `RejectAndLogRepairs`: a copy of each repaired one, too.
    /// `Fail`: sinks stop at a rejected record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DeadLetterMode>,
}

/// What becomes of records that are rejected or repaired.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum DeadLetterMode {
    /// A rejected record goes to the dead-letter topic; what is behind it goes on.
    #[default]
    Reject,
    /// The same, and a copy of each repaired record, with the fields and reasons, goes there too.
    RejectAndLogRepairs,
    /// Every sink stops at the first rejected record, until somebody has decided about it.
    Fail,
}
