//! The buffer of one partition: its open batch, the sealed batches that wait, the one being
//! committed, and the positions between them. No I/O.
//!
//! ```text
//!        done            (sealed batches)                (open batch)        next
//!  ───────┼──── in flight ────┼──── … ────┼────────────────────────────────────┼───────▶ positions
//! ```
//! Every record before `done` is stored, or rejected and in the dead letters. `stored` is the
//! sink's own position, which the next commit expects. It stays behind `done` in a sink that moves
//! its position only together with records. It is ahead of `done` where records that the sink has
//! stored are read again for their dead letters, which another sink has not written.

use std::{collections::VecDeque, time::Instant};

use crate::{
    log::Position,
    sink::{Batch, Limits, Source},
};

/// Estimated size of a pending dead letter without its value, bytes.
const DEAD_LETTER_OVERHEAD: usize = 512;

/// A batch that accepts no more records.
#[derive(Debug)]
pub struct Sealed<B> {
    /// The records.
    pub batch: B,
    /// The position behind its last record or gap.
    pub to: Position,
    /// Memory used, bytes.
    pub bytes: usize,
    /// When its first record was read.
    pub since: Instant,
}

#[derive(Debug)]
struct Open<B> {
    batch: B,
    dead_letter_bytes: usize,
    since: Instant,
}

/// What a buffer has for the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A sealed batch, whose first record was read then.
    Sealed(Instant),
    /// An open batch of which the sink stores something, whose first record was read then.
    Records(Instant),
    /// Positions of which the sink stores nothing, and perhaps their dead letters.
    Empty(Option<Instant>),
}

/// The buffer of one partition; see the module's documentation.
#[derive(Debug)]
pub struct PartitionBuffer<B> {
    source: Source,
    stored: Position,
    done: Position,
    next: Position,
    open: Option<Open<B>>,
    sealed: VecDeque<Sealed<B>>,
    /// Size of the batch being committed, bytes.
    in_flight: Option<usize>,
    draining: bool,
    /// The consumer group's committed position, as far as it is known.
    group_position: Option<Position>,
}

impl<B: Batch> PartitionBuffer<B> {
    /// An empty buffer for a partition whose position in the sink is `stored` and that is read from
    /// `fetch` on. `group_position` is the consumer group's committed position.
    #[must_use]
    pub const fn new(
        source: Source,
        stored: Position,
        fetch: Position,
        group_position: Option<Position>,
    ) -> Self {
        Self {
            source,
            stored,
            done: fetch,
            next: fetch,
            open: None,
            sealed: VecDeque::new(),
            in_flight: None,
            draining: false,
            group_position,
        }
    }

    /// The buffered partition.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// The position that is read to.
    pub const fn next(&self) -> Position {
        self.next
    }

    /// The position before which every record is stored, dead-lettered or absent.
    pub const fn done(&self) -> Position {
        self.done
    }

    /// The sink's position: what is before it is stored, though perhaps without dead letters yet.
    pub const fn stored(&self) -> Position {
        self.stored
    }

    /// Whether the record before the position `after` belongs in the buffer. False for a record
    /// that is buffered already, and while the partition is draining.
    pub fn accepts(&self, after: Position) -> bool {
        after > self.next && !self.draining
    }

    /// The open batch, for the record before `after` to be pushed into. Counts that record as read.
    pub fn batch_for(
        &mut self,
        after: Position,
        now: Instant,
        empty: impl FnOnce(&Source) -> B,
    ) -> &mut B {
        self.next = after;
        let source = &self.source;
        let open = self.open.get_or_insert_with(|| Open {
            batch: empty(source),
            dead_letter_bytes: 0,
            since: now,
        });
        &mut open.batch
    }

