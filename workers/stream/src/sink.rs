//! The trait of sinks. A sink stores batches of records and, in the same atomic step, the positions
//! behind them.
//!
//! [`crate::session`] knows nothing else about PostgreSQL or S3. The contract between the two:
//! - A batch holds records of one partition, and a partition has at most one commit in flight.
//! - A commit is of a *group*: batches of several partitions of one topic. The sink answers for
//!   each of them; one that can't be stored does not keep the others from being stored.
//! - A batch and its position `to` are stored both or neither, and only while the stored position
//!   is still `from`.
//! - A commit without an answer may be repeated with the same arguments, even if the first attempt
//!   succeeded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pinpipe_core::{Cleaned, Order, Rejection};

use crate::log::Position;
pub use crate::log::Topic;
pub use pinpipe_runtime::failure::Refusal;

/// A partition to read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The partition's number.
    pub partition: i32,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic.name, self.partition)
    }
}

/// The position a sink has stored for a partition, and the identity of the log it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPosition {
    /// The id of the Kafka cluster.
    pub cluster_id: String,
    /// The topic's id.
    pub topic_id: String,
    /// The position.
    pub next: Position,
    /// Whether it is only noted as the one to begin at: the sink holds nothing of the partition.
    pub noted: bool,
}

/// A record that was read and cleaned.
#[derive(Clone, Copy, Debug)]
pub struct Consumed<'a> {
    /// The record as it was posted.
    pub raw: &'a [u8],
    /// Its time and place in the log: rows keyed by offset follow it.
    pub position: Order,
    /// The position behind it.
    pub after: Position,
    /// Decides which of two records with the same key is later: the position in the log, or for a
    /// re-driven record the position it first had.
    pub order: Order,
    /// The clean record, or why it is rejected.
    pub cleaned: &'a Result<Cleaned<'a>, Rejection>,
}

/// Records of one partition, encoded for the sink.
pub trait Batch: Send + Sync + 'static {
    /// Adds a record, or skips one of a class the sink doesn't store, such as rejected records.
    /// Records come in the order of their offsets.
    fn push(&mut self, record: Consumed<'_>);
    /// Ends the batch. Called once, before the commit.
    fn close(&mut self);
    /// The number of records in the batch, also of those that a later record of their key replaces.
    fn records(&self) -> usize;
    /// Memory used, bytes, estimated.
    fn bytes(&self) -> usize;
    /// The position behind the batch's last record; none where it holds none.
    fn last(&self) -> Option<Position>;
    /// Splits a closed batch of two records or more into two closed ones, in the order of the log.
    /// Between them lies the position behind the last record of the first. A record that is
    /// replaced by a later one of its key in the second must be in the first. None: fewer records.
    fn split(&self) -> Option<(Self, Self)>
    where
        Self: Sized;
}

/// When batches are closed and committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A batch of so many records is closed.
    pub records: usize,
    /// A batch of so many bytes is closed.
    pub bytes: usize,
    /// A batch is closed so long after its first record was read.
    pub age: Duration,
    /// The batches that are committed together.
    pub grouping: Grouping,
}

/// The batches that are committed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Those of one topic, which go into one table: a table has one commit under way, and the next
    /// begins soon after it, before `age`, with all that was read meanwhile.
    Topic,
    /// Each partition's by itself.
    Partition,
}

/// A batch of a group.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a, B> {
    /// The partition's number.
    pub partition: i32,
    /// The records, closed; perhaps none.
    pub batch: &'a B,
    /// The position that must be stored, which the batch follows.
    pub from: Position,
    /// The position behind the batch.
    pub to: Position,
}

/// A sink's answer for one batch of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The batch is stored. The stored position is this one now: `to`, or still `from` where the
    /// batch is empty and the sink stores no position without records.
    Stored(Position),
    /// The batch had been stored before, by a commit whose reply was lost or by another worker. The
    /// stored position is this one: `to`, or one behind it.
    AlreadyStored(Position),
    /// The stored position is not the expected one, since another worker has committed: read it
    /// again and continue from there. Nothing of the batch is stored.
    Moved,
    /// A record of the batch can never be stored. Nothing of the batch is stored.
    Refused(Refusal),
    /// The partition must stop. Nothing of the batch is stored.
    Halt(Halt),
}

/// Where a sink starts in a partition it has no position for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialPosition {
    /// At the earliest record or at the end of the log. The sink stores that position before the
    /// first record is read. A partition added later starts at 0.
    Stored(pinpipe_config::StartFrom),
    /// At the earliest record. The sink stores that position, too, but each partition's when it is
    /// assigned, and moves it only together with records.
    LogStart,
}

