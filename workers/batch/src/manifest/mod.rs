//! The manifest of a run: what it covers, fixed before the work begins, so that a worker that
//! resumes the run does the same work.

use std::{collections::BTreeMap, ops::Range};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use pinpipe_config::S3;
use pinpipe_core::{Kind, Order};
use serde::{Deserialize, Serialize};

use crate::state::MIN_BUCKETS;

pub use pinpipe_runtime::kafka::Positions;

/// What a run covers. Manifests written before runs kept state have no `kind`, `state` and
/// `buckets`; the defaults read them as full runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The run's name.
    pub run: String,
    /// When the run began, microseconds; later than every earlier run's. The timestamp of its rows.
    pub run_time: DateTime<Utc>,
    /// The release of the workers that carry out the run; empty for releases that didn't write it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub release: String,
    /// Which records the run reads.
    #[serde(default)]
    pub kind: RunKind,
    /// The run whose state this one builds on; `None` for a run that starts empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Identifies the state the run writes, see [`crate::state::State::id`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state_id: String,
    /// Number of buckets per kind in the state the run writes.
    #[serde(default = "min_buckets")]
    pub buckets: u32,
    /// First offset of each partition that no earlier run has read.
    pub from: Positions,
    /// First offset of each partition that is left to the next run.
    pub to: Positions,
    /// First offset of each partition's first raw object, if the plan has seen that.
    #[serde(default, skip_serializing_if = "Positions::is_empty")]
    pub begin: Positions,
    /// Offset after the last one that raw objects covered, by partition, when the run was planned
    /// that this one builds on. If that is before `from`, later offsets had no records, or their
    /// objects were lost, and are read now if they are there again.
    #[serde(default, skip_serializing_if = "Positions::is_empty")]
    pub covered: Positions,
    /// Of an import: where its objects are, and what was passed over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub import: Import,
    /// Raw objects to read, ordered by kind, partition and offset.
    pub objects: Vec<RawObject>,
}

/// Where an import's objects are, and which of them it doesn't read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Import {
    /// The bucket; the archive's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What was asked for, as JSON; empty in manifests of releases that didn't write it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// What the plan has passed over.
    #[serde(default, skip_serializing_if = "PassedOver::is_empty")]
    pub passed_over: PassedOver,
}

fn is_default(import: &Import) -> bool {
    *import == Import::default()
}

/// Another bucket than the archive's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The bucket.
    pub bucket: String,
    /// The object store. It has the folder of the credentials, not the credentials.
    pub s3: S3,
    /// Whether the folder of the credentials is the import's own; else it is the archive's, if
    /// there is one.
    #[serde(default)]
    pub has_own_keys: bool,
    /// Whether the bucket is part of the host's name although there is an endpoint.
    #[serde(default)]
    pub virtual_host: bool,
}

/// Objects that an import doesn't read, by reason.
pub type PassedOver = BTreeMap<String, PassedObjects>;

/// Objects that an import doesn't read, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedObjects {
    /// Their number.
    pub objects: u64,
    /// The key of one of them.
    pub first: String,
}

/// Adds an object that isn't read.
pub fn pass_over(passed_over: &mut PassedOver, reason: &str, key: &str) {
    if let Some(passed) = passed_over.get_mut(reason) {
        passed.objects += 1;
        return;
    }
    let first = key.to_owned();
    passed_over.insert(reason.to_owned(), PassedObjects { objects: 1, first });
}

/// Adds `others` to objects that aren't read.
pub fn pass_over_all(passed_over: &mut PassedOver, others: PassedOver) {
    for (reason, others) in others {
        if let Some(passed) = passed_over.get_mut(&reason) {
            passed.objects += others.objects;
        } else {
            passed_over.insert(reason, others);
        }
    }
}

/// The release of this program.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

const fn min_buckets() -> u32 {
    MIN_BUCKETS
}

/// Which records a run reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunKind {
    /// Records that no run has read before.
    Incremental,
    /// All archived records; earlier state is ignored.
    #[default]
    Full,
    /// Records whose Kafka timestamp is in a time range, read again. Positions don't change.
    Backfill {
        /// Start, inclusive.
        from: DateTime<Utc>,
        /// End, exclusive.
        to: DateTime<Utc>,
    },
    /// Objects that were not written by this pipeline's archive. Positions don't change.
    Import,
}

impl RunKind {
    /// Name in reports and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
            Self::Backfill { .. } => "backfill",
            Self::Import => "import",
        }
    }
}

/// One raw object of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawObject {
    /// Kind of its records.
    pub kind: Kind,
    /// Partition of its records; of another tool's object the [`place`] of the import.
    pub partition: i32,
    /// Key in the bucket.
    pub key: String,
    /// Format of the object, which depends on who wrote it.
    #[serde(rename = "form", default, skip_serializing_if = "Format::is_archive")]
    pub format: Format,
}

impl RawObject {
    /// The order of one of an imported object's records.
    pub fn order(&self, record: u32) -> Order {
        let (time, partition) = (0, self.partition);
        match &self.format {
            Format::Imported(imported) => imported.order(partition, record),
            Format::Connector(first) | Format::Single(first) => Order {
                time,
                partition,
                offset: first + i64::from(record),
            },
            Format::Archive => Order {
                time,
                partition,
                offset: i64::from(record),
            },
        }
    }
}

/// Format of a raw object, which also decides how its records are ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Written by our archive: an index object has the offset and timestamp of each line.
    #[default]
    Archive,
    /// Written by another tool.
    Imported(Imported),
    /// The same, planned by an earlier release: lines, the first one at this offset.
    Connector(i64),
    /// The same, planned by an earlier release: the record of this number.
    Single(i64),
}

