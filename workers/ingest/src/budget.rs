//! The memory that requests in work may hold together. Over it, a request is told to come again
//! (429), so that load can't bring the process to its limit.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a record costs beside its own bytes: its place in the producer's queue and in the answer.
pub const RECORD_OVERHEAD: usize = 512;

/// A number of bytes that requests share.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    held: Gauge,
}

/// The part of the budget one request holds; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedUp;

impl Budget {
    /// A budget of `bytes`; `held` shows what is in use.
    #[must_use]
    pub fn new(bytes: usize, held: Gauge) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
            held,
        }
    }

    /// A share without a byte yet.
    #[must_use]
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            permit: None,
        }
    }
}

impl Share {
    /// Takes more bytes, at once or not at all.
    pub fn take(&mut self, bytes: usize) -> Result<(), UsedUp> {
        let count = u32::try_from(bytes).map_err(|_| UsedUp)?;
        let more = Arc::clone(&self.budget.free)
            .try_acquire_many_owned(count)
            .map_err(|_| UsedUp)?;
        self.budget.held.inc_by(i64::from(count));
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let held = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        self.budget
            .held
            .dec_by(i64::try_from(held).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_given_back() {
        let held = Gauge::default();
        let budget = Budget::new(100, held.clone());
        let mut one = budget.share();
        one.take(60).unwrap();
        one.take(30).unwrap();
        let mut two = budget.share();
        assert_eq!(
            (two.take(11), two.take(10), held.get()),
            (Err(UsedUp), Ok(()), 100)
        );
        drop(one);
        assert_eq!((two.take(90), held.get()), (Ok(()), 100));
        drop(two);
        assert_eq!(held.get(), 0);
    }
}
