//! Changes of the log: appends, added partitions, compaction, retention and replays.

use super::{MAX_PARTITIONS, World};
use crate::model::{
    log::{EntryKind, KEYS, Like},
    member::Member,
    reference,
};

impl World {
    pub(super) fn some_partition(&mut self) -> i32 {
        let partitions = self.broker.lock().unwrap().partition_ids();
        self.random.pick(&partitions).unwrap()
    }

    pub(super) fn append(&mut self, by_producer: bool) {
        let mut broker = self.broker.lock().unwrap();
        for _ in 0..=self.random.below(4) {
            // A broker's clock may stand still, or be set back.
            broker.clock += self.random.within(0, 2);
            let time = broker.clock
                - if self.random.percent(10) {
                    self.random.within(0, 5)
                } else {
                    0
                };
            let key = self.random.below(KEYS);
            let kind = match self.random.below(20) {
                0 | 1 if broker.like == Like::Kafka => EntryKind::Marker,
                2 | 3 => EntryKind::Rejected,
                4 => EntryKind::Refused(key),
                _ => EntryKind::Record(key),
            };
            let partition = broker.partition_of(key);
            trace!(self, "append {kind:?} to {partition} at {time}");
            broker.append(partition, kind, time, by_producer);
        }
    }

    pub(super) fn add_partition(&mut self) {
        let mut broker = self.broker.lock().unwrap();
        if broker.partitions.len() < MAX_PARTITIONS {
            broker.add_partition(self.random.below(10));
            if !self.writes_letters {
                broker.begin_letters();
            }
            trace!(self, "there are {} partitions", broker.partitions.len());
        }
    }

    pub(super) fn compact(&mut self) {
        let partition = self.some_partition();
        let mut broker = self.broker.lock().unwrap();
        let entries = broker.log(partition).entries.len();
        if broker.like == Like::Kafka && entries > 0 {
            for _ in 0..3 {
                let index = self.random.below(entries);
                trace!(self, "compaction looks at {partition}/{index}");
                broker.compact(partition, index);
            }
        }
    }

    /// The broker deletes records that every worker has read. Retention is hours, so no worker is
    /// just looking up where to resume.
    pub(super) fn retain(&mut self) {
        if self.members.values().any(Member::is_resuming) {
            return;
        }
        let partition = self.some_partition();
        let network = self.network.lock().unwrap();
        let stored = network.store.positions.get(&partition).copied();
        let noted = network.store.noted().contains(&partition);
        drop(network);
        let mut broker = self.broker.lock().unwrap();
        let unneeded = match (self.like, broker.like) {
            (reference::Like::Objects, Like::Kafka) if !noted => {
                broker.committed.get(&partition).copied()
            }
            _ => stored,
        };
        let mut unneeded = unneeded.unwrap_or_default();
        if broker.like == Like::Kafka {
            let letters = broker.letters.get(&partition).copied();
            unneeded = unneeded.min(letters.unwrap_or_default());
        }
        let members = self.members.values();
        let read = members
            .filter_map(|member| member.position(partition))
            .min()
            .unwrap_or(unneeded);
        let log = broker.log_mut(partition);
        let high = i64::try_from(log.index(unneeded.min(read))).unwrap();
        let low = usize::try_from(self.random.within(0, high)).unwrap();
        log.low = low.max(log.low);
        trace!(self, "retention: {partition} starts at {}", log.low);
    }

    /// The pipeline changes so that another sink writes the dead letters of rejected records, or
    /// this one again. Workers that run go on as before until they are stopped.
    pub(super) fn hand_letters_over(&mut self) {
        if self.broker.lock().unwrap().like == Like::Kinesis {
            return;
        }
        self.writes_letters = !self.writes_letters;
        trace!(self, "writes dead letters: {}", self.writes_letters);
        self.broker.lock().unwrap().begin_letters();
        if self.random.percent(50) {
            self.members.values_mut().for_each(Member::stop);
        }
    }

    /// The other sink writes dead letters.
    pub(super) fn write_letters_elsewhere(&mut self) {
        let partition = self.some_partition();
        let mut broker = self.broker.lock().unwrap();
        let Some(from) = broker.letters.get(&partition).copied() else {
            return;
        };
        let log = broker.log(partition);
        let (low, high) = (log.index(from), log.entries.len());
        let to = low + self.random.below(high - low + 1);
        trace!(
            self,
            "another sink writes the dead letters of {partition} up to {to}"
        );
        let mut network = self.network.lock().unwrap();
        for (index, entry) in log.between(from, log.before(to)) {
            if entry.kind == EntryKind::Rejected {
                let offset = i64::try_from(index).unwrap();
                network.store.letters.insert((partition, offset, false));
            }
        }
        let to = log.before(to);
        broker.letters.insert(partition, to);
    }

    /// An operator sets a position back. Objects are removed while no worker runs.
    pub(super) fn replay(&mut self) {
        let objects = self.like == reference::Like::Objects;
        if objects {
            self.members.clear();
            self.owners.clear();
            self.network.lock().unwrap().calls.clear();
        } else if self.members.values().any(Member::is_resuming) {
            return;
        }
        let partition = self.some_partition();
        let (mut network, broker) = (self.network.lock().unwrap(), self.broker.lock().unwrap());
        let (store, log) = (&mut network.store, broker.log(partition));
        let Some(stored) = store.positions.get(&partition).copied() else {
            return;
        };
        let start = store
            .started_at
            .get(&partition)
            .copied()
            .unwrap_or_default();
        let low = log.index(start.max(log.extent().low));
        let high = log.index(stored);
        if low > high {
            return;
        }
        let to = low + self.random.below(high - low + 1);
        let to = log.before(to).max(start);
        trace!(self, "replay {partition} from {to}");
        store.positions.insert(partition, to);
        if objects {
            store.replayed.insert(partition);
            store.reached.insert(partition, to);
            store
                .rows
                .retain(|(number, after), _| *number != partition || *after <= to);
        }
    }
}
