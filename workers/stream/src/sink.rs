//! What a sink is: a place that keeps batches of records and, in the same atomic step, the position
//! behind them.
//!
//! The loop in [`crate::session`] knows nothing else about PostgreSQL or S3. The rules between the
//! two:
//! - a batch is of one partition; there is at most one commit of a partition under way;
//! - `commit(from, to)` stores the batch *and* the position `to`, or neither, and only if the
//!   stored position is still `from`;
//! - a commit that failed half-way may be called again with the same arguments, also when the first
//!   did get through.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pinpipe_core::{Cleaned, Kind, Order, Rejection};

/// A topic and which one of that name it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// What its records are.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster_id: String,
    /// Its id: a topic deleted and created again has another one.
    pub id: String,
}

/// A partition to read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its topic.
    pub topic: Arc<Topic>,
    /// Its number.
    pub partition: i32,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic.name, self.partition)
    }
}

/// A position as a sink has stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The cluster it is of.
    pub cluster_id: String,
    /// The topic it is of.
    pub topic_id: String,
    /// The next offset to read.
    pub next: i64,
}

/// One record on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub struct Consumed<'a> {
    /// The record as it was posted.
    pub raw: &'a [u8],
    /// Where it stands in the log: positions, and rows named by their place, go by this.
    pub place: Order,
    /// What decides which of two records of one key is later: the place, or for a re-driven record
    /// the place it first had.
    pub order: Order,
    /// What cleaning made of it.
    pub cleaned: &'a Result<Cleaned<'a>, Rejection>,
}

/// A clean record that a sink can't hold. It is counted and logged, and must not stop those behind
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstorable {
    /// Its key is too long to be indexed.
    #[error("its key has {bytes} bytes, the sink can index {limit}")]
    KeyTooLong {
        /// The key's size, bytes.
        bytes: usize,
        /// The limit, bytes.
        limit: usize,
    },
}

/// Records of one partition, in the form the sink will store them.
pub trait Batch: Send + Sync + 'static {
    /// Adds a record, or leaves it out where the sink doesn't keep such records. They come in the
    /// order of their offsets. An error: the sink would keep it and never can.
    fn push(&mut self, record: Consumed<'_>) -> Result<(), Unstorable>;
    /// No more records come: what is left is what will be sent. Called once, before the batch is
    /// committed.
    fn close(&mut self);
    /// Records pushed and kept.
    fn records(&self) -> usize;
    /// Memory taken, bytes, about.
    fn bytes(&self) -> usize;
}

/// When a batch is closed: at the first of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes.
    pub bytes: usize,
    /// Wall-clock time since the batch's first record came.
    pub age: Duration,
}

/// Where a sink begins in a partition it has no position of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// At the earliest record or at the end of the log, stored before the first record is read. A
    /// partition that appears later begins at 0.
    Remembered(pinpipe_config::StartFrom),
    /// At the consumer group's committed offset, else at the earliest record.
    Committed,
}

/// Why a sink must not go on until a person has decided something. Nothing is skipped or read twice
/// in silence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The stored position is of another topic or cluster.
    #[error(
        "TopicReplaced: {source_name} has id {found} in cluster {found_cluster}, the stored position is of id {stored} in cluster \
         {stored_cluster}. The topic was created again or the broker was swapped"
    )]
    TopicReplaced {
        /// The partition.
        source_name: String,
        /// The topic's id now.
        found: String,
        /// The cluster's id now.
        found_cluster: String,
        /// The topic id of the stored position.
        stored: String,
        /// The cluster id of the stored position.
        stored_cluster: String,
    },
    /// The stored position is not within the log any more.
    #[error(
        "OffsetOutOfRange: the stored position {position} of {source_name} is outside the log, which holds {low} to {high}: records \
         were deleted before they were read, or the log was cut"
    )]
    OffsetOutOfRange {
        /// The partition.
        source_name: String,
        /// The stored position.
        position: i64,
        /// The log's first offset.
        low: i64,
        /// The log's end.
        high: i64,
    },
    /// What is stored can't be understood.
    #[error("PositionUnreadable: {0}")]
    PositionUnreadable(String),
    /// The store does not do what the sink relies on.
    #[error("StoreUnsuitable: {0}")]
    StoreUnsuitable(String),
    /// A table that is there already can't be written to.
    #[error("TableUnsuitable: {0}")]
    TableUnsuitable(String),
    /// A reset that was asked for can't be carried out.
    #[error("ResetImpossible: {0}")]
    ResetImpossible(String),
    /// A record is rejected, and the pipeline is to stop at such.
    #[error(
        "RecordRejected: the record at offset {offset} of {source_name} is rejected ({reason}: {problem}) and \
         spec.deadLetters.mode is Fail. Correct what produced it, then set spec.deadLetters.mode to Reject, or reset this sink \
         to offset {} (annotation pinpipe.dev/reset-sink) to go on behind it", offset + 1
    )]
    RecordRejected {
        /// The partition.
        source_name: String,
        /// The record's offset.
        offset: i64,
        /// The reason's name.
        reason: &'static str,
        /// The reason as a sentence.
        problem: String,
    },
}

