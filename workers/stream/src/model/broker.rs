//! The model's broker: the partitions of one topic and the consumer group's committed offsets.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use pinpipe_core::{Kind, Order};

use crate::{
    resume::Log,
    sink::{Source, Topic},
};

static TOPIC: LazyLock<Arc<Topic>> = LazyLock::new(|| {
    Arc::new(Topic {
        kind: Kind::Geo,
        name: "geo".into(),
        cluster_id: "cluster".into(),
        id: "topic".into(),
    })
});

/// The only topic.
pub fn topic() -> Arc<Topic> {
    TOPIC.clone()
}

/// A partition of the topic.
pub fn source(partition: i32) -> Source {
    Source {
        topic: topic(),
        partition,
    }
}

/// The kind of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A record with this key.
    Record(i64),
    /// A record that is rejected, so that no sink stores it.
    Rejected,
    /// A transaction marker, which is never delivered to a consumer.
    Marker,
}

/// A log entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    /// `LogAppendTime`, milliseconds.
    pub time: i64,
    /// Removed by compaction, since the partition has a later record of the key.
    pub compacted: bool,
}

/// A partition's log. Consumers get the entries from `low` on; those before it, which retention has
/// deleted, are kept for the oracle.
#[derive(Clone, Debug, Default)]
pub struct PartitionLog {
    pub entries: Vec<Entry>,
    pub low: i64,
}

impl PartitionLog {
    pub fn high(&self) -> i64 {
        i64::try_from(self.entries.len()).unwrap()
    }

    pub fn entry(&self, offset: i64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The records in a range that sinks store: offset, key and entry.
    pub fn records(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, i64, &Entry)> {
        (from..to).filter_map(|offset| match self.entry(offset)? {
            entry @ Entry {
                kind: EntryKind::Record(key),
                ..
            } => Some((offset, *key, entry)),
            _ => None,
        })
    }
}

/// The text of a record. It contains the record's partition and offset, for the oracle.
pub fn raw(kind: EntryKind, partition: i32, offset: i64) -> String {
    match kind {
        EntryKind::Record(key) => format!("{{\"ind\":{key},\"country\":\"{partition}/{offset}\"}}"),
        EntryKind::Rejected | EntryKind::Marker => format!("{partition}/{offset}"),
    }
}

/// The broker.
#[derive(Debug, Default)]
pub struct Broker {
    pub partitions: Vec<PartitionLog>,
    pub committed: BTreeMap<i32, i64>,
    pub clock: i64,
}

impl Broker {
    pub fn log(&self, partition: i32) -> &PartitionLog {
        &self.partitions[usize::try_from(partition).unwrap()]
    }

    pub fn log_mut(&mut self, partition: i32) -> &mut PartitionLog {
        &mut self.partitions[usize::try_from(partition).unwrap()]
    }

    pub fn partition_ids(&self) -> Vec<i32> {
        (0..i32::try_from(self.partitions.len()).unwrap()).collect()
    }

    pub fn watermarks(&self, partition: i32) -> Log {
        let log = self.log(partition);
        Log {
            low: log.low,
            high: log.high(),
        }
    }

    /// Removes a record if the partition has a later one of its key.
    pub fn compact(&mut self, partition: i32, offset: i64) {
        let log = self.log_mut(partition);
        let Some(Entry {
            kind: EntryKind::Record(key),
            time,
            ..
        }) = log.entry(offset).copied()
        else {
            return;
        };
        let replaced = log
            .records(offset + 1, log.high())
            .any(|(_, other, entry)| other == key && entry.time >= time && !entry.compacted);
        if replaced {
            log.entries[usize::try_from(offset).unwrap()].compacted = true;
        }
    }
}

/// A record's order.
pub fn order(partition: i32, offset: i64, entry: &Entry) -> Order {
    Order {
        time: entry.time,
        partition,
        offset,
    }
}
