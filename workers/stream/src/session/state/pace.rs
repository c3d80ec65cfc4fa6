//! When batches are committed, and which of them together.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pinpipe_core::Kind;

use super::{Action, Group, Key, Member, State};
use crate::{
    buffer::Work,
    dead_letter::Acknowledgement,
    sink::{Batch, Grouping},
};

/// How long a record waits at least for others of its topic, and how long rejected records do.
const LINGER: Duration = Duration::from_millis(10);
/// The shortest time from the beginning of a table's commit to the next: 50 a second.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// Whose commits exclude each other: a topic's, or one partition's.
pub(super) type Table = (Kind, Option<i32>);

/// The commits of a table.
#[derive(Default)]
pub(super) struct Pace {
    in_flight: Option<InFlight>,
    /// When the last one began.
    started: Option<Instant>,
    /// How long the last one took.
    took: Duration,
}

struct InFlight {
    id: u64,
    /// The batches' partitions and buffers.
    members: Vec<(Key, u64)>,
}

impl<B: Batch, D: Acknowledgement> State<B, D> {
    pub(super) const fn table(&self, (kind, partition): Key) -> Table {
        match self.limits.grouping {
            Grouping::Topic => (kind, None),
            Grouping::Partition => (kind, Some(partition)),
        }
    }

    /// When work of a table is to be committed.
    fn due(&self, table: Table, work: Work) -> Option<Instant> {
        let pace = self.tables.get(&table);
        let age = match self.limits.grouping {
            // The next commit waits for as many records as come while two are under way.
            Grouping::Topic => {
                let took = pace.map_or(Duration::ZERO, |pace| pace.took);
                (2 * took).max(LINGER).min(self.limits.age)
            }
            Grouping::Partition => self.limits.age,
        };
        let due = match work {
            Work::Sealed(since) => since,
            Work::Records(since) => since + age,
            Work::Empty(since) => since? + age.min(10 * LINGER),
        };
        let earliest = match self.limits.grouping {
            Grouping::Topic => pace.and_then(|pace| pace.started),
            Grouping::Partition => None,
        };
        Some(earliest.map_or(due, |started| due.max(started + MIN_INTERVAL)))
    }

    /// The work of each table without a commit under way.
    fn work(&self) -> BTreeMap<Table, Vec<(Key, Work)>> {
        let mut all: BTreeMap<Table, Vec<(Key, Work)>> = BTreeMap::new();
        for (key, buffer) in self.buffers() {
            let table = self.table(key);
            let busy = self.tables.get(&table);
            if busy.is_some_and(|pace| pace.in_flight.is_some()) {
                continue;
            }
            if let Some(work) = buffer.work() {
                all.entry(table).or_default().push((key, work));
            }
        }
        all
    }

    /// When the next commit begins.
    pub(super) fn commit_due_at(&self) -> Option<Instant> {
        let work = self.work();
        let due = work
            .iter()
            .flat_map(|(table, work)| work.iter().filter_map(|(_, work)| self.due(*table, *work)));
        due.min()
    }

    /// Begins the commits that are due.
    pub(super) fn start_commits(&mut self, now: Instant) {
        for (table, mut work) in self.work() {
            let is_due =
                |(_, work): &(Key, Work)| self.due(table, *work).is_none_or(|due| due <= now);
            if work.iter().any(is_due) {
                // The oldest first; what was read without a record comes last.
                work.sort_by_key(|(_, work)| match work {
                    Work::Sealed(since) | Work::Records(since) => (false, *since),
                    Work::Empty(since) => (true, since.unwrap_or(now)),
                });
                self.start_commit(table, &work, now);
            }
        }
    }

    fn start_commit(&mut self, table: Table, work: &[(Key, Work)], now: Instant) {
        let (mut members, mut topic) = (Vec::new(), None);
        let (mut records, mut bytes) = (0, 0);
        for (key, work) in work {
            if records >= self.limits.records || bytes >= self.limits.bytes {
                break;
            }
            if !matches!(work, Work::Sealed(_)) {
                self.seal(*key, now);
            }
            let Some(partition) = self.partitions.get_mut(key) else {
                continue;
            };
            let Some(buffer) = &mut partition.buffer else {
                continue;
            };
            let Some((sealed, from)) = buffer.start() else {
                continue;
            };
            let dead_letters = partition.letters.before(sealed.to);
            records += sealed.batch.records();
            bytes += sealed.bytes;
            topic.get_or_insert_with(|| buffer.source().topic.clone());
            members.push(Member {
                key: *key,
                generation: partition.generation,
                sealed,
                dead_letters,
                from,
            });
        }
        let Some(topic) = topic else {
            return;
        };
        let id = self.id();
        let pace = self.tables.entry(table).or_default();
        pace.started = Some(now);
        pace.in_flight = Some(InFlight {
            id,
            members: members
                .iter()
                .map(|member| (member.key, member.generation))
                .collect(),
        });
        let group = Group { id, topic, members };
        self.actions.push_back(Action::Commit(group));
    }

    /// Notes the end of a commit; false where nobody waits for it.
    pub(super) fn finish_commit(&mut self, id: u64, took: Duration) -> bool {
        let is = |pace: &&mut Pace| {
            let in_flight = pace.in_flight.as_ref();
            in_flight.is_some_and(|in_flight| in_flight.id == id)
        };
        let Some(pace) = self.tables.values_mut().find(is) else {
            return false;
        };
        pace.in_flight = None;
        pace.took = took;
        true
    }

    /// Aborts commits of which no partition is this worker's any more.
    pub(super) fn abort_unawaited(&mut self) {
        for pace in self.tables.values_mut() {
            let Some(in_flight) = &pace.in_flight else {
                continue;
            };
            let awaited = in_flight.members.iter().any(|(key, generation)| {
                let partition = self.partitions.get(key);
                partition.is_some_and(|partition| partition.generation == *generation)
            });
            if !awaited {
                self.actions.push_back(Action::Abort(in_flight.id));
                pace.in_flight = None;
            }
        }
    }
}