impl Halt {
    /// The reason's name, as in metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TopicReplaced { .. } => "TopicReplaced",
            Self::OffsetOutOfRange { .. } => "OffsetOutOfRange",
            Self::PositionUnreadable(_) => "PositionUnreadable",
            Self::StoreUnsuitable(_) => "StoreUnsuitable",
            Self::TableUnsuitable(_) => "TableUnsuitable",
            Self::ResetImpossible(_) => "ResetImpossible",
            Self::RecordRejected { .. } => "RecordRejected",
        }
    }

    /// Checks that a stored position is of the topic that is there now.
    pub fn unless_same(
        source: &Source,
        stored_cluster: &str,
        stored_topic: &str,
    ) -> Result<(), Self> {
        let topic = &source.topic;
        if topic.cluster_id == stored_cluster && topic.id == stored_topic {
            return Ok(());
        }
        Err(Self::TopicReplaced {
            source_name: source.to_string(),
            found: topic.id.clone(),
            found_cluster: topic.cluster_id.clone(),
            stored: stored_topic.to_owned(),
            stored_cluster: stored_cluster.to_owned(),
        })
    }
}

/// Why a sink did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It is away, or refuses us: try again later.
    #[error("{0:#}")]
    Away(#[from] anyhow::Error),
    /// The stored position is not the expected one: another worker has done our work. Read it again
    /// and go on from there.
    #[error("another worker has moved the position")]
    Moved,
    /// Stop.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// A place for records.
pub trait Sink: Send + Sync + 'static {
    /// How it gathers records.
    type Batch: Batch;

    /// When its batches are closed.
    fn limits(&self) -> Limits;

    /// Where it begins without a position.
    fn first(&self) -> First;

    /// Whether it can be reached and lets us in. Asked when the worker starts.
    fn check(&self) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// An empty batch.
    fn batch(&self, source: &Source) -> Self::Batch;

    /// The stored positions of a topic, by partition: those of `partitions`, and of others where
    /// that costs nothing.
    fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> impl Future<Output = Result<BTreeMap<i32, Position>, SinkError>> + Send;

    /// Stores first positions where there is none, unless the topic's positions are others than
    /// `seen`: then another worker has stored its own meanwhile, and what is first has to be found
    /// out anew. Only asked of sinks whose [`First`] is `Remembered`; the others have nothing to
    /// store.
    fn remember(
        &self,
        _topic: &Arc<Topic>,
        _seen: &BTreeMap<i32, Position>,
        _first: &BTreeMap<i32, i64>,
    ) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Those of `partitions` in which the reset `id` has not been carried out, by anybody.
    fn reset_pending(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Vec<i32>, SinkError>> + Send;

    /// Makes `to` the positions of partitions, whatever they were and of whichever topic of the
    /// name, and remembers that the reset `id` is carried out: both or neither, or so that calling
    /// it again ends it. A sink that keeps no position without records leaves partitions it has
    /// nothing of to the group's committed offset.
    fn reset(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        to: &BTreeMap<i32, i64>,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Stores a batch and moves the position from `from` to `to` in one step. Gives the position
    /// that is stored now: `to`, or `from` still where the batch is empty and the sink keeps no
    /// positions without records.
    fn commit(
        &self,
        source: &Source,
        batch: &Self::Batch,
        from: i64,
        to: i64,
    ) -> impl Future<Output = Result<i64, SinkError>> + Send;
}