/// Why a sink stops until a person has decided how to continue. Records are never skipped or read
/// twice silently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The stored position belongs to another topic or cluster.
    #[error(
        "TopicReplaced: {source_name} has id {found} in cluster {found_cluster}, the stored \
         position is for id {stored} in cluster {stored_cluster}. The topic was created again or \
         the broker was swapped"
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
    /// The stored position is no longer within the log.
    #[error(
        "OffsetOutOfRange: the stored position {position} of {source_name} is outside the log, \
         which holds {low} to {high}: records were deleted before they were read, or the log was \
         truncated"
    )]
    OffsetOutOfRange {
        /// The partition.
        source_name: String,
        /// The stored position.
        position: String,
        /// The log's first position.
        low: String,
        /// The log's end.
        high: String,
    },
    /// The stored position can't be read.
    #[error("PositionUnreadable: {0}")]
    PositionUnreadable(String),
    /// The store lacks a guarantee the sink relies on.
    #[error("StoreUnsuitable: {0}")]
    StoreUnsuitable(String),
    /// An existing table can't be written to.
    #[error("TableUnsuitable: {0}")]
    TableUnsuitable(String),
    /// A requested reset can't be carried out.
    #[error("ResetImpossible: {0}")]
    ResetImpossible(String),
    /// The topic's records are stamped by their producers.
    #[error(
        "TopicUnsuitable: records of {0} are stamped by their producers' clocks, which don't order \
         them, so nothing reads it: set it to LogAppendTime (kafka-configs --alter --entity-type \
         topics --entity-name {0} --add-config message.timestamp.type=LogAppendTime). Records that \
         are in it already then count as older than all that come"
    )]
    TopicUnsuitable(String),
    /// The store refuses more records than can be set aside.
    #[error(
        "RecordsRefused: the store refuses the record at offset {offset} of {source_name}: \
         {sentence} ({code}). {limit} refused records of this partition are in the dead letters \
         already, the most of its last {of} records or within 10 minutes. Correct the table, or \
         what produces the records; the sink tries again every 30 s, and when 10 minutes have \
         passed, sets aside up to {limit} more. Or reset it to offset {} to go on behind the \
         record, which is in no dead letter then",
        offset + 1
    )]
    RecordsRefused {
        /// The partition.
        source_name: String,
        /// The next refused record's offset.
        offset: i64,
        /// The refused records that were set aside.
        limit: usize,
        /// The records they are counted in.
        of: u64,
        /// The store's code.
        code: String,
        /// The store's sentence.
        sentence: String,
    },
}

impl Halt {
    /// The reason's name, as in conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TopicReplaced { .. } => "TopicReplaced",
            Self::OffsetOutOfRange { .. } => "OffsetOutOfRange",
            Self::PositionUnreadable(_) => "PositionUnreadable",
            Self::StoreUnsuitable(_) => "StoreUnsuitable",
            Self::TableUnsuitable(_) => "TableUnsuitable",
            Self::ResetImpossible(_) => "ResetImpossible",
            Self::TopicUnsuitable(_) => "TopicUnsuitable",
            Self::RecordsRefused { .. } => "RecordsRefused",
        }
    }

    /// Checks that a stored position belongs to the topic that exists now.
    pub fn check_identity(
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

/// Why a call to a sink failed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The sink is unavailable or refuses the request: retry later.
    #[error("{0:#}")]
    Unavailable(#[from] anyhow::Error),
    /// The partitions of the call must stop.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// A store that answers, but refuses what the Secret says: a renewed Secret ends it, or a change on
/// the server. Within [`SinkError::Unavailable`].
#[derive(Debug, thiserror::Error)]
pub enum SecretRefused {
    /// The credentials are refused, or what they may do.
    #[error("{0}")]
    AccessDenied(String),
    /// The URL's database does not exist.
    #[error("{0}")]
    DatabaseMissing(String),
}

/// The reason by which an unavailable sink is reported.
#[must_use]
pub fn unavailable_reason(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref() {
        Some(SecretRefused::AccessDenied(_)) => "SinkAccessDenied",
        Some(SecretRefused::DatabaseMissing(_)) => "DatabaseMissing",
        None => SINK_UNAVAILABLE,
    }
}

/// The reason of an outage whose error has none of its own.
pub const SINK_UNAVAILABLE: &str = "SinkUnavailable";

/// A store of records and of the positions behind them.
pub trait Sink: Send + Sync + 'static {
    /// The type of its batches.
    type Batch: Batch;

    /// The limits of a batch.
    fn limits(&self) -> Limits;

    /// Where to start in a partition without a stored position.
    fn initial_position(&self) -> InitialPosition;

    /// Checks that the sink can be reached and used. Called when the worker starts.
    fn check(&self) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Takes up renewed files: calls to come use a new connection. An error says why the files
    /// can't be used; nothing has changed then.
    fn renew(&self) -> impl Future<Output = anyhow::Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// An empty batch.
    fn batch(&self, source: &Source) -> Self::Batch;

    /// The stored positions of a topic, by partition: those of `partitions`, and perhaps of others.
    fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> impl Future<Output = Result<BTreeMap<i32, StoredPosition>, SinkError>> + Send;

    /// Stores `initial` positions where there are none. Stores nothing if the topic's positions are
    /// no longer `known`: another worker has stored its own, and the initial ones must be computed
    /// again. A sink that starts at the log's start is given the assigned partitions alone.
    fn store_initial_positions(
        &self,
        _topic: &Arc<Topic>,
        _known: &BTreeMap<i32, StoredPosition>,
        _initial: &BTreeMap<i32, Position>,
    ) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Those of `partitions` in which no worker has carried out the reset `id`.
    fn reset_pending(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Vec<i32>, SinkError>> + Send;

    /// Sets the positions of partitions to `to`, also where the stored ones belong to an earlier
    /// topic of that name, and records that the reset `id` is carried out. Does both or neither, or
    /// can be called again to complete it.
    fn reset(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        to: &BTreeMap<i32, Position>,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Stores a group of batches, each with its position in one atomic step. Answers for each, in
    /// their order. Fails where no batch was stored, or where that is unknown.
    fn commit(
        &self,
        topic: &Arc<Topic>,
        group: &[Part<'_, Self::Batch>],
    ) -> impl Future<Output = Result<Vec<Answer>, SinkError>> + Send;
}
