//! Logs: where records come from. [`Log`] answers look-ups, [`Reader`] is a membership that gets
//! partitions assigned and reads their records.

pub mod kafka;
mod position;

use std::{collections::BTreeMap, sync::Arc};

use pinpipe_core::{Kind, Order};
use pinpipe_runtime::dead_letter::{Redriven, UnusableOrder};

pub use position::Position;

/// A topic, identified beyond its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The kind of its records.
    pub kind: Kind,
    /// The topic's name.
    pub name: String,
    /// The id of its Kafka cluster.
    pub cluster_id: String,
    /// The topic's id: a topic deleted and created again has another one.
    pub id: String,
}

/// A topic's name and a partition's number.
pub type TopicPartition = (String, i32);

/// The positions that a partition's log can be read from: `low..=high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The position before the first record.
    pub low: Position,
    /// The position behind the last record.
    pub high: Position,
}

impl Extent {
    /// Whether `position` can be read from.
    #[must_use]
    pub fn contains(self, position: Position) -> bool {
        (self.low..=self.high).contains(&position)
    }

    /// The nearest position that can be read from.
    #[must_use]
    pub fn nearest(self, position: Position) -> Position {
        position.max(self.low).min(self.high)
    }
}

/// Look-ups in a log.
pub trait Log: Send + Sync + 'static {
    /// A topic's identity.
    fn identify(
        &self,
        kind: Kind,
        name: &str,
    ) -> impl Future<Output = anyhow::Result<Topic>> + Send;

    /// What the logs of `partitions`, or of all partitions, hold.
    fn extents(
        &self,
        topic: &str,
        partitions: Option<&[i32]>,
    ) -> impl Future<Output = anyhow::Result<BTreeMap<i32, Extent>>> + Send;

    /// The positions committed to the consumer group. A log without groups has none.
    fn committed(
        &self,
        topic: &str,
        partitions: &[i32],
    ) -> impl Future<Output = anyhow::Result<BTreeMap<i32, Position>>> + Send;

    /// The positions committed to the group of the dead letters: those of rejected records before
    /// them are written. Positions of another topic that had the name are left out.
    fn letters_committed(
        &self,
        topic: &Topic,
        partitions: &[i32],
    ) -> impl Future<Output = anyhow::Result<BTreeMap<i32, Position>>> + Send;

    /// Commits positions to the group of the dead letters, and waits for it. A log without groups
    /// forgets them.
    fn commit_letters(
        &self,
        topic: &Topic,
        positions: &[(i32, Position)],
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The position before the first record not before `time`, milliseconds since the epoch, in
    /// each partition that has such a record.
    fn positions_at(
        &self,
        topic: &str,
        partitions: &[i32],
        time: i64,
    ) -> impl Future<Output = anyhow::Result<BTreeMap<i32, Position>>> + Send;

    /// Whether topics still have the identities that they had.
    fn same_identity(
        &self,
        topics: Vec<Arc<Topic>>,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send;

    /// Whether records of the topic are stamped by the broker when they are appended. Asked where a
    /// record is met that its producer has stamped.
    fn is_stamped_by_broker(
        &self,
        topic: &str,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send;
}

/// A membership in the consumer group; clones share it.
pub trait Reader: Log + Clone {
    /// A record as it was read.
    type Message<'a>: Message;

    /// The next record.
    fn read(&self) -> impl Future<Output = Result<Self::Message<'_>, ReadError>> + Send;
    /// The next records, as long as more have been fetched.
    fn fetched(&self) -> impl Iterator<Item = Result<Self::Message<'_>, ReadError>>;
    /// Answers an assignment with the position to read each partition from. A partition without one
    /// is not read until it is sought.
    fn assign(&self, partitions: &[(TopicPartition, Option<Position>)]) -> anyhow::Result<()>;
    /// Answers a revocation.
    fn unassign(&self, partitions: &[TopicPartition]) -> anyhow::Result<()>;
    /// Continues at a position.
    fn seek(&self, partition: &TopicPartition, to: Position) -> anyhow::Result<()>;
    /// Stops reading partitions.
    fn pause(&self, partitions: &[TopicPartition]) -> anyhow::Result<()>;
    /// Reads paused partitions again.
    fn unpause(&self, partitions: &[TopicPartition]) -> anyhow::Result<()>;
    /// Commits positions to the group, without waiting.
    fn commit(&self, positions: &[(TopicPartition, Position)]) -> anyhow::Result<()>;
    /// How far each partition was read, also over what is no record.
    fn positions(&self) -> Vec<(TopicPartition, Position)>;
}

/// A record as it was read.
pub trait Message {
    /// The topic's name.
    fn topic(&self) -> &str;
    /// The partition's number.
    fn partition(&self) -> i32;
    /// The record's offset.
    fn offset(&self) -> i64;
    /// The position behind it.
    fn after(&self) -> Position;
    /// The record's time.
    fn stamp(&self) -> Stamp;
    /// The record's key.
    fn key(&self) -> Option<&[u8]>;
    /// The record as it was posted.
    fn value(&self) -> Option<&[u8]>;
    /// The headers of a re-driven record.
    fn redriven(&self, position: Order) -> Result<Option<Redriven>, UnusableOrder>;
}

/// A record's time, milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The broker set it when it appended the record.
    Broker(i64),
    /// The producer set it, by a clock that orders nothing.
    Producer,
}

/// The reason in the worker's health while a permission is missing.
pub const NOT_AUTHORIZED: &str = "ReadNotAuthorized";

/// What to grant, but for the look-up of a topic's settings.
pub const RIGHTS: &str = "grant the worker's user Read and Describe of the topics, and Read of the \
    consumer groups of its sink and of the dead letters";

/// A look-up that the log refuses since the worker lacks a right.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAuthorized(pub String);

/// Why a record can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A partition's position is outside its log.
    #[error("a position is outside the log")]
    OutOfRange,
    /// The reader must be made again.
    #[error("{0}")]
    Fatal(String),
    /// The reader goes on trying.
    #[error("{sentence}")]
    Problem {
        /// The error's name.
        code: String,
        /// The broker's sentence.
        sentence: String,
        /// Whether only a person can change it: a permission is missing.
        forbidden: bool,
    },
}

/// What a reader tells besides records.
#[derive(Debug)]
pub enum Event {
    /// The group assigns partitions. Must be answered.
    Assign(Vec<TopicPartition>),
    /// The group revokes partitions. Must be answered.
    Revoke {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Whether another worker owns them already, so that it is too late to commit.
        lost: bool,
    },
    /// Positions were not committed to the group.
    CommitFailed(String),
    /// How the reader does.
    Statistics {
        /// Where no broker is connected: that, and why.
        unreachable: Option<String>,
        /// The ends of the logs.
        ends: Vec<(TopicPartition, Position)>,
    },
}
