//! What was wrong with a record.

use std::borrow::Cow;

use pinpipe_core::Rejection;

use crate::failure::Refusal;

/// What happened to the record of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The record was not stored elsewhere.
    Rejected,
    /// The record was stored elsewhere; the store of one sink will never take it.
    Refused,
}

impl Outcome {
    /// The outcome's name in headers and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Refused => "refused",
        }
    }
}

/// What was wrong with a record and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What happened to the record.
    pub outcome: Outcome,
    /// The reason's name, such as `key-missing`, or the store's code.
    pub reason: Cow<'static, str>,
    /// The raw name of the field at fault.
    pub field: Option<Cow<'static, str>>,
    /// The same as a message for people.
    pub message: String,
}

impl From<&Rejection> for Verdict {
    fn from(rejection: &Rejection) -> Self {
        Self {
            outcome: Outcome::Rejected,
            reason: rejection.reason().into(),
            field: rejection.field().map(Into::into),
            message: rejection.to_string(),
        }
    }
}

impl From<&Refusal> for Verdict {
    fn from(refusal: &Refusal) -> Self {
        Self {
            outcome: Outcome::Refused,
            reason: refusal.code.clone().into(),
            field: None,
            message: refusal.to_string(),
        }
    }
}
