//! What `pinpipe-batch inspect` prints on standard output, for whoever runs it in a pod.
//!
//! `pinpipe-batch inspect [--folder DIR] COMMAND`, with DIR as at [`INSPECT_DIR`]:
//!
//! ```text
//! trace KIND KEY       every place of the record (pin: unique_id or index; geo, user: ind)
//! verify               missing raw objects, missing or doubled rows
//! tail [--kind K,…] [--rejected] [--last N] [--follow]
//! deadletters list [--kind K,…] [--outcome O] [--reason R,…] [--sink S,…] [--field F,…]
//!                  [--from TIME] [--to TIME]
//! deadletters show [the same] [--limit N]
//! ```
//! The environment is that of the batch worker (`RUST_LOG`, `PINPIPE_LOG_FORMAT`); `--config` is
//! not read. Exit codes are those of the batch worker.
//!
//! Each line is a JSON object. `{"result": {…}}` has one result: a [`Place`] of `trace`, a
//! [`Finding`] of `verify`, a [`TopicRecord`] of `tail`, a [`Letter`] of `tail --rejected` and
//! `deadletters show`, a [`LetterCount`] of `deadletters list`. The last line is
//! `{"done": {"problems": N}}` ([`Done`]); without it the command has failed, and its log and
//! termination message say why. Lines with a `level` are log lines.
//!
//! Results are flat, so that they can be shown as rows. Times are RFC 3339 in UTC with
//! milliseconds. Values that aren't UTF-8 have U+FFFD in place of what isn't. Fields that don't
//! apply are left out.

use serde::{Deserialize, Serialize};

use crate::RecordKind;

/// The directory under which an inspecting pod has the configuration of each component of the
/// pipeline, as the operator wrote it: `archive/config.yaml`, `sinks/<name>/config.yaml` of each
/// stream sink, `batch/config.yaml`. The folder of a component that the pipeline hasn't is absent.
/// The Secrets' volumes are mounted where the components have them.
pub const INSPECT_DIR: &str = "/etc/pinpipe/inspect";
/// The folder of the archive's configuration, below [`INSPECT_DIR`].
pub const INSPECT_ARCHIVE: &str = "archive";
/// The folder of folders of the stream sinks' configurations, below [`INSPECT_DIR`].
pub const INSPECT_SINKS: &str = "sinks";
/// The folder of the batch worker's configuration, below [`INSPECT_DIR`].
pub const INSPECT_BATCH: &str = "batch";

/// A line of standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line<T> {
    /// A result.
    Result(T),
    /// The end. No line follows.
    Done(Done),
}

/// How a command that has read all it was asked to read ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// How many things are wrong: [`Finding`]s with the outcome [`Outcome::Problem`], or
    /// [`Place`]s with the state [`PlaceState::Missing`]. 0 of the other commands.
    pub problems: u64,
}

/// A place in which a record may be, in the order in which records get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PlaceKind {
    /// The topic of raw records. One result per version of the record.
    Topic,
    /// The dead-letter topic. One result per dead letter.
    DeadLetter,
    /// The archive's raw objects. One result per version of the record.
    RawObject,
    /// The live table of a stream sink. In write mode Append, one result per row.
    LiveTable,
    /// The clean rows that batch runs keep in the archive's bucket.
    State,
    /// The table of a sink of batch runs.
    BatchTable,
    /// One of the eight answers.
    Answer,
}

/// Whether a record is in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PlaceState {
    /// It is there. In an answer: it takes part.
    Found,
    /// It is there, but a later version has replaced it or is going to.
    Superseded,
    /// It isn't there, for a reason that is in order: [`Place::note`].
    Absent,
    /// It isn't there yet, but will be: the reader of that place hasn't come so far, or no batch
    /// run has read it.
    Pending,
    /// It isn't there although it should be.
    Missing,
    /// It can't be said, as [`Place::note`] explains: the place can't be reached or searched
    /// whole.
    Unknown,
}

/// A result of `trace`: a place of the record, or why it isn't there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// What kind of place.
    pub place: PlaceKind,
    /// Its name: a topic, an object's URI, `<sink>: <schema>.<table>`, an answer.
    pub name: String,
    /// Whether the record is there.
    pub state: PlaceState,
    /// The record's partition: of the record that was written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// The record's offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// The record's Kafka timestamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The line of the raw object, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Why it isn't there, or what is to be known of it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The record, or the row as a JSON object by column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What `verify` checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Check {
    /// The raw objects of a partition join end to start, and have their index objects.
    RawObjects,
    /// A live table has one row of each record.
    LiveRows,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// All is there.
    Ok,
    /// Something is missing, or is there more than once.
    Problem,
    /// It could not be checked, or not exactly: [`Finding::message`] says why.
    NotCounted,
}

/// A result of `verify`: what was found in a partition, a result per problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was checked.
    pub check: Check,
    /// How it ended.
    pub outcome: Outcome,
    /// Where: the folder of the partition's raw objects as a URI, or `<sink>: <schema>.<table>`.
    pub place: String,
    /// The topic.
    pub topic: String,
    /// The partition; absent if the whole topic is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// First offset of what was checked, or of what is missing or doubled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// The offset after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// How many: offsets that no object covers, rows that are missing or doubled; else objects or
    /// rows that were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What it means, as a sentence.
    pub message: String,
}

/// A result of `tail`: a record of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicRecord {
    /// What kind of record.
    pub kind: RecordKind,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The Kafka timestamp; absent if the record has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The key; absent if the record has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value; absent if the record has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A result of `deadletters show` and `tail --rejected`: a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Letter {
    /// What kind of record.
    pub kind: RecordKind,
    /// `rejected`: nothing could be keyed; `refused`: a sink will never take it.
    pub outcome: String,
    /// The reason, such as `key-missing` or the code of the sink's error.
    pub reason: String,
    /// The field with the fault, by raw name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The sink that refused the record; `batch/<name>` for one of batch runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// What was wrong, as a sentence.
    pub message: String,
    /// The record's topic.
    pub topic: String,
    /// The record's partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// The record's Kafka timestamp.
    pub time: String,
    /// How often the record was processed: 1 plus the number of re-drives.
    pub attempt: u32,
    /// Whether a re-drive has written it back to its topic.
    pub redriven: bool,
    /// The dead-letter topic.
    pub letter_topic: String,
    /// The dead letter's own partition.
    pub letter_partition: i32,
    /// The dead letter's own offset.
    pub letter_offset: i64,
    /// The record's key; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The record; absent if it was too large to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A result of `deadletters list`: dead letters that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterCount {
    /// What kind of record.
    pub kind: RecordKind,
    /// `rejected` or `refused`.
    pub outcome: String,
    /// The sink that refused the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// The reason.
    pub reason: String,
    /// The field with the fault, by raw name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// How many.
    pub letters: u64,
    /// How many of them a re-drive has written back.
    pub redriven: u64,
    /// The earliest Kafka timestamp of their records.
    pub first: String,
    /// The latest Kafka timestamp of their records.
    pub last: String,
}
