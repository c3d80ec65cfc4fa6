//! The open connections of a server.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

/// A connection's state. A route gets it as an extension of the request.
///
/// A connection either waits for its client (for a request, its body, or until the response is
/// received) or is being worked on ([`Client::work`]). One that waits may be closed in favour of a
/// new one.
#[derive(Clone, Debug)]
pub struct Client(Arc<State>);

#[derive(Debug)]
struct State {
    open: Arc<Mutex<Open>>,
    /// Its number in [`Open::waiting`].
    waiting_number: AtomicU64,
    work: Arc<AsyncMutex<()>>,
    /// Whether a request's headers were read and its response wasn't returned yet.
    in_request: AtomicBool,
    replaced: CancellationToken,
}

/// Work on a request; it ends when this is dropped.
#[derive(Debug)]
pub struct Work {
    client: Client,
    _working: OwnedMutexGuard<()>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.client.begin_to_wait();
    }
}

impl Client {
    /// Begins the work on a request, once all of it has arrived. Until the end of the work, the
    /// connection isn't closed by the server, neither for another one nor when the server stops.
    pub async fn work(&self) -> Work {
        let working = Arc::clone(&self.0.work).lock_owned().await;
        self.end_to_wait();
        Work {
            _working: working,
            client: self.clone(),
        }
    }

    /// The client has begun to send a request, so it counts as the last one that began to wait.
    pub(super) fn begin_request(&self) {
        self.0.in_request.store(true, Ordering::Relaxed);
        let mut open = lock(&self.0.open);
        if open.remove(self) {
            open.insert(self);
        }
    }

    pub(super) fn end_request(&self) {
        self.0.in_request.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_in_request(&self) -> bool {
        self.0.in_request.load(Ordering::Relaxed)
    }

    /// Completes when the connection has to be closed in favour of another one.
    pub(super) async fn replaced(&self) {
        self.0.replaced.cancelled().await;
    }

    fn begin_to_wait(&self) {
        lock(&self.0.open).insert(self);
    }

    fn end_to_wait(&self) {
        lock(&self.0.open).remove(self);
    }
}

/// The open connections, up to a limit.
pub(super) struct Connections {
    limit: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    /// The last number given.
    numbers: u64,
    /// The connections that wait for their clients; the one that has waited longest comes first.
    waiting: BTreeMap<u64, Client>,
}

impl Open {
    /// Adds a connection that begins to wait.
    fn insert(&mut self, client: &Client) {
        self.numbers += 1;
        client
            .0
            .waiting_number
            .store(self.numbers, Ordering::Relaxed);
        self.waiting.insert(self.numbers, client.clone());
    }

    /// Removes a connection, and returns whether it was waiting.
    fn remove(&mut self, client: &Client) -> bool {
        let number = client.0.waiting_number.load(Ordering::Relaxed);
        self.waiting.remove(&number).is_some()
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A permit for one open connection, which ends when it is dropped.
pub(super) struct Permit(Client);

impl Permit {
    pub(super) const fn client(&self) -> &Client {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.end_to_wait();
        // The permit of a replaced connection was passed on.
        if !self.0.0.replaced.is_cancelled() {
            lock(&self.0.0.open).count -= 1;
        }
    }
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Arc::default(),
        }
    }

    /// A permit for a new connection. If there is none left, the connection that has waited longest
    /// for its client is closed. None if all are being worked on.
    pub(super) fn admit(&self) -> Option<Permit> {
        let mut open = lock(&self.open);
        if open.count < self.limit {
            open.count += 1;
        } else {
            let (_, longest) = open.waiting.pop_first()?;
            longest.0.replaced.cancel();
        }
        drop(open);
        let client = Client(Arc::new(State {
            open: Arc::clone(&self.open),
            waiting_number: AtomicU64::new(0),
            work: Arc::default(),
            in_request: AtomicBool::new(false),
            replaced: CancellationToken::new(),
        }));
        client.begin_to_wait();
        Some(Permit(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_connections_that_wait_for_their_client_are_replaced() {
        let connections = Connections::new(2);
        let (one, two) = (connections.admit().unwrap(), connections.admit().unwrap());
        let is_replaced = |permit: &Permit| permit.client().0.replaced.is_cancelled();
        let first_work = one.client().work().await;
        let three = connections.admit().unwrap();
        assert!(is_replaced(&two));
        let work = three.client().work().await;
        assert!(connections.admit().is_none(), "both are worked on");
        drop(first_work);
        let four = connections.admit().unwrap();
        assert!(is_replaced(&one) && !is_replaced(&three));
        drop((work, one, two));
        assert_eq!(lock(&connections.open).count, 2);
        drop((three, four));
        let open = lock(&connections.open);
        assert_eq!((open.count, open.waiting.len()), (0, 0));
    }

    #[test]
    fn a_connection_that_sends_a_request_is_replaced_after_idle_ones() {
        let connections = Connections::new(2);
        let (sending, idle) = (connections.admit().unwrap(), connections.admit().unwrap());
        sending.client().begin_request();
        let is_replaced = |permit: &Permit| permit.client().0.replaced.is_cancelled();
        let third = connections.admit().unwrap();
        assert!(is_replaced(&idle) && !is_replaced(&sending));
        // A request that begins as its connection is replaced changes nothing.
        idle.client().begin_request();
        assert_eq!(lock(&connections.open).waiting.len(), 2);
        drop((sending, idle, third));
        let open = lock(&connections.open);
        assert_eq!((open.count, open.waiting.len()), (0, 0));
    }
}
