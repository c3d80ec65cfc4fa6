//! The sinks' commit protocols without their stores: what to do about the position or object that
//! is found there.

use crate::{log::Position, sink::Answer};

/// The answer to the commit from `from` to `to` where `stored` is the position, if the commit must
/// not be made. For sinks that move the position in the transaction that stores the records.
#[must_use]
pub fn settled(stored: Position, from: Position, to: Position) -> Option<Answer> {
    if stored == from {
        None
    } else if stored == to {
        // The reply to our own commit was lost, or another worker made the same commit.
        Some(Answer::AlreadyStored(to))
    } else {
        Some(Answer::Moved)
    }
}

/// What remains to be written of the offsets `from..to` where the object's key is taken: by another
/// worker, or by our own request whose reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing: the existing object reaches as far, to this position.
    Done(i64),
    /// The records from this position on.
    Behind(i64),
    /// Unknown: the existing object ends before it begins.
    Unreadable,
}

impl Taken {
    /// Decides by `next`, where the existing object ends.
    #[must_use]
    pub const fn decide(next: i64, from: i64, to: i64) -> Self {
        if next <= from {
            Self::Unreadable
        } else if next >= to {
            Self::Done(next)
        } else {
            Self::Behind(next)
        }
    }
}
