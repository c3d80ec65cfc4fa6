//! The memory budget of all batches. The biggest open batches are committed first; a table that
//! stores nothing takes no more than half of the budget, so that others go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Key, State, pace::Table};
use crate::{buffer::PartitionBuffer, dead_letter::Acknowledgement, sink::Batch};

/// How long nothing is read while the budget is used up before partitions are paused: a group
/// expels a member that doesn't read.
const MAX_UNREAD: Duration = Duration::from_secs(2);

pub(super) struct Memory {
    budget: usize,
    /// Since when the budget is used up.
    full_since: Option<Instant>,
    /// The partition whose batch was sealed since.
    relieving: Option<Key>,
    all_paused: bool,
    /// Tables that are not read for, since too much waits for them.
    over: BTreeSet<Table>,
}

impl Memory {
    pub(super) const fn new(budget: usize) -> Self {
        Self {
            budget,
            full_since: None,
            relieving: None,
            all_paused: false,
            over: BTreeSet::new(),
        }
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let since = self.full_since.filter(|_| !self.all_paused)?;
        Some(since + MAX_UNREAD)
    }
}

impl<B: Batch, D: Acknowledgement> State<B, D> {
    /// Memory used by all batches, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffers().map(|(_, buffer)| buffer.bytes()).sum()
    }

    /// Whether to read: always, except between the moment the budget is used up and the moment the
    /// partitions are paused.
    #[must_use]
    pub const fn reads(&self) -> bool {
        self.memory.full_since.is_none() || self.memory.all_paused
    }

    /// Whether all partitions are paused, since the budget is used up.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.memory.all_paused
    }

    /// Whether a partition is not read, since there is no memory for it.
    pub(super) fn is_over(&self, key: Key) -> bool {
        self.memory.all_paused || self.memory.over.contains(&self.table(key))
    }

    /// Keeps all batches within the budget. Returns whether a batch was sealed for that.
    pub(super) fn relieve_memory(&mut self, now: Instant) -> bool {
        self.limit_tables();
        if self.bytes() < self.memory.budget {
            (self.memory.full_since, self.memory.relieving) = (None, None);
            if self.memory.all_paused {
                tracing::info!("consumption resumes");
            }
            self.memory.all_paused = false;
            return false;
        }
        let since = *self.memory.full_since.get_or_insert(now);
        if !self.memory.all_paused && now.duration_since(since) >= MAX_UNREAD {
            tracing::info!("consumption pauses until the sink has stored buffered records");
            self.memory.all_paused = true;
        }
        self.seal_biggest(now)
    }

    /// Seals the biggest open batches, until a commit is on its way that relieves the memory and
    /// what is not on its way is within the budget.
    fn seal_biggest(&mut self, now: Instant) -> bool {
        let mut sealed = false;
        loop {
            let relieved = self.memory.relieving.is_some_and(|key| {
                let buffer = self.buffer(key);
                buffer.is_some_and(PartitionBuffer::is_waiting)
            });
            let open: usize = self.buffers().map(|(_, buffer)| buffer.open_bytes()).sum();
            if relieved && open < self.memory.budget {
                return sealed;
            }
            // A batch behind one that waits relieves nothing.
            let biggest = self
                .buffers()
                .filter(|(_, buffer)| buffer.open_bytes() > 0 && !buffer.is_waiting())
                .max_by_key(|(_, buffer)| buffer.open_bytes())
                .map(|(key, _)| key);
            let Some(key) = biggest else {
                return sealed;
            };
            self.seal(key, now);
            self.memory.relieving = Some(key);
            sealed = true;
        }
    }

    /// Stops reading for a table whose commit is under way once its batches take as much as is
    /// free: half of the budget if nothing else takes any. However many tables are stuck, some
    /// memory stays free for the others.
    fn limit_tables(&mut self) {
        let mut tables: BTreeMap<Table, (bool, usize)> = BTreeMap::new();
        for (key, buffer) in self.buffers() {
            let (waits, bytes) = tables.entry(self.table(key)).or_default();
            *waits |= buffer.is_waiting();
            *bytes += buffer.bytes();
        }
        let free = self.memory.budget.saturating_sub(self.bytes());
        tables.retain(|_, (waits, _)| *waits);
        self.memory.over.retain(|table| {
            let bytes = tables.get(table).map(|(_, bytes)| *bytes);
            bytes.is_some_and(|bytes| bytes > free / 2)
        });
        let over = tables.into_iter().filter(|(_, (_, bytes))| *bytes >= free);
        self.memory.over.extend(over.map(|(table, _)| table));
    }
}
