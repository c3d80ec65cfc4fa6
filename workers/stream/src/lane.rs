//! One partition's way through the worker: what is gathered, what waits, what is under way, and the
//! positions between them.
//!
//! ```text
//!        done            (sealed batches)                (open batch)        next
//!  ───────┼──── under way ────┼──── … ────┼────────────────────────────────────┼───────▶ offsets
//! ```
//! Everything before `done` is dealt with: stored, or rejected and in the dead letters, or nothing
//! but a gap in the log. `stored` is the sink's own position, the one a commit expects; it stays
//! behind `done` where a sink keeps no position without records. No I/O here.

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
    /// A partition whose stored position is `stored` and that is read from `fetch` on; `told` is
    /// the group's committed offset.
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

    /// Whether a record at `offset` is to be taken: not when it was before, nor when the partition
    /// is about to be given up.
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

    /// Everything the broker has before `position` was taken or can never be read (a transaction's
    /// markers, compacted records).
    pub fn advance(&mut self, position: i64) {
        if !self.draining {
            self.next = self.next.max(position);
        }
    }

    /// Memory taken by all batches, bytes.
    pub fn bytes(&self) -> usize {
        self.open_bytes()
            + self.sealed.iter().map(|sealed| sealed.bytes).sum::<usize>()
            + self.under_way.unwrap_or(0)
    }

    /// Memory taken by the open batch, bytes.
    pub fn open_bytes(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |open| open.batch.bytes() + open.letter_bytes)
    }

    /// Whether the open batch has reached a limit of size.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.batch.records() >= limits.records || open.batch.bytes() >= limits.bytes
        })
    }

    /// Whether it is time to seal: the open batch is old enough, or holds nothing to wait for
    /// company, or there is only a gap.
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
        self.sealed.push_back(Sealed {
            batch,
            letters,
            to: self.next,
            bytes,
        });
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

    /// A batch up to `to` is committed; the sink's position is `stored` now. True: another worker
    /// is further than what was read here, so what is gathered is stored already and reading has to
    /// go on at [`Self::next`].
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

    /// The offset to commit to the consumer group, if it is not there yet. To be followed by
    /// [`Self::told`].
    pub fn to_tell(&self) -> Option<i64> {
        (self.told != Some(self.done)).then_some(self.done)
    }

    /// The consumer group's committed offset was set, or (`None`) may be anything.
    pub const fn told(&mut self, offset: Option<i64>) {
        self.told = offset;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pinpipe_core::Kind;

    use super::*;
    use crate::sink::{Consumed, Topic, Unstorable};

    /// A batch that only knows its size.
    #[derive(Debug, Default)]
    struct Sized {
        records: usize,
        closed: bool,
    }

    impl Batch for Sized {
        fn push(&mut self, _: Consumed<'_>) -> Result<(), Unstorable> {
            self.records += 1;
            Ok(())
        }
        fn close(&mut self) {
            self.closed = true;
        }
        fn records(&self) -> usize {
            self.records
        }
        fn bytes(&self) -> usize {
            self.records * 10
        }
    }

    const LIMITS: Limits = Limits {
        records: 3,
        bytes: 1000,
        age: Duration::from_secs(1),
    };

    fn lane(stored: i64, fetch: i64) -> Lane<Sized> {
        let topic = Topic {
            kind: Kind::Pin,
            name: "t".into(),
            cluster_id: "c".into(),
            id: "i".into(),
        };
        Lane::new(
            Source {
                topic: Arc::new(topic),
                partition: 0,
            },
            stored,
            fetch,
            None,
        )
    }

    fn empty(_: &Source) -> Sized {
        Sized::default()
    }

    /// Takes records that are kept.
    fn take(lane: &mut Lane<Sized>, now: Instant, offsets: impl IntoIterator<Item = i64>) {
        for offset in offsets {
            assert!(lane.wants(offset));
            lane.take(offset, now, empty).records += 1;
        }
    }

    fn commit(lane: &mut Lane<Sized>) -> (i64, i64, usize) {
        let (sealed, from) = lane.start().unwrap();
        assert!(sealed.batch.closed);
        assert!(lane.start().is_none(), "only one commit at a time");
        assert!(!lane.committed(sealed.to, sealed.to));
        (from, sealed.to, sealed.batch.records)
    }

    #[test]
    fn batches_follow_each_other_without_a_gap_between_their_positions() {
        let (now, mut lane) = (Instant::now(), lane(5, 5));
        take(&mut lane, now, [5, 6]);
        assert!(!lane.is_full(&LIMITS));
        take(&mut lane, now, [9]);
        assert!(lane.is_full(&LIMITS));
        lane.seal(empty);
        take(&mut lane, now, [10]);
        lane.seal(empty);
        assert_eq!(lane.bytes(), 40);
        assert_eq!(commit(&mut lane), (5, 10, 3));
        assert_eq!(commit(&mut lane), (10, 11, 1));
        assert!(lane.is_empty());
        assert_eq!((lane.done(), lane.bytes()), (11, 0));
    }

    #[test]
    fn records_seen_before_are_not_wanted() {
        let (now, mut lane) = (Instant::now(), lane(5, 5));
        take(&mut lane, now, [5, 6]);
        assert!(!lane.wants(4) && !lane.wants(6) && lane.wants(7));
        lane.drain();
        assert!(!lane.wants(7));
    }

    #[test]
    fn a_gap_is_committed_at_once_and_records_when_they_are_old_enough() {
        let (now, mut lane) = (Instant::now(), lane(5, 5));
        assert!(!lane.is_due(now, LIMITS.age));
        lane.advance(7);
        assert!(lane.is_due(now, LIMITS.age));
        lane.seal(empty);
        assert!(!lane.is_due(now, LIMITS.age), "the gap is sealed");
        assert_eq!(commit(&mut lane), (5, 7, 0));
        take(&mut lane, now, [7]);
        assert!(!lane.is_due(now, LIMITS.age));
        assert!(lane.is_due(now + LIMITS.age, LIMITS.age));
    }

    #[test]
    fn a_batch_of_rejected_records_alone_is_due_at_once() {
        let (now, mut lane) = (Instant::now(), lane(5, 5));
        lane.take(5, now, empty);
        assert!(lane.is_due(now, LIMITS.age));
    }

    #[test]
    fn a_sink_without_positions_of_its_own_stays_behind_what_is_dealt_with() {
        let (now, mut lane) = (Instant::now(), lane(5, 5));
        lane.advance(9);
        lane.seal(empty);
        let (sealed, from) = lane.start().unwrap();
        assert!(!lane.committed(sealed.to, from));
        assert_eq!((lane.done(), lane.to_tell()), (9, Some(9)));
        lane.told(Some(9));
        assert_eq!(lane.to_tell(), None);
        take(&mut lane, now, [9]);
        lane.seal(empty);
        assert_eq!(
            commit(&mut lane),
            (5, 10, 1),
            "the next batch expects the sink's position"
        );
    }

    #[test]
    fn another_worker_s_progress_replaces_what_was_gathered() {
        let (now, mut lane) = (Instant::now(), lane(5, 5));
        take(&mut lane, now, [5]);
        lane.seal(empty);
        take(&mut lane, now, [6]);
        let (sealed, _) = lane.start().unwrap();
        assert!(lane.committed(sealed.to, 20));
        assert!(lane.is_empty());
        assert_eq!((lane.next(), lane.done()), (20, 20));
    }
}
