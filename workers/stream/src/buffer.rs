//! The buffer of one partition: its open batch, the sealed batches that wait, the one being
//! committed, and the offsets between them. No I/O.
//!
//! ```text
//!        done            (sealed batches)                (open batch)        next
//!  ───────┼──── in flight ────┼──── … ────┼────────────────────────────────────┼───────▶ offsets
//! ```
//! Every offset before `done` is stored, rejected and in the dead letters, or a gap in the log.
//! `stored` is the sink's own position, which the next commit expects. It stays behind `done` in a
//! sink that moves its position only together with records.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    dead_letter::Pending,
    sink::{Batch, Limits, Source},
};

/// Estimated size of a pending dead letter without its value, bytes.
const DEAD_LETTER_OVERHEAD: usize = 512;

/// A batch that accepts no more records.
#[derive(Debug)]
pub struct Sealed<B> {
    /// The records.
    pub batch: B,
    /// Dead letters that must be acknowledged before the position moves.
    pub dead_letters: Vec<Pending>,
    /// The position after this batch: the offset behind its last record or gap.
    pub to: i64,
    /// Memory used, bytes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Open<B> {
    batch: B,
    dead_letters: Vec<Pending>,
    dead_letter_bytes: usize,
    since: Instant,
}

/// The buffer of one partition; see the module's documentation.
#[derive(Debug)]
pub struct PartitionBuffer<B> {
    source: Source,
    stored: i64,
    done: i64,
    next: i64,
    open: Option<Open<B>>,
    sealed: VecDeque<Sealed<B>>,
    /// Size of the batch being committed, bytes.
    in_flight: Option<usize>,
    draining: bool,
    /// The consumer group's committed offset, as far as it is known.
    group_offset: Option<i64>,
}

impl<B: Batch> PartitionBuffer<B> {
    /// An empty buffer for a partition whose position in the sink is `stored` and that is read from
    /// offset `fetch` on. `group_offset` is the consumer group's committed offset.
    pub const fn new(source: Source, stored: i64, fetch: i64, group_offset: Option<i64>) -> Self {
        Self {
            source,
            stored,
            done: fetch,
            next: fetch,
            open: None,
            sealed: VecDeque::new(),
            in_flight: None,
            draining: false,
            group_offset,
        }
    }

    /// The buffered partition.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// The next offset to read.
    pub const fn next(&self) -> i64 {
        self.next
    }

    /// The offset before which every record is stored, dead-lettered or absent.
    pub const fn done(&self) -> i64 {
        self.done
    }

    /// Whether the record at `offset` belongs in the buffer. False for a record that is buffered
    /// already, and while the partition is draining.
    pub const fn accepts(&self, offset: i64) -> bool {
        offset >= self.next && !self.draining
    }

    /// The open batch, for the record at `offset` to be pushed into. Counts that record as read.
    pub fn batch_for(
        &mut self,
        offset: i64,
        now: Instant,
        empty: impl FnOnce(&Source) -> B,
    ) -> &mut B {
        self.next = offset + 1;
        let source = &self.source;
        let open = self.open.get_or_insert_with(|| Open {
            batch: empty(source),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            since: now,
        });
        &mut open.batch
    }

