//! What a run has loaded into a sink, in short.

use serde::{Deserialize, Serialize};

/// What a run has loaded into a sink, as the termination message has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loaded {
    /// Rows written.
    pub rows: u64,
    /// Rows that the server refuses for good.
    pub refused: u64,
    /// Whether the run failed at this sink.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}
