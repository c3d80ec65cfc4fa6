//! The sinks' commit protocols without their stores: what to do about the position or object that
//! is found there.

use crate::sink::SinkError;

/// Whether the commit from `from` to `to` must still be made where `stored` is the position. False
/// means that it was made before. For sinks that move the position in the transaction that stores
/// the records.
pub const fn is_due(stored: i64, from: i64, to: i64) -> Result<bool, SinkError> {
    match stored {
        // The reply to our own commit was lost, or another worker made the same commit.
        _ if stored == to && to != from => Ok(false),
        _ if stored == from => Ok(true),
        _ => Err(SinkError::Moved),
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