/// An object that another tool wrote: any number of records, in any form. They count as older than
/// all archived ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// When it was written, milliseconds since the epoch; of a connector's objects not before those
    /// with smaller offsets.
    pub modified: i64,
    /// Its number among those of the import, which orders objects of the same time.
    pub number: u32,
    /// Its size, bytes.
    pub bytes: u64,
    /// Changes with its content, if the store says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Later than the time at which any object was written, milliseconds since the epoch.
const AFTER_ALL: i64 = 1 << 52;

impl Imported {
    /// The order of one of its records, in an import of this [`place`]. Its time is negative, so
    /// that all of an archive's are later.
    pub fn order(&self, place: i32, record: u32) -> Order {
        Order {
            time: self.modified.min(AFTER_ALL - 1) - AFTER_ALL,
            partition: place,
            offset: (i64::from(self.number) << 32) | i64::from(record),
        }
    }
}

/// The place of an import among all others, by its time to the second, as part of the order of its
/// records. Negative until 2093, so no partition of Kafka's.
pub fn place(run_time: DateTime<Utc>) -> i32 {
    i32::try_from(run_time.timestamp() - LAST_SECOND).unwrap_or(i32::MAX)
}

/// 2093-08-02, seconds since the epoch.
const LAST_SECOND: i64 = 3_900_000_000;

impl Format {
    const fn is_archive(&self) -> bool {
        matches!(self, Self::Archive)
    }
}

/// The time of a new run: now, in whole microseconds, and always later than the last run's, even if
/// this machine's clock is behind, since Cassandra keeps the cell with the greater timestamp.
pub fn run_time(now: DateTime<Utc>, last: Option<DateTime<Utc>>) -> DateTime<Utc> {
    let now = now
        .duration_trunc(TimeDelta::microseconds(1))
        .unwrap_or(now);
    last.map_or(now, |last| now.max(last + TimeDelta::microseconds(1)))
}

/// A later attempt of a run: what replaces the manifest's own values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The release of the workers.
    pub release: String,
    /// The timestamp of the attempt's rows.
    pub run_time: DateTime<Utc>,
}

impl Manifest {
    /// The attempt of this release that resumes the run; `None` if the run goes on as it began.
    /// Another release may clean a record into other values, so its rows need a later timestamp
    /// than the first ones. So do those of a run that another one has overtaken, if it has state,
    /// since a sink may have its rows. Without state it must not go on. And so do those of a run
    /// that is older than an abandoned import, whose rows, at `abandoned`, a sink may have.
    pub fn new_attempt(
        &self,
        has_state: bool,
        last: Option<DateTime<Utc>>,
        abandoned: Option<DateTime<Utc>>,
    ) -> Option<Attempt> {
        if self.is_overtaken(last) && !has_state {
            return None;
        }
        let latest = last.max(abandoned);
        (self.release != RELEASE || self.is_overtaken(latest)).then(|| Attempt {
            release: RELEASE.to_owned(),
            run_time: run_time(self.run_time + TimeDelta::microseconds(1), latest),
        })
    }

    /// Whether a run at `last`, such as the last finished one, is later than this one.
    pub fn is_overtaken(&self, last: Option<DateTime<Utc>>) -> bool {
        last.is_some_and(|last| last >= self.run_time)
    }

    /// The run as an attempt carries it out.
    pub fn with_attempt(self, Attempt { release, run_time }: Attempt) -> Self {
        Self {
            run_time,
            release,
            ..self
        }
    }

    /// The most records that the run reads; `None` if that shows only once they are read.
    pub fn records(&self) -> Option<u64> {
        if !matches!(self.kind, RunKind::Incremental | RunKind::Full) {
            return None;
        }
        let partitions = self
            .to
            .iter()
            .flat_map(|(topic, ends)| ends.keys().map(move |partition| (topic, *partition)));
        let records = partitions.map(|(topic, partition)| {
            let begin = self.begin.get(topic).and_then(|all| all.get(&partition));
            let Range { start, end } = self.window(topic, partition).offsets;
            let start = begin.map_or(start, |begin| start.max(*begin));
            u64::try_from(end - start).unwrap_or(0)
        });
        Some(records.sum())
    }

    /// The records of a partition that belong to the run.
    pub fn window(&self, topic: &str, partition: i32) -> Window {
        let offset = |positions: &Positions| {
            let partitions = positions.get(topic)?;
            partitions.get(&partition).copied()
        };
        let (from, end) = (offset(&self.from), offset(&self.to).unwrap_or(0));
        let first = from.into_iter().chain(offset(&self.covered)).min();
        let first = first.unwrap_or(0);
        match self.kind {
            RunKind::Incremental => Window {
                offsets: first..end,
                times: i64::MIN..i64::MAX,
            },
            RunKind::Full => Window {
                offsets: 0..end,
                times: i64::MIN..i64::MAX,
            },
            RunKind::Backfill { from, to } => Window {
                offsets: 0..end,
                times: from.timestamp_millis()..to.timestamp_millis(),
            },
            RunKind::Import => Window {
                offsets: i64::MIN..i64::MAX,
                times: i64::MIN..i64::MAX,
            },
        }
    }
}

/// A range of records of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Offsets.
    pub offsets: Range<i64>,
    /// Kafka timestamps, milliseconds since the epoch.
    pub times: Range<i64>,
}

impl Window {
    /// Whether a record with this offset and timestamp is in the window.
    pub fn contains(&self, offset: i64, time: i64) -> bool {
        self.offsets.contains(&offset) && self.times.contains(&time)
    }
}

#[cfg(test)]
mod tests;
