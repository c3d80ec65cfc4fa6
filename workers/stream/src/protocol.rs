//! What a commit does about the position it finds: the decisions of the sinks' protocols, without
//! their stores.

use crate::sink::SinkError;

/// Whether the commit from `from` to `to` is still to be made where `stored` is the position; if
/// not, it was made already. For stores that move the position in the transaction that stores the
/// records.
pub const fn is_due(stored: i64, from: i64, to: i64) -> Result<bool, SinkError> {
    match stored {
        // The answer to our own commit was lost, or another worker did just the same.
        _ if stored == to && to != from => Ok(false),
        _ if stored == from => Ok(true),
        _ => Err(SinkError::Moved),
    }
}

/// What is left of an object for the offsets `from..to` whose key another object has taken: another
/// worker's, or our own whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing: the other one reaches as far, to this position.
    Done(i64),
    /// What lies behind the other one, from this position on.
    Behind(i64),
    /// The other one ends before it begins.
    Unreadable,
}

impl Taken {
    /// The object there ends at `next`.
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