    /// Adds the pending dead letter of the last record, whose value has `bytes` bytes.
    pub fn add_dead_letter(&mut self, dead_letter: Pending, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.dead_letters.push(dead_letter);
            open.dead_letter_bytes += bytes + DEAD_LETTER_OVERHEAD;
        }
    }

    /// Skips to `position`, the consumer's own. Offsets without a record before it, such as
    /// transaction markers and compacted records, are never delivered.
    pub fn advance(&mut self, position: i64) {
        if !self.draining {
            self.next = self.next.max(position);
        }
    }

    /// Memory used by all batches, bytes.
    pub fn bytes(&self) -> usize {
        self.open_bytes()
            + self.sealed.iter().map(|sealed| sealed.bytes).sum::<usize>()
            + self.in_flight.unwrap_or(0)
    }

    /// Memory used by the open batch, bytes.
    pub fn open_bytes(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |open| open.batch.bytes() + open.dead_letter_bytes)
    }

    /// Whether the open batch has reached its limit of records or bytes.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.batch.records() >= limits.records || open.batch.bytes() >= limits.bytes
        })
    }

    /// Whether to seal now: the open batch has reached `age` or holds no record worth waiting for,
    /// or there is only a gap.
    pub fn is_due(&self, now: Instant, age: Duration) -> bool {
        match &self.open {
            Some(open) => open.batch.records() == 0 || now.duration_since(open.since) >= age,
            None => self.next > self.sealed_to(),
        }
    }

    /// The end of the last sealed batch.
    fn sealed_to(&self) -> i64 {
        self.sealed.back().map_or(self.done, |sealed| sealed.to)
    }

    /// Seals the open batch, or an empty one where there is only a gap.
    pub fn seal(&mut self, empty: impl FnOnce(&Source) -> B) {
        // A gap waits while a batch is in flight: `done` does not move until that is committed.
        if self.open.is_none() && (self.in_flight.is_some() || self.next <= self.sealed_to()) {
            return;
        }
        let (mut batch, dead_letters, dead_letter_bytes) = match self.open.take() {
            Some(open) => (open.batch, open.dead_letters, open.dead_letter_bytes),
            None => (empty(&self.source), Vec::new(), 0),
        };
        batch.close();
        let bytes = batch.bytes() + dead_letter_bytes;
        self.sealed.push_back(Sealed {
            batch,
            dead_letters,
            to: self.next,
            bytes,
        });
    }

    /// The next batch to commit and the position the sink must have; none while a commit is in
    /// flight.
    pub fn start(&mut self) -> Option<(Sealed<B>, i64)> {
        if self.in_flight.is_some() {
            return None;
        }
        let sealed = self.sealed.pop_front()?;
        self.in_flight = Some(sealed.bytes);
        Some((sealed, self.stored))
    }

    /// Records that the batch up to `to` is committed and that the sink's position is `stored` now.
    /// Returns true where another worker had stored more than that: the buffer is empty then, and
    /// the consumer must seek to [`Self::next`].
    pub fn committed(&mut self, to: i64, stored: i64) -> bool {
        self.in_flight = None;
        self.stored = stored;
        self.done = to.max(stored);
        if stored <= to {
            return false;
        }
        self.restart(stored, stored);
        true
    }

    /// Drops everything buffered and continues at offset `fetch` with the stored position `stored`.
    pub fn restart(&mut self, stored: i64, fetch: i64) {
        self.in_flight = None;
        self.open = None;
        self.sealed.clear();
        (self.stored, self.done, self.next) = (stored, fetch, fetch);
    }

    /// Accepts no more records from now on.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is buffered or in flight.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.sealed.is_empty() && self.in_flight.is_none()
    }

    /// The offset to commit to the consumer group, unless the group has it already. Call
    /// [`Self::set_group_offset`] once it is committed.
    pub fn offset_to_commit(&self) -> Option<i64> {
        (self.group_offset != Some(self.done)).then_some(self.done)
    }

    /// Sets the consumer group's committed offset; `None`: unknown.
    pub const fn set_group_offset(&mut self, offset: Option<i64>) {
        self.group_offset = offset;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pinpipe_core::Kind;

    use super::*;
    use crate::sink::{Consumed, Grouping, Topic, Unstorable};

    /// A batch that only counts its records.
    #[derive(Debug, Default)]
    struct CountingBatch {
        records: usize,
        closed: bool,
    }

    impl Batch for CountingBatch {
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
        fn last(&self) -> Option<crate::log::Position> {
            None
        }
        fn split(&self) -> Option<(Self, Self)> {
            None
        }
    }

    const LIMITS: Limits = Limits {
        records: 3,
        bytes: 1000,
        age: Duration::from_secs(1),
        grouping: Grouping::Partition,
    };

    fn buffer(stored: i64, fetch: i64) -> PartitionBuffer<CountingBatch> {
        let topic = Topic {
            kind: Kind::Pin,
            name: "t".into(),
            cluster_id: "c".into(),
            id: "i".into(),
        };
        PartitionBuffer::new(
            Source {
                topic: Arc::new(topic),
                partition: 0,
            },
            stored,
            fetch,
            None,
        )
    }

    fn empty(_: &Source) -> CountingBatch {
        CountingBatch::default()
    }

    /// Buffers records that the sink keeps.
    fn read(
        buffer: &mut PartitionBuffer<CountingBatch>,
        now: Instant,
        offsets: impl IntoIterator<Item = i64>,
    ) {
        for offset in offsets {
            assert!(buffer.accepts(offset));
            buffer.batch_for(offset, now, empty).records += 1;
        }
    }

    fn commit(buffer: &mut PartitionBuffer<CountingBatch>) -> (i64, i64, usize) {
        let (sealed, from) = buffer.start().unwrap();
        assert!(sealed.batch.closed);
        assert!(buffer.start().is_none(), "only one commit at a time");
        assert!(!buffer.committed(sealed.to, sealed.to));
        (from, sealed.to, sealed.batch.records)
    }

    #[test]
    fn batches_follow_each_other_without_a_gap_between_their_positions() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        read(&mut buffer, now, [5, 6]);
        assert!(!buffer.is_full(&LIMITS));
        read(&mut buffer, now, [9]);
        assert!(buffer.is_full(&LIMITS));
        buffer.seal(empty);
        read(&mut buffer, now, [10]);
        buffer.seal(empty);
        assert_eq!(buffer.bytes(), 40);
        assert_eq!(commit(&mut buffer), (5, 10, 3));
        assert_eq!(commit(&mut buffer), (10, 11, 1));
        assert!(buffer.is_empty());
        assert_eq!((buffer.done(), buffer.bytes()), (11, 0));
    }

    #[test]
    fn records_read_before_and_records_while_draining_are_not_accepted() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        read(&mut buffer, now, [5, 6]);
        assert!(!buffer.accepts(4) && !buffer.accepts(6) && buffer.accepts(7));
        buffer.drain();
        assert!(!buffer.accepts(7));
    }

    #[test]
    fn a_gap_is_committed_at_once_and_records_when_they_are_old_enough() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        assert!(!buffer.is_due(now, LIMITS.age));
        buffer.advance(7);
        assert!(buffer.is_due(now, LIMITS.age));
        buffer.seal(empty);
        assert!(!buffer.is_due(now, LIMITS.age), "the gap is sealed");
        assert_eq!(commit(&mut buffer), (5, 7, 0));
        read(&mut buffer, now, [7]);
        assert!(!buffer.is_due(now, LIMITS.age));
        assert!(buffer.is_due(now + LIMITS.age, LIMITS.age));
    }

    #[test]
    fn a_batch_of_rejected_records_alone_is_due_at_once() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        buffer.batch_for(5, now, empty);
        assert!(buffer.is_due(now, LIMITS.age));
    }

    #[test]
    fn the_stored_position_stays_behind_where_a_sink_stores_none_without_records() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        buffer.advance(9);
        buffer.seal(empty);
        let (sealed, from) = buffer.start().unwrap();
        assert!(!buffer.committed(sealed.to, from));
        assert_eq!((buffer.done(), buffer.offset_to_commit()), (9, Some(9)));
        buffer.set_group_offset(Some(9));
        assert_eq!(buffer.offset_to_commit(), None);
        read(&mut buffer, now, [9]);
        buffer.seal(empty);
        assert_eq!(
            commit(&mut buffer),
            (5, 10, 1),
            "the next batch expects the sink's position"
        );
    }

    #[test]
    fn another_worker_s_progress_replaces_what_is_buffered() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        read(&mut buffer, now, [5]);
        buffer.seal(empty);
        read(&mut buffer, now, [6]);
        let (sealed, _) = buffer.start().unwrap();
        assert!(buffer.committed(sealed.to, 20));
        assert!(buffer.is_empty());
        assert_eq!((buffer.next(), buffer.done()), (20, 20));
    }
}
