//! The memory budget shared by all requests in flight. A request over the budget is refused with
//! status 429, so that load can't drive the process to its memory limit.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory per record besides its own bytes: its entries in the producer's queue and in the
/// response, bytes.
pub const RECORD_OVERHEAD: usize = 512;

/// A memory budget shared by requests.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    held: Gauge,
}

/// One request's share of the budget. Dropping it returns the bytes.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
}

/// The budget is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl Budget {
    /// A budget of `bytes`. `held` shows the bytes in use.
    #[must_use]
    pub fn new(bytes: usize, held: Gauge) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
            held,
        }
    }

    /// An empty share.
    #[must_use]
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            permit: None,
        }
    }
}

impl Share {
    /// Takes all of `bytes` or none, without waiting.
    pub fn take(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let count = u32::try_from(bytes).map_err(|_| Exhausted)?;
        let more = Arc::clone(&self.budget.free)
            .try_acquire_many_owned(count)
            .map_err(|_| Exhausted)?;
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
    fn dropping_a_share_returns_its_bytes() {
        let held = Gauge::default();
        let budget = Budget::new(100, held.clone());
        let mut one = budget.share();
        one.take(60).unwrap();
        one.take(30).unwrap();
        let mut two = budget.share();
        assert_eq!(
            (two.take(11), two.take(10), held.get()),
            (Err(Exhausted), Ok(()), 100)
        );
        drop(one);
        assert_eq!((two.take(90), held.get()), (Ok(()), 100));
        drop(two);
        assert_eq!(held.get(), 0);
    }
}
