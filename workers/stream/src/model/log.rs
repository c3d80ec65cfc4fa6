//! The model's logs: the partitions of one topic, like Kafka's, with a consumer group's committed
//! positions, or like those of Kinesis, whose partitions end, split and merge.

use std::{collections::BTreeMap, sync::LazyLock};

use pinpipe_core::Kind;

use crate::{
    log::{Extent, Position},
    sink::Topic,
};

/// The number of record keys, small so that records often share one.
pub const KEYS: usize = 7;

static TOPIC: LazyLock<Topic> = LazyLock::new(|| Topic {
    kind: Kind::Geo,
    name: "geo".into(),
    cluster_id: "cluster".into(),
    id: "topic".into(),
});

/// The only topic.
pub fn topic() -> Topic {
    TOPIC.clone()
}

/// The kind of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A record with this key.
    Record(usize),
    /// A record with this key, which the sink refuses.
    Refused(usize),
    /// A record that is rejected, so that no sink stores it.
    Rejected,
    /// A transaction marker, which is never delivered.
    Marker,
}

/// A log entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    /// The time it was appended, milliseconds.
    pub time: i64,
    /// Whether its time is the producer's.
    pub stamped_by_producer: bool,
    /// Removed by compaction, since the partition has a later record of the key.
    pub compacted: bool,
    /// The position behind it.
    pub after: Position,
}

impl Entry {
    pub const fn is_sinkable(&self) -> bool {
        matches!(self.kind, EntryKind::Record(_))
    }
}

/// A partition's log. It can be read from the entry `low` on; those before it, which retention has
/// deleted, are kept for the oracle.
#[derive(Clone, Debug, Default)]
pub struct PartitionLog {
    pub entries: Vec<Entry>,
    pub low: usize,
    /// The keys whose records are appended to it; none: it has ended.
    pub keys: Vec<usize>,
}

impl PartitionLog {
    /// The position before the entry at `index`.
    pub fn before(&self, index: usize) -> Position {
        match index.checked_sub(1) {
            Some(last) => self.entries[last].after,
            None => Position::START,
        }
    }

    pub fn extent(&self) -> Extent {
        Extent {
            low: self.before(self.low),
            high: self.before(self.entries.len()),
        }
    }

    /// The index of the first entry behind a position.
    pub fn index(&self, position: Position) -> usize {
        self.entries
            .partition_point(|entry| entry.after <= position)
    }

    /// The entries between two positions.
    pub fn between(&self, from: Position, to: Position) -> impl Iterator<Item = (usize, &Entry)> {
        let range = self.index(from)..self.index(to).max(self.index(from));
        range.map(|index| (index, &self.entries[index]))
    }
}

/// The text of a record. It contains the record's partition and number, for the oracle.
pub fn raw(kind: EntryKind, partition: i32, index: usize) -> String {
    match kind {
        EntryKind::Record(key) => format!("{{\"ind\":{key},\"country\":\"{partition}/{index}\"}}"),
        EntryKind::Refused(key) => format!("{{\"ind\":{key},\"country\":\"refused\"}}"),
        EntryKind::Rejected | EntryKind::Marker => format!("{partition}/{index}"),
    }
}

/// Which log it is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Like {
    Kafka,
    Kinesis,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    pub like: Like,
    pub partitions: Vec<PartitionLog>,
    pub committed: BTreeMap<i32, Position>,
    /// The positions committed to the group of the dead letters.
    pub letters: BTreeMap<i32, Position>,
    /// Whether a worker that was late has set one of them back.
    pub letters_went_back: bool,
    /// What a worker has done wrong.
    pub fault: Option<String>,
    /// Whether positions were committed since the oracle checked them.
    pub commits: bool,
    pub clock: i64,
    /// Records appended so far.
    appended: u64,
}

impl Broker {
    pub const fn new(like: Like) -> Self {
        Self {
            like,
            partitions: Vec::new(),
            committed: BTreeMap::new(),
            letters: BTreeMap::new(),
            letters_went_back: false,
            fault: None,
            commits: false,
            clock: 1_700_000_000_000,
            appended: 0,
        }
    }

    pub fn log(&self, partition: i32) -> &PartitionLog {
        &self.partitions[usize::try_from(partition).unwrap()]
    }

    pub fn log_mut(&mut self, partition: i32) -> &mut PartitionLog {
        &mut self.partitions[usize::try_from(partition).unwrap()]
    }

    pub fn partition_ids(&self) -> Vec<i32> {
        (0..i32::try_from(self.partitions.len()).unwrap()).collect()
    }

    /// The partitions that records of a key go to.
    pub fn partition_of(&self, key: usize) -> i32 {
        let mut partitions = self.partitions.iter();
        let at = match self.like {
            Like::Kafka => key % self.partitions.len(),
            Like::Kinesis => partitions.position(|log| log.keys.contains(&key)).unwrap(),
        };
        i32::try_from(at).unwrap()
    }

    pub fn append(&mut self, partition: i32, kind: EntryKind, time: i64, by_producer: bool) {
        self.appended += 1;
        let (like, appended) = (self.like, self.appended);
        let log = self.log_mut(partition);
        let after = match like {
            Like::Kafka => Position::offset(i64::try_from(log.entries.len() + 1).unwrap()),
            Like::Kinesis => format!("4959033827149025660855969253836157109592{appended:016}")
                .parse()
                .unwrap(),
        };
        log.entries.push(Entry {
            kind,
            time,
            stamped_by_producer: by_producer,
            compacted: false,
            after,
        });
    }

    /// Adds a partition. In a log like Kinesis an older one is split, or two are merged.
    pub fn add_partition(&mut self, choice: usize) {
        let mut keys = Vec::new();
        let open: Vec<usize> = (0..self.partitions.len())
            .filter(|at| !self.partitions[*at].keys.is_empty())
            .collect();
        match (self.like, open.as_slice()) {
            (Like::Kafka, _) | (Like::Kinesis, []) => keys.push((0..KEYS).collect()),
            (Like::Kinesis, [.., one, other]) if choice.is_multiple_of(2) => {
                let mut merged = std::mem::take(&mut self.partitions[*one].keys);
                merged.append(&mut self.partitions[*other].keys);
                keys.push(merged);
            }
            (Like::Kinesis, open) => {
                let split = open[choice % open.len()];
                let mut first = std::mem::take(&mut self.partitions[split].keys);
                let second = first.split_off(first.len() / 2);
                keys.extend([first, second]);
            }
        }
        let logs = keys.into_iter().filter(|keys| !keys.is_empty());
        self.partitions.extend(logs.map(|keys| PartitionLog {
            keys,
            ..PartitionLog::default()
        }));
    }

    /// A sink that writes dead letters begins, where no sink has written any.
    pub fn begin_letters(&mut self) {
        if self.like == Like::Kafka {
            for partition in self.partition_ids() {
                self.letters.entry(partition).or_default();
            }
        }
    }

    /// Removes a record if the partition has a later one of its key.
    pub fn compact(&mut self, partition: i32, index: usize) {
        let log = self.log_mut(partition);
        let Some(entry) = log.entries.get(index).copied() else {
            return;
        };
        let later = &log.entries[index + 1..];
        if entry.is_sinkable()
            && later
                .iter()
                .any(|other| other.kind == entry.kind && !other.compacted)
        {
            log.entries[index].compacted = true;
        }
    }
}
