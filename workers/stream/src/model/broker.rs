//! The broker: a topic's partitions with their gaps, and the consumer group's committed offsets.

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

/// The one topic there is.
pub fn topic() -> Arc<Topic> {
    TOPIC.clone()
}

/// One of its partitions.
pub fn source(partition: i32) -> Source {
    Source {
        topic: topic(),
        partition,
    }
}

/// What was appended at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A record of this key.
    Record(i64),
    /// A record that no sink keeps.
    Rejected,
    /// A transaction's marker, which no consumer is given.
    Marker,
}

/// An offset.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub what: What,
    /// `LogAppendTime`, milliseconds.
    pub time: i64,
    /// Gone: there is a later record of its key in the partition.
    pub compacted: bool,
}

/// A partition's log. What retention deletes stays here for the oracle; `low` says what a consumer
/// is given.
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

    /// The records of a range that sinks keep: offset, key, time, and whether they may have been
    /// gone before anyone read them.
    pub fn records(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, i64, &Entry)> {
        (from..to).filter_map(|offset| match self.entry(offset)? {
            entry @ Entry {
                what: What::Record(key),
                ..
            } => Some((offset, *key, entry)),
            _ => None,
        })
    }
}

/// The text of a record: it tells where it stands, so that the oracle can see what became of it.
pub fn raw(what: What, partition: i32, offset: i64) -> String {
    match what {
        What::Record(key) => format!("{{\"ind\":{key},\"country\":\"{partition}/{offset}\"}}"),
        What::Rejected | What::Marker => format!("{partition}/{offset}"),
    }
}

/// See the module.
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

    pub fn numbers(&self) -> Vec<i32> {
        (0..i32::try_from(self.partitions.len()).unwrap()).collect()
    }

    pub fn watermarks(&self, partition: i32) -> Log {
        let log = self.log(partition);
        Log {
            low: log.low,
            high: log.high(),
        }
    }

    /// Takes away a record that a later one of its key, in the same partition, has replaced.
    pub fn compact(&mut self, partition: i32, offset: i64) {
        let log = self.log_mut(partition);
        let Some(Entry {
            what: What::Record(key),
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

/// The order of a record.
pub fn order(partition: i32, offset: i64, entry: &Entry) -> Order {
    Order {
        time: entry.time,
        partition,
        offset,
    }
}
