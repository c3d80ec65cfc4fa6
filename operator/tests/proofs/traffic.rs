//! What goes by between an operator and its servers: counted, and after a chosen write the operator
//! is killed.

use std::{
    collections::BTreeSet,
    process::Child,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What a request needs permission for, as RBAC names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The group; empty: the core's.
    pub group: String,
    /// The resource, with its subresource behind a slash.
    pub resource: String,
    /// `get`, `list`, …
    pub verb: String,
    /// The namespace, where the request names one.
    pub namespace: Option<String>,
}

/// One operator's traffic.
#[derive(Default)]
pub struct Tap(Mutex<State>);

#[derive(Default)]
struct State {
    /// Writes that were asked for, whatever became of them.
    attempts: Vec<String>,
    /// Writes that were carried out.
    done: Vec<String>,
    /// After how many writes the operator is killed.
    kill_after: Option<usize>,
    /// Requests so far, and those under way, watches apart.
    requests: usize,
    open: usize,
    last: Option<Instant>,
    operator: Option<Child>,
    used: BTreeSet<Use>,
    granted: BTreeSet<Use>,
}

/// A request under way.
pub struct Open<'a>(&'a Tap);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open = state.open.saturating_sub(1);
        state.last = Some(Instant::now());
    }
}

impl Tap {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was counted, and has the operator killed after so many writes from now on.
    pub fn begin(&self, kill_after: Option<usize>) {
        let mut state = self.state();
        state.attempts.clear();
        state.done.clear();
        state.kill_after = kill_after;
    }

    /// Whose traffic this is from now on.
    pub fn attach(&self, operator: Child) {
        self.state().operator = Some(operator);
    }

    /// Ends the operator as a crash would.
    pub fn kill(&self) {
        if let Some(mut operator) = self.state().operator.take() {
            // What has ended by itself can't be killed, and is gone all the same.
            let _ = operator.kill();
            let _ = operator.wait();
        }
    }

    /// The operator's process. None: it was killed, or has ended.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state();
        let operator = state.operator.as_mut()?;
        matches!(operator.try_wait(), Ok(None)).then(|| operator.id())
    }

    /// A request that isn't a watch begins. It ends when what this gives is dropped, as it is, too,
    /// when the operator dies meanwhile.
    pub fn opens(&self) -> Open<'_> {
        let mut state = self.state();
        state.open += 1;
        state.requests += 1;
        Open(self)
    }

    /// A write is asked for.
    pub fn attempt(&self, write: String) {
        self.state().attempts.push(write);
    }

    /// A write was carried out. True: the operator was killed for it, so it must not hear of it.
    pub fn done(&self, write: String) -> bool {
        let killed = {
            let mut state = self.state();
            state.done.push(write);
            state.last = Some(Instant::now());
            let killed = state.kill_after == Some(state.done.len());
            if killed {
                state.kill_after = None;
            }
            killed
        };
        if killed {
            self.kill();
        }
        killed
    }

    /// Whether the kill that was asked for is still to come.
    pub fn is_armed(&self) -> bool {
        self.state().kill_after.is_some()
    }

    /// The writes that were asked for since [`Tap::begin`].
    pub fn attempts(&self) -> Vec<String> {
        self.state().attempts.clone()
    }

    /// The writes that were carried out since [`Tap::begin`].
    pub fn writes(&self) -> Vec<String> {
        self.state().done.clone()
    }

    /// Whether the operator has asked for nothing for so long, and waits for no answer.
    pub fn is_quiet(&self, time: Duration) -> bool {
        let state = self.state();
        state.open == 0 && state.last.is_none_or(|last| last.elapsed() >= time)
    }

    /// The requests so far, watches apart.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// A permission was needed.
    pub fn uses(&self, needed: Use) {
        self.state().used.insert(needed);
    }

    /// A permission was given on, which the API server asks the giver to have.
    pub fn grants(&self, given: Use) {
        self.state().granted.insert(given);
    }

    /// Every permission that was needed, and those that were given on.
    pub fn permissions(&self) -> (BTreeSet<Use>, BTreeSet<Use>) {
        let state = self.state();
        (state.used.clone(), state.granted.clone())
    }
}
