//! Halts: a partition stops until a person has decided, and the others go on.

use std::time::Instant;

use super::{HALT_RETRY_DELAY, Key, Partition, State};
use crate::{
    dead_letter::Acknowledgement,
    sink::{Batch, Halt},
};

/// How the session does, for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet.
    Unknown,
    /// All partitions are read.
    Running,
    /// A partition is halted.
    Halted(Halt),
}

pub(super) struct Halted {
    pub halt: Halt,
    pub next: Next,
}

#[derive(Clone, Copy)]
pub(super) enum Next {
    /// Try again then.
    Retry(Instant),
    /// The result of the look-up.
    Found,
    /// Count as resumed then.
    Resumed(Instant),
}

impl<B, D> Partition<B, D> {
    pub(super) fn is_stopped(&self) -> bool {
        self.halted
            .as_ref()
            .is_some_and(|halted| !matches!(halted.next, Next::Resumed(_)))
    }
}

impl<B: Batch, D: Acknowledgement> State<B, D> {
    /// Halts a partition; what is buffered of it is read again.
    pub fn halt(&mut self, key: Key, halt: Halt, now: Instant) {
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.buffer = None;
            partition.look_up = None;
            partition.halted = Some(Halted {
                halt,
                next: Next::Retry(now + HALT_RETRY_DELAY),
            });
        }
    }

    /// How the session does.
    #[must_use]
    pub fn health(&self, now: Instant) -> Health {
        let mut halts = self.partitions.values().filter_map(|partition| {
            let halted = partition.halted.as_ref()?;
            Some(halted.halt.clone())
        });
        if let Some(halt) = halts.next() {
            return Health::Halted(halt);
        }
        match self.running_at {
            Some(at) if at <= now => Health::Running,
            _ => Health::Unknown,
        }
    }

    pub(super) fn retry_halted(&mut self, now: Instant) {
        let mut retried = Vec::new();
        for (key, partition) in &mut self.partitions {
            let Some(halted) = &mut partition.halted else {
                continue;
            };
            match halted.next {
                Next::Resumed(at) if at <= now => partition.halted = None,
                Next::Retry(at) if at <= now => {
                    halted.next = Next::Found;
                    retried.push(*key);
                }
                _ => {}
            }
        }
        for key in retried {
            self.look_up(key, false);
        }
    }
}
