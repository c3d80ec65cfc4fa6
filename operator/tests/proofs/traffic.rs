//! The traffic between an operator and its servers, recorded by the proxies. The operator can be
//! killed after a given write.

use std::{
    collections::BTreeSet,
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Sends a signal to a process. Whoever waits for its effect notices if that fails.
pub fn signal(name: &str, pid: u32) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status();
}

/// A permission that a request needs, in the terms of RBAC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource, followed by a slash and the subresource, if any.
    pub resource: String,
    /// `get`, `list`, …
    pub verb: String,
    /// The namespace, where the request names one.
    pub namespace: Option<String>,
}

/// The traffic of one operator.
#[derive(Default)]
pub struct Traffic(Mutex<State>);

#[derive(Default)]
struct State {
    /// Requested writes, whether or not they succeeded.
    attempts: Vec<String>,
    /// Successful writes.
    done: Vec<String>,
    /// Kill the operator after this many successful writes.
    kill_after: Option<usize>,
    /// Freeze the operator after this many successful writes.
    freeze_after: Option<usize>,
    /// Requests so far, without watches.
    requests: usize,
    /// Requests in flight, without watches.
    open: usize,
    /// When the last request or write ended.
    last: Option<Instant>,
    operator: Option<Child>,
    used: BTreeSet<Permission>,
    granted: BTreeSet<Permission>,
}

/// A request in flight.
pub struct Open<'a>(&'a Traffic);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open = state.open.saturating_sub(1);
        state.last = Some(Instant::now());
    }
}

impl Traffic {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets the recorded writes, and plans a kill after that many successful writes, if any.
    pub fn begin(&self, kill_after: Option<usize>) {
        let mut state = self.state();
        state.attempts.clear();
        state.done.clear();
        state.kill_after = kill_after;
    }

    /// Plans to freeze the operator, with SIGSTOP, after that many successful writes from now on.
    pub fn freeze_after(&self, writes: usize) {
        let mut state = self.state();
        state.freeze_after = Some(state.done.len() + writes);
    }

    /// Whether a planned freeze is still to come.
    pub fn is_freezing(&self) -> bool {
        self.state().freeze_after.is_some()
    }

    /// Sets the operator whose traffic this is.
    pub fn attach(&self, operator: Child) {
        self.state().operator = Some(operator);
    }

    /// Kills the operator with SIGKILL.
    pub fn kill(&self) {
        if let Some(mut operator) = self.state().operator.take() {
            // Killing a process that has already ended fails, which is fine.
            let _ = operator.kill();
            let _ = operator.wait();
        }
    }

    /// The id of the operator's process; none if it was killed or has exited.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state();
        let operator = state.operator.as_mut()?;
        matches!(operator.try_wait(), Ok(None)).then(|| operator.id())
    }

    /// Records the start of a request other than a watch. The request ends when the guard is
    /// dropped.
    pub fn opens(&self) -> Open<'_> {
        let mut state = self.state();
        state.open += 1;
        state.requests += 1;
        Open(self)
    }

    /// Records a requested write.
    pub fn attempt(&self, write: String) {
        self.state().attempts.push(write);
    }

    /// Records a successful write. True if the operator was killed after it; the response must then
    /// be withheld.
    pub fn done(&self, write: String) -> bool {
        let killed = {
            let mut state = self.state();
            state.done.push(write);
            state.last = Some(Instant::now());
            if state.freeze_after == Some(state.done.len()) {
                state.freeze_after = None;
                if let Some(operator) = &state.operator {
                    signal("STOP", operator.id());
                }
            }
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

    /// Whether a planned kill is still to come.
    pub fn is_armed(&self) -> bool {
        self.state().kill_after.is_some()
    }

    /// The requested writes since [`Traffic::begin`].
    pub fn attempts(&self) -> Vec<String> {
        self.state().attempts.clone()
    }

    /// The successful writes since [`Traffic::begin`].
    pub fn writes(&self) -> Vec<String> {
        self.state().done.clone()
    }

    /// Whether no request is in flight, and none has ended for this long.
    pub fn is_quiet(&self, time: Duration) -> bool {
        let state = self.state();
        state.open == 0 && state.last.is_none_or(|last| last.elapsed() >= time)
    }

    /// The number of requests so far, without watches.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// Records a permission that a request needed.
    pub fn uses(&self, needed: Permission) {
        self.state().used.insert(needed);
    }

    /// Records a permission that the operator granted in a Role.
    pub fn grants(&self, given: Permission) {
        self.state().granted.insert(given);
    }

    /// The permissions needed by requests, and those granted in Roles.
    pub fn permissions(&self) -> (BTreeSet<Permission>, BTreeSet<Permission>) {
        let state = self.state();
        (state.used.clone(), state.granted.clone())
    }
}
