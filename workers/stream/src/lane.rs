//! One partition's way through the worker: what is gathered, what waits, what is under way, and the positions between them.
//!
//! ```text
//!        done            (sealed batches)                (open batch)        next
//!  ───────┼──── under way ────┼──── … ────┼────────────────────────────────────┼───────▶ offsets
//! ```
//! Everything before `done` is dealt with: stored, or rejected and in the dead letters, or nothing but a gap in the log. `stored` is
//! the sink's own position, the one a commit expects; it stays behind `done` where a sink keeps no position without records. No I/O here.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    dead_letter::Pending,
    sink::{Batch, Limits, Source},
};

/// What a pending dead letter is reckoned with beside its value, bytes.
const LETTER_OVERHEAD: usize = 512;

/// A batch that takes no more records.
#[derive(Debug)]
pub struct Sealed<B> {
    /// The records.
    pub batch: B,
    /// Letters that must be acknowledged before the position moves.
    pub letters: Vec<Pending>,
    /// The offset behind all it accounts for.
    pub to: i64,
    /// Memory it takes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Open<B> {
    batch: B,
    letters: Vec<Pending>,
    letter_bytes: usize,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Lane<B> {
    source: Source,
    stored: i64,
    done: i64,
    next: i64,
    open: Option<Open<B>>,
    sealed: VecDeque<Sealed<B>>,
    /// Bytes of the batch under way.
    under_way: Option<usize>,
    draining: bool,
    told: Option<i64>,
}

impl<B: Batch> Lane<B> {
    /// A partition whose stored position is `stored` and that is read from `fetch` on; `told` is the group's committed offset.
    pub const fn new(source: Source, stored: i64, fetch: i64, told: Option<i64>) -> Self {
        Self {
            source,
            stored,
            done: fetch,
            next: fetch,
            open: None,
            sealed: VecDeque::new(),
            under_way: None,
            draining: false,
            told,
        }
    }

    /// Its partition.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// The next offset to take.
    pub const fn next(&self) -> i64 {
        self.next
    }

    /// Everything before is dealt with.
    pub const fn done(&self) -> i64 {
        self.done
    }

    /// Whether a record at `offset` is to be taken: not when it was before, nor when the partition is about to be given up.
    pub const fn wants(&self, offset: i64) -> bool {
        offset >= self.next && !self.draining
    }

    /// The open batch to put the record at `offset` into, which is accounted for from now on.
    pub fn take(&mut self, offset: i64, now: Instant, empty: impl FnOnce(&Source) -> B) -> &mut B {
        self.next = offset + 1;
        let source = &self.source;
        let open = self.open.get_or_insert_with(|| Open {
            batch: empty(source),
            letters: Vec::new(),
            letter_bytes: 0,
            since: now,
        });
        &mut open.batch
    }

    /// Notes a dead letter of the record just taken.
    pub fn add_letter(&mut self, letter: Pending, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.letters.push(letter);
            open.letter_bytes += bytes + LETTER_OVERHEAD;
        }
    }

    /// Everything the broker has before `position` was taken or can never be read (a transaction's markers, compacted records).
    pub fn advance(&mut self, position: i64) {
        if !self.draining {
            self.next = self.next.max(position);
        }
    }

    /// Memory taken by all batches, bytes.
    pub fn bytes(&self) -> usize {
        self.open_bytes() + self.sealed.iter().map(|sealed| sealed.bytes).sum::<usize>() + self.under_way.unwrap_or(0)
    }

    /// Memory taken by the open batch, bytes.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.batch.bytes() + open.letter_bytes)
    }

    /// Whether the open batch has reached a limit of size.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.batch.records() >= limits.records || open.batch.bytes() >= limits.bytes)
    }

    /// Whether it is time to seal: the open batch is old enough, or holds nothing to wait for company, or there is only a gap.
    pub fn is_due(&self, now: Instant, age: Duration) -> bool {
        match &self.open {
            Some(open) => open.batch.records() == 0 || now.duration_since(open.since) >= age,
            None => self.next > self.accounted(),
        }
    }

    /// The end of the last sealed batch.
    fn accounted(&self) -> i64 {
        self.sealed.back().map_or(self.done, |sealed| sealed.to)
    }

    /// Closes the open batch; a gap makes an empty one.
    pub fn seal(&mut self, empty: impl FnOnce(&Source) -> B) {
        // One gap at a time: while a batch is under way `done` stands still.
        if self.open.is_none() && (self.under_way.is_some() || self.next <= self.accounted()) {
            return;
        }
        let (mut batch, letters, letter_bytes) = match self.open.take() {
            Some(open) => (open.batch, open.letters, open.letter_bytes),
            None => (empty(&self.source), Vec::new(), 0),
        };
        batch.close();
        let bytes = batch.bytes() + letter_bytes;
        self.sealed.push_back(Sealed { batch, letters, to: self.next, bytes });
    }

    /// The next batch to commit and the position it expects, unless one is under way.
    pub fn start(&mut self) -> Option<(Sealed<B>, i64)> {
        if self.under_way.is_some() {
            return None;
        }
        let sealed = self.sealed.pop_front()?;
        self.under_way = Some(sealed.bytes);
        Some((sealed, self.stored))
    }

    /// A batch up to `to` is committed; the sink's position is `stored` now. True: another worker is further than what was read
    /// here, so what is gathered is stored already and reading has to go on at [`Self::next`].
    pub fn committed(&mut self, to: i64, stored: i64) -> bool {
        self.under_way = None;
        self.stored = stored;
        self.done = to.max(stored);
        if stored <= to {
            return false;
        }
        self.restart(stored, stored);
        true
    }

    /// Forgets what is gathered; goes on at `fetch` with another stored position.
    pub fn restart(&mut self, stored: i64, fetch: i64) {
        self.under_way = None;
        self.open = None;
        self.sealed.clear();
        (self.stored, self.done, self.next) = (stored, fetch, fetch);
    }

    /// Takes no more records from now on.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is gathered or under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.sealed.is_empty() && self.under_way.is_none()
    }

    /// The offset to commit to the consumer group, if it is not there yet. To be followed by [`Self::told`].
    pub fn to_tell(&self) -> Option<i64> {
        (self.told != Some(self.done)).then_some(self.done)
    }

    /// The consumer group's committed offset was set, or (`None`) may be anything.
    pub const fn told(&mut self, offset: Option<i64>) {
        self.told = offset;
    }
}
