//! Changes of the log: appends, added partitions, compaction, retention and replays.

use super::{KEYS, MAX_PARTITIONS, World};
use crate::model::{
    broker::{Entry, EntryKind, PartitionLog},
    member::Member,
    oracle::Store,
};

impl<S: Store> World<S> {
    pub(super) fn some_partition(&mut self) -> i32 {
        let partitions = self.broker.lock().unwrap().partition_ids();
        self.random.pick(&partitions).unwrap()
    }

    pub(super) fn append(&mut self) {
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
            let (kind, partition) = match self.random.below(10) {
                0 => (
                    EntryKind::Marker,
                    self.random.below(broker.partitions.len()),
                ),
                1 => (
                    EntryKind::Rejected,
                    self.random.below(broker.partitions.len()),
                ),
                _ => (
                    EntryKind::Record(i64::try_from(key).unwrap()),
                    key % broker.partitions.len(),
                ),
            };
            let log = &mut broker.partitions[partition];
            trace!(self, "append {partition}/{} {kind:?} at {time}", log.high());
            log.entries.push(Entry {
                kind,
                time,
                compacted: false,
            });
        }
    }

    pub(super) fn add_partition(&mut self) {
        let mut broker = self.broker.lock().unwrap();
        if broker.partitions.len() < MAX_PARTITIONS {
            broker.partitions.push(PartitionLog::default());
            trace!(self, "there are {} partitions", broker.partitions.len());
        }
    }

    pub(super) fn compact(&mut self) {
        let partition = self.some_partition();
        let mut broker = self.broker.lock().unwrap();
        let high = broker.log(partition).high();
        for _ in 0..3 {
            let offset = self.random.within(0, high);
            trace!(self, "compaction looks at {partition}/{offset}");
            broker.compact(partition, offset);
        }
    }

    /// The broker deletes records that every worker has read. Retention is hours, so no worker is
    /// just looking up where to resume.
    pub(super) fn retain(&mut self) {
        if self.members.values().any(Member::is_resuming) {
            return;
        }
        let partition = self.some_partition();
        let stored = self.network.lock().unwrap().store.stored(partition);
        let mut broker = self.broker.lock().unwrap();
        let unneeded = S::no_longer_needed(stored, broker.committed.get(&partition).copied());
        let read = self
            .members
            .values()
            .filter_map(|member| member.position(partition))
            .min()
            .unwrap_or(unneeded);
        let log = broker.log_mut(partition);
        let low = self.random.within(0, unneeded.min(read));
        log.low = low.max(log.low);
        trace!(self, "retention: {partition} starts at {}", log.low);
    }

    /// An operator sets a position back.
    pub(super) fn replay(&mut self) {
        if S::replay_needs_no_workers() {
            self.members.clear();
            self.owners.clear();
            self.network.lock().unwrap().calls.clear();
        } else if self.members.values().any(Member::is_resuming) {
            return;
        }
        let partition = self.some_partition();
        let (mut network, broker) = (self.network.lock().unwrap(), self.broker.lock().unwrap());
        if let Some(stored) = network.store.stored(partition)
            && stored >= broker.log(partition).low
        {
            let to = self.random.within(broker.log(partition).low, stored);
            let done = network.store.replay(partition, to, &broker);
            trace!(self, "replay {partition} from {to}: {done}");
        }
    }
}
