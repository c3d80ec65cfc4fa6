//! The network between workers and a store. A call in flight takes effect at some time, or never,
//! and its reply arrives later, or never. It stays in flight when its caller gives up or crashes.

use std::{
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use anyhow::anyhow;

/// A store behind a network.
pub struct Network<S> {
    pub store: S,
    pub calls: Vec<Box<dyn Call<S>>>,
}

/// A call in flight.
pub trait Call<S>: Send {
    fn take_effect(&mut self, store: &mut S);
    fn has_taken_effect(&self) -> bool;
    /// Delivers the reply to the caller.
    fn reply(&mut self);
    /// Fails the call for its caller.
    fn lose(&mut self);
    /// Whether the caller still waits.
    fn is_awaited(&self) -> bool;
}

enum Slot<T> {
    Waiting(Option<Waker>),
    Reply(T),
    Lost,
}

impl<T> Slot<T> {
    /// Ends the wait.
    fn end(&mut self, with: Self) {
        if let Self::Waiting(Some(caller)) = std::mem::replace(self, with) {
            caller.wake();
        }
    }
}

struct PendingCall<F, T> {
    effect: Option<F>,
    result: Option<T>,
    slot: Arc<Mutex<Slot<T>>>,
}

impl<S, T: Send, F: FnOnce(&mut S) -> T + Send> Call<S> for PendingCall<F, T> {
    fn take_effect(&mut self, store: &mut S) {
        if let Some(effect) = self.effect.take() {
            self.result = Some(effect(store));
        }
    }

    fn has_taken_effect(&self) -> bool {
        self.effect.is_none()
    }

    fn reply(&mut self) {
        if let Some(result) = self.result.take() {
            self.slot.lock().unwrap().end(Slot::Reply(result));
        }
    }

    fn lose(&mut self) {
        self.slot.lock().unwrap().end(Slot::Lost);
    }

    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.slot) > 1 && matches!(*self.slot.lock().unwrap(), Slot::Waiting(_))
    }
}

/// Calls the store and waits for the reply or the failure.
pub async fn call<S: 'static, T: Send + 'static>(
    network: &Mutex<Network<S>>,
    effect: impl FnOnce(&mut S) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    network.lock().unwrap().calls.push(Box::new(PendingCall {
        effect: Some(effect),
        result: None,
        slot: slot.clone(),
    }));
    std::future::poll_fn(move |context| {
        let waiting = Slot::Waiting(Some(context.waker().clone()));
        match std::mem::replace(&mut *slot.lock().unwrap(), waiting) {
            Slot::Waiting(_) => Poll::Pending,
            Slot::Reply(reply) => Poll::Ready(Ok(reply)),
            Slot::Lost => Poll::Ready(Err(anyhow!("no reply"))),
        }
    })
    .await
}
