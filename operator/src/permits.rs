//! Concurrency permits: how many reconciles use the API server at once.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Reconciles that may have begun, for each that may use the API server.
const BEGUN_PER_PERMIT: usize = 8;

/// Permits of all reconciles.
pub struct Permits {
    /// Permits to use the API server.
    held: Semaphore,
    /// Permits to begin a reconcile: more, since many of those that have begun may wait for a
    /// broker or a pod.
    begun: Semaphore,
}

impl Permits {
    /// So many reconciles may use the API server at once.
    #[must_use]
    pub fn new(concurrency: u16) -> Self {
        Self {
            held: Semaphore::new(concurrency.into()),
            begun: Semaphore::new(usize::from(concurrency) * BEGUN_PER_PERMIT),
        }
    }

    /// Waits until a reconcile may begin. None: the operator stops.
    pub async fn permit(&self) -> Option<Permit<'_>> {
        let begun = self.begun.acquire().await.ok()?;
        let held = self.held.acquire().await.ok()?;
        Some(Permit {
            permits: self,
            held: Mutex::new(Some(held)),
            is_waiting: watch::Sender::new(false),
            _begun: begun,
        })
    }

    /// Lets no reconcile begin any more.
    pub fn close(&self) {
        self.begun.close();
        self.held.close();
    }
}

/// Concurrency permit of one reconcile. It is released while a broker or a pod is queried, so that
/// slow networks delay no other pipeline; every request to the API server is made with it.
pub struct Permit<'a> {
    permits: &'a Permits,
    held: Mutex<Option<SemaphorePermit<'a>>>,
    /// Whether an answer is awaited without the permit.
    is_waiting: watch::Sender<bool>,
    _begun: SemaphorePermit<'a>,
}

impl Permit<'_> {
    /// Awaits an answer of a broker or a pod without the permit.
    pub async fn released<T>(&self, answer: impl Future<Output = T>) -> T {
        self.release();
        self.is_waiting.send_replace(true);
        let answer = answer.await;
        self.is_waiting.send_replace(false);
        self.acquire().await;
        answer
    }

    /// Waits until [`Self::released`] awaits an answer. What awaits it may then be left unpolled
    /// while the reconcile goes on with [`Self::acquire`], until [`Self::release`].
    pub async fn waiting(&self) {
        // The sender is part of `self`, so there always is one.
        let _ = self
            .is_waiting
            .subscribe()
            .wait_for(|waiting| *waiting)
            .await;
    }

    /// Releases the permit.
    pub fn release(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.take();
    }

    /// Waits for the permit again. A reconcile that has begun goes on while the operator stops.
    pub async fn acquire(&self) {
        let permit = self.permits.held.acquire().await.ok();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn no_permit_is_held_while_an_answer_is_awaited_and_one_is_before_and_after() {
        let permits = Permits::new(1);
        let permit = permits.permit().await.unwrap();
        let is_held = || permits.permit().now_or_never().is_none();
        assert!(is_held());
        let (answer, asked) = oneshot::channel::<()>();
        // What a reconcile does about topics: a request to the API server, one to a broker, and
        // one to the API server again.
        let mut topics = Box::pin(async {
            assert!(is_held(), "before");
            permit.released(asked).await.unwrap();
            assert!(is_held(), "after");
        });
        assert!(
            permit.waiting().now_or_never().is_none(),
            "nothing is asked"
        );
        assert!((&mut topics).now_or_never().is_none());
        permit.waiting().now_or_never().expect("a broker is asked");
        assert!(!is_held());

        permit.acquire().await;
        assert!(is_held(), "the reconcile goes on meanwhile");
        permit.release();
        answer.send(()).unwrap();
        topics.await;
        assert!(is_held());
        assert!(permit.waiting().now_or_never().is_none());
    }
}
