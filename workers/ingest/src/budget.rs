//! The memory budget shared by all requests in flight. A request over the budget is refused with
//! status 429, so that load can't drive the process to its memory limit.
//!
//! A request is charged for its body, for the copies of its records in the producer's queue, and
//! for its response, until the last delivery report has come and the response is sent.

use std::{num::NonZeroU32, sync::Arc};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory per record besides its own bytes: its entries in the producer's queue and in the
/// response, bytes.
pub const RECORD_OVERHEAD: usize = 1024;

/// The memory limit that is assumed for a container that has none, bytes: the default of
/// `spec.ingest.resources`.
const DEFAULT_MEMORY: usize = 256 << 20;

/// The greatest number of records of a request, if there is memory for them.
const REQUEST_RECORDS: usize = 10_000;

/// The memory of one connection with its socket's buffers, bytes.
const CONNECTION: usize = 64 << 10;
/// The memory of one connection by TLS, bytes.
const TLS_CONNECTION: usize = 2 * CONNECTION;

/// What the memory limit is spent on. Half of it is for requests and a quarter for connections; the
/// rest is for the program itself and the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The budget of all requests, bytes.
    pub requests: usize,
    /// The size limit of a request's body, bytes.
    pub request_bytes: usize,
    /// The greatest number of records of a request.
    pub request_records: usize,
    /// The number of connections in plain text.
    connections: usize,
}

impl Memory {
    /// Divides `limit`, bytes; `max_request_bytes` is the configured size limit of a body, bytes. A
    /// body may have a quarter of the budget, which leaves a quarter for the copies of its records
    /// and half for what each record takes besides: so no request within the limits is too large
    /// ever to be accepted.
    #[must_use]
    pub fn of(limit: Option<usize>, max_request_bytes: usize) -> Self {
        let limit = limit.unwrap_or(DEFAULT_MEMORY);
        let requests = limit / 2;
        Self {
            requests,
            request_bytes: max_request_bytes.min(requests / 4),
            request_records: REQUEST_RECORDS.min(requests / 2 / RECORD_OVERHEAD),
            connections: (limit / 4 / CONNECTION).max(1),
        }
    }

    /// The number of connections if they are by TLS or not, and `configured` at most.
    #[must_use]
    pub fn connections(&self, tls: bool, configured: Option<NonZeroU32>) -> usize {
        let connection = if tls { TLS_CONNECTION } else { CONNECTION };
        let room = (self.connections * CONNECTION / connection).max(1);
        configured.map_or(room, |configured| room.min(configured.get() as usize))
    }
}

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

    /// Returns `bytes` of those taken.
    pub fn give_back(&mut self, bytes: usize) {
        let returned = self.permit.as_mut().and_then(|permit| permit.split(bytes));
        debug_assert!(returned.is_some(), "{bytes} bytes were not taken");
        if returned.is_some() {
            self.budget
                .held
                .dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
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
        two.give_back(60);
        assert_eq!((budget.share().take(61), held.get()), (Err(Exhausted), 40));
        drop(two);
        assert_eq!(held.get(), 0);
    }

    #[test]
    fn the_configured_number_of_connections_is_never_over_what_the_memory_allows() {
        let memory = Memory::of(Some(256 << 20), 4 << 20);
        let connections = |tls, configured| memory.connections(tls, NonZeroU32::new(configured));
        assert_eq!((connections(false, 0), connections(true, 0)), (1024, 512));
        assert_eq!((connections(false, 7), connections(true, 7)), (7, 7));
        assert_eq!(
            (connections(false, 10_000), connections(true, 10_000)),
            (1024, 512)
        );
    }

    #[test]
    fn a_body_of_the_largest_size_fits_into_the_budget_with_the_copies_of_its_records() {
        for (limit, max_request_bytes, request_bytes, request_records, connections) in [
            (None, 4 << 20, 4 << 20, 10_000, 1024),
            (Some(256 << 20), 16 << 20, 16 << 20, 10_000, 1024),
            (Some(64 << 20), 16 << 20, 8 << 20, 10_000, 256),
            (Some(32 << 20), 4 << 20, 4 << 20, 8192, 128),
            (Some(1 << 30), 16 << 20, 16 << 20, 10_000, 4096),
        ] {
            let memory = Memory::of(limit, max_request_bytes);
            let most = 2 * memory.request_bytes + memory.request_records * RECORD_OVERHEAD;
            assert!(most <= memory.requests, "{memory:?}");
            assert_eq!(
                (
                    memory.request_bytes,
                    memory.request_records,
                    memory.connections
                ),
                (request_bytes, request_records, connections)
            );
        }
    }
}
