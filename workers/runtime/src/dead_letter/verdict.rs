//! What was wrong with a record.

use std::borrow::Cow;

use pinpipe_core::{Rejection, Repairs};

/// What happened to the record of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The record was not stored elsewhere.
    Rejected,
    /// The record was stored with fields set to null; the dead letter is a copy.
    Repaired,
    /// The record was stored elsewhere; the store of one sink will never take it.
    Refused,
}

impl Outcome {
    /// The outcome's name in headers and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Repaired => "repaired",
            Self::Refused => "refused",
        }
    }
}

/// One fault of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reason's name, such as `key-missing` or `out-of-range`.
    pub reason: Cow<'static, str>,
    /// The raw name of the field at fault.
    pub field: Option<Cow<'static, str>>,
}

/// What was wrong with a record and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What happened to the record.
    pub outcome: Outcome,
    /// One fault of a rejected record, or one per repaired field.
    pub faults: Vec<Fault>,
    /// The same as a message for people.
    pub message: String,
}

impl From<&Rejection> for Verdict {
    fn from(rejection: &Rejection) -> Self {
        let fault = Fault {
            reason: rejection.reason().into(),
            field: rejection.field().map(Into::into),
        };
        Self {
            outcome: Outcome::Rejected,
            faults: vec![fault],
            message: rejection.to_string(),
        }
    }
}

impl From<&Repairs> for Verdict {
    fn from(repairs: &Repairs) -> Self {
        let fault = |(field, reason): (&'static str, &'static str)| Fault {
            reason: reason.into(),
            field: Some(field.into()),
        };
        let repairs: Vec<_> = repairs
            .iter()
            .map(|repair| (repair.field, repair.reason.as_str()))
            .collect();
        let listed: Vec<String> = repairs
            .iter()
            .map(|(field, reason)| format!("`{field}` ({reason})"))
            .collect();
        let message = format!("set to null in the clean record: {}", listed.join(", "));
        Self {
            outcome: Outcome::Repaired,
            faults: repairs.into_iter().map(fault).collect(),
            message,
        }
    }
}