    /// Counts the pending dead letter of the last record, whose value has `bytes` bytes.
    pub const fn add_dead_letter(&mut self, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.dead_letter_bytes += bytes + DEAD_LETTER_OVERHEAD;
        }
    }

    /// Skips to `position`, the reader's own. What is before it without a record, such as
    /// transaction markers and compacted records, is never delivered.
    pub fn advance(&mut self, position: Position) {
        if !self.draining {
            self.next = self.next.max(position);
        }
    }

    /// Memory used by all batches, bytes.
    pub fn bytes(&self) -> usize {
        self.open_bytes() + self.waiting_bytes()
    }

    /// Memory used by the open batch, bytes.
    pub fn open_bytes(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |open| open.batch.bytes() + open.dead_letter_bytes)
    }

    /// Memory used by the batches whose commit waits or is under way, bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<usize>() + self.in_flight.unwrap_or(0)
    }

    /// Whether a batch waits for its commit, or for the end of it.
    pub fn is_waiting(&self) -> bool {
        self.in_flight.is_some() || !self.sealed.is_empty()
    }

    /// Whether the open batch has reached its limit of records or bytes.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.batch.records() >= limits.records || open.batch.bytes() >= limits.bytes
        })
    }

    /// What there is to commit next; none while a commit is in flight.
    pub fn work(&self) -> Option<Work> {
        if self.in_flight.is_some() {
            return None;
        }
        if let Some(sealed) = self.sealed.front() {
            return Some(Work::Sealed(sealed.since));
        }
        match &self.open {
            Some(open) if open.batch.records() > 0 => Some(Work::Records(open.since)),
            Some(open) => Some(Work::Empty(Some(open.since))),
            None => (self.next > self.done).then_some(Work::Empty(None)),
        }
    }

    /// The end of the last sealed batch.
    fn sealed_to(&self) -> Position {
        self.sealed.back().map_or(self.done, |sealed| sealed.to)
    }

    /// Seals the open batch, or an empty one where there is only a gap.
    pub fn seal(&mut self, now: Instant, empty: impl FnOnce(&Source) -> B) {
        // A gap waits while a batch is in flight: `done` does not move until that is committed.
        if self.open.is_none() && (self.in_flight.is_some() || self.next <= self.sealed_to()) {
            return;
        }
        let open = self.open.take().unwrap_or_else(|| Open {
            batch: empty(&self.source),
            dead_letter_bytes: 0,
            since: now,
        });
        let Open {
            mut batch,
            dead_letter_bytes,
            since,
        } = open;
        batch.close();
        let bytes = batch.bytes() + dead_letter_bytes;
        self.sealed.push_back(Sealed {
            batch,
            to: self.next,
            bytes,
            since,
        });
    }

    /// Takes the next batch to commit and the position the sink must have; none while a commit is
    /// in flight.
    pub fn start(&mut self) -> Option<(Sealed<B>, Position)> {
        if self.in_flight.is_some() {
            return None;
        }
        let sealed = self.sealed.pop_front()?;
        self.in_flight = Some(sealed.bytes);
        Some((sealed, self.stored))
    }

    /// Records that the batch up to `to` is committed and that the sink's position is `stored` now.
    /// Returns true where another worker has stored more than that: go on by [`Self::restart`].
    pub fn committed(&mut self, to: Position, stored: Position) -> bool {
        self.in_flight = None;
        let is_ahead = stored > to && stored != self.stored;
        (self.stored, self.done) = (stored, to);
        is_ahead
    }

    /// Replaces the refused batch, which was in flight, by its two halves.
    pub fn split(&mut self, refused: &Sealed<B>, first: B, second: B) {
        self.in_flight = None;
        let halves = [
            Sealed {
                bytes: second.bytes(),
                batch: second,
                to: refused.to,
                since: refused.since,
            },
            Sealed {
                bytes: first.bytes(),
                to: first.last().unwrap_or(refused.to),
                batch: first,
                since: refused.since,
            },
        ];
        for half in halves {
            self.sealed.push_front(half);
        }
    }

    /// Drops everything buffered and continues at `fetch`. The sink's position stays what it was,
    /// unless `fetch` is where it is now.
    pub fn restart(&mut self, fetch: Position) {
        self.in_flight = None;
        self.open = None;
        self.sealed.clear();
        (self.done, self.next) = (fetch, fetch);
    }

    /// Accepts no more records from now on.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is buffered or in flight.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && !self.is_waiting()
    }

    /// The position to commit to the consumer group, unless the group has it already. Call
    /// [`Self::set_group_position`] once it is committed.
    pub fn position_to_commit(&self) -> Option<Position> {
        let stored = self.done.max(self.stored);
        (self.group_position != Some(stored)).then_some(stored)
    }

    /// Sets the consumer group's committed position; `None`: unknown.
    pub const fn set_group_position(&mut self, position: Option<Position>) {
        self.group_position = position;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use pinpipe_core::Kind;

    use super::*;
    use crate::sink::{Consumed, Grouping, Topic};

    /// A batch that only counts its records.
    #[derive(Debug, Default)]
    struct CountingBatch {
        records: usize,
        closed: bool,
    }

    impl Batch for CountingBatch {
        fn push(&mut self, _: Consumed<'_>) {
            self.records += 1;
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

    type Buffer = PartitionBuffer<CountingBatch>;

    const fn at(offset: i64) -> Position {
        Position::offset(offset)
    }

    fn buffer(stored: i64, fetch: i64) -> Buffer {
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
            at(stored),
            at(fetch),
            None,
        )
    }

    fn empty(_: &Source) -> CountingBatch {
        CountingBatch::default()
    }

    /// Buffers records that the sink keeps.
    fn read(buffer: &mut Buffer, now: Instant, offsets: impl IntoIterator<Item = i64>) {
        for offset in offsets {
            assert!(buffer.accepts(at(offset + 1)));
            buffer.batch_for(at(offset + 1), now, empty).records += 1;
        }
    }

    fn commit(buffer: &mut Buffer) -> (Position, Position, usize) {
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
        buffer.seal(Instant::now(), empty);
        read(&mut buffer, now, [10]);
        buffer.seal(Instant::now(), empty);
        assert_eq!(buffer.bytes(), 40);
        assert_eq!(commit(&mut buffer), (at(5), at(10), 3));
        assert_eq!(commit(&mut buffer), (at(10), at(11), 1));
        assert!(buffer.is_empty());
        assert_eq!((buffer.done(), buffer.bytes()), (at(11), 0));
    }

    #[test]
    fn records_read_before_and_records_while_draining_are_not_accepted() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        read(&mut buffer, now, [5, 6]);
        assert!(!buffer.accepts(at(5)) && !buffer.accepts(at(7)) && buffer.accepts(at(8)));
        buffer.drain();
        assert!(!buffer.accepts(at(8)));
    }

    #[test]
    fn a_gap_is_committed_once_nothing_is_in_flight() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        assert_eq!(buffer.work(), None);
        buffer.advance(at(7));
        assert_eq!(buffer.work(), Some(Work::Empty(None)));
        buffer.seal(Instant::now(), empty);
        assert!(matches!(buffer.work(), Some(Work::Sealed(_))));
        let (sealed, _) = buffer.start().unwrap();
        buffer.advance(at(9));
        assert_eq!(buffer.work(), None, "the gap waits");
        assert!(!buffer.committed(sealed.to, sealed.to));
        assert_eq!(buffer.work(), Some(Work::Empty(None)));
        read(&mut buffer, now, [9]);
        assert_eq!(buffer.work(), Some(Work::Records(now)));
    }

    #[test]
    fn the_stored_position_stays_behind_where_a_sink_stores_none_without_records() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        buffer.advance(at(9));
        buffer.seal(Instant::now(), empty);
        let (sealed, from) = buffer.start().unwrap();
        assert!(!buffer.committed(sealed.to, from));
        let to_commit = buffer.position_to_commit();
        assert_eq!((buffer.done(), to_commit), (at(9), Some(at(9))));
        buffer.set_group_position(Some(at(9)));
        assert_eq!(buffer.position_to_commit(), None);
        read(&mut buffer, now, [9]);
        buffer.seal(Instant::now(), empty);
        assert_eq!(
            commit(&mut buffer),
            (at(5), at(10), 1),
            "the next batch expects the sink's position"
        );
    }

    #[test]
    fn another_worker_s_progress_replaces_what_is_buffered() {
        let (now, mut buffer) = (Instant::now(), buffer(5, 5));
        read(&mut buffer, now, [5]);
        buffer.seal(Instant::now(), empty);
        read(&mut buffer, now, [6]);
        let (sealed, _) = buffer.start().unwrap();
        assert!(buffer.committed(sealed.to, at(20)));
        buffer.restart(at(20));
        assert!(buffer.is_empty());
        assert_eq!((buffer.next(), buffer.done()), (at(20), at(20)));
    }

    #[test]
    fn what_is_stored_is_read_again_for_its_dead_letters_without_being_stored_twice() {
        let (now, mut buffer) = (Instant::now(), buffer(9, 5));
        buffer.batch_for(at(7), now, empty);
        buffer.seal(now, empty);
        let (sealed, from) = buffer.start().unwrap();
        assert_eq!((sealed.to, from), (at(7), at(9)));
        assert!(
            !buffer.committed(sealed.to, at(9)),
            "nobody else has stored more"
        );
        assert_eq!((buffer.done(), buffer.stored()), (at(7), at(9)));
        assert_eq!(buffer.position_to_commit(), Some(at(9)));
        buffer.batch_for(at(9), now, empty);
        read(&mut buffer, now, [9, 10]);
        buffer.seal(now, empty);
        assert_eq!(commit(&mut buffer), (at(9), at(11), 2));
    }
}
