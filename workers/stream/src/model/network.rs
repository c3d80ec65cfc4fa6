//! Calls to a store that are under way: each takes effect at a moment of its own, if at all, and
//! its answer arrives later, if at all. A caller that gives up, or dies, takes nothing back.

use std::{
    sync::{Arc, Mutex},
    task::Poll,
};

use anyhow::anyhow;

/// A store behind a network.
pub struct Network<S> {
    pub store: S,
    pub calls: Vec<Box<dyn Call<S>>>,
}

/// One call.
pub trait Call<S>: Send {
    fn take_effect(&mut self, store: &mut S);
    fn has_taken_effect(&self) -> bool;
    /// The caller learns what came of it.
    fn answer(&mut self);
    /// The caller learns that there will be no answer.
    fn lose(&mut self);
    /// Whether the caller still waits.
    fn is_awaited(&self) -> bool;
}

enum Slot<T> {
    Waiting,
    Answer(T),
    Lost,
}

struct Under<F, T> {
    effect: Option<F>,
    result: Option<T>,
    slot: Arc<Mutex<Slot<T>>>,
}

impl<S, T: Send, F: FnOnce(&mut S) -> T + Send> Call<S> for Under<F, T> {
    fn take_effect(&mut self, store: &mut S) {
        if let Some(effect) = self.effect.take() {
            self.result = Some(effect(store));
        }
    }

    fn has_taken_effect(&self) -> bool {
        self.effect.is_none()
    }

    fn answer(&mut self) {
        if let Some(result) = self.result.take() {
            *self.slot.lock().unwrap() = Slot::Answer(result);
        }
    }

    fn lose(&mut self) {
        *self.slot.lock().unwrap() = Slot::Lost;
    }

    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.slot) > 1 && matches!(*self.slot.lock().unwrap(), Slot::Waiting)
    }
}

/// Calls the store, and waits for the answer or for its loss.
pub async fn call<S: 'static, T: Send + 'static>(
    network: &Mutex<Network<S>>,
    effect: impl FnOnce(&mut S) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let slot = Arc::new(Mutex::new(Slot::Waiting));
    network.lock().unwrap().calls.push(Box::new(Under {
        effect: Some(effect),
        result: None,
        slot: slot.clone(),
    }));
    std::future::poll_fn(move |_| {
        match std::mem::replace(&mut *slot.lock().unwrap(), Slot::Waiting) {
            Slot::Waiting => Poll::Pending,
            Slot::Answer(answer) => Poll::Ready(Ok(answer)),
            Slot::Lost => Poll::Ready(Err(anyhow!("no answer"))),
        }
    })
    .await
}

/// Lets others go first, once.
pub async fn others_first() {
    let mut waited = false;
    std::future::poll_fn(move |_| {
        if std::mem::replace(&mut waited, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
