//! The manifest of a run: what it covers, fixed before the work begins, so that a worker that
//! resumes the run does the same work.

use std::ops::Range;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use pinpipe_core::Kind;
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
    /// Raw objects to read, ordered by kind, partition and offset.
    pub objects: Vec<RawObject>,
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
    /// Partition of its records.
    pub partition: i32,
    /// Key in the bucket.
    pub key: String,
    /// Format of the object, which depends on who wrote it.
    #[serde(rename = "form", default, skip_serializing_if = "Format::is_archive")]
    pub format: Format,
}

/// Format of a raw object, which also decides how its records are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Written by our archive: an index object has the offset and timestamp of each line.
    #[default]
    Archive,
    /// Written by an S3 sink connector: one record per line, the first one at this offset. Its
    /// records count as older than all archived ones.
    Connector(i64),
    /// A single record per object, numbered in key order. Counts as older than all records of a
    /// connector.
    Single(i64),
}

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
    /// since a sink may have its rows. Without state it must not go on.
    pub fn new_attempt(&self, has_state: bool, last: Option<DateTime<Utc>>) -> Option<Attempt> {
        let overtaken = self.is_overtaken(last);
        if overtaken && !has_state {
            return None;
        }
        (self.release != RELEASE || overtaken).then(|| Attempt {
            release: RELEASE.to_owned(),
            run_time: run_time(self.run_time + TimeDelta::microseconds(1), last),
        })
    }

    /// Whether the last finished run, at `last`, is later than this one.
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_run_is_later_than_the_last_one_whatever_the_clock_says() {
        let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        assert_eq!(run_time(at(100) + TimeDelta::nanoseconds(7), None), at(100));
        assert_eq!(run_time(at(100), Some(at(99))), at(100));
        assert_eq!(run_time(at(100), Some(at(100))), at(101));
        assert_eq!(
            run_time(at(100), Some(at(500))),
            at(501),
            "a clock that is behind"
        );
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let positions = |offset| {
            Positions::from([("t.pin".to_owned(), BTreeMap::from([(0, offset), (10, 5)]))])
        };
        let object = |format| RawObject {
            kind: Kind::Pin,
            partition: 0,
            key: "topics/t.pin/x".into(),
            format,
        };
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        for kind in [
            RunKind::Incremental,
            RunKind::Full,
            RunKind::Backfill {
                from: time(0),
                to: time(5_000),
            },
            RunKind::Import,
        ] {
            let manifest = Manifest {
                run: "r".into(),
                run_time: time(1_795_000_000_123_456),
                release: "1.2.3".into(),
                kind,
                state: Some("q".into()),
                state_id: "u-1".into(),
                buckets: 128,
                from: positions(0),
                to: positions(7),
                begin: positions(3),
                covered: positions(0),
                objects: vec![
                    object(Format::Archive),
                    object(Format::Connector(7)),
                    object(Format::Single(1)),
                ],
            };
            let text = serde_json::to_string(&manifest).unwrap();
            assert_eq!(
                serde_json::from_str::<Manifest>(&text).unwrap(),
                manifest,
                "{text}"
            );
        }
    }

    #[test]
    fn a_manifest_without_state_is_read_as_a_full_run() {
        let old = r#"{"run": "r", "runTime": "2026-11-21T10:00:00Z",
            "from": {"t": {"0": 0}}, "to": {"t": {"0": 7}},
            "objects": [{"kind": "pin", "partition": 0, "key": "k"}]}"#;
        let manifest: Manifest = serde_json::from_str(old).unwrap();
        assert_eq!(
            (&manifest.kind, &manifest.state, manifest.buckets),
            (&RunKind::Full, &None, MIN_BUCKETS)
        );
        assert_eq!(
            (manifest.objects[0].format, manifest.window("t", 0).offsets),
            (Format::Archive, 0..7)
        );
    }

    #[test]
    fn another_release_writes_with_a_later_timestamp() {
        let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        let planned = |release: &str| Manifest {
            run: "r".into(),
            run_time: at(100),
            release: release.into(),
            kind: RunKind::Full,
            state: None,
            state_id: String::new(),
            buckets: MIN_BUCKETS,
            from: Positions::new(),
            to: Positions::new(),
            begin: Positions::new(),
            covered: Positions::new(),
            objects: Vec::new(),
        };
        assert_eq!(planned(RELEASE).new_attempt(true, Some(at(99))), None);
        for (release, last, expected) in [
            ("0.0.1", None, 101),
            ("0.0.1", Some(99), 101),
            // Another run was published meanwhile.
            (RELEASE, Some(100), 101),
            (RELEASE, Some(500), 501),
        ] {
            let attempt = planned(release).new_attempt(true, last.map(at)).unwrap();
            let resumed = planned(release).with_attempt(attempt);
            assert_eq!(
                (resumed.run_time, resumed.release.as_str()),
                (at(expected), RELEASE),
                "{release} {last:?}"
            );
            assert_eq!(
                resumed.new_attempt(true, last.map(at)),
                None,
                "resumed again"
            );
        }
        let overtaken = planned("0.0.1");
        assert_eq!(
            overtaken.new_attempt(false, Some(at(100))),
            None,
            "no sink has its rows, and a later timestamp would let them win over newer ones"
        );
        assert!(overtaken.is_overtaken(Some(at(100))) && !overtaken.is_overtaken(Some(at(99))));
    }

    #[test]
    fn a_run_reads_only_its_own_records() {
        let positions = |offset| Positions::from([("t".to_owned(), BTreeMap::from([(0, offset)]))]);
        let time = |millis| DateTime::from_timestamp_millis(millis).unwrap();
        let manifest = |kind| Manifest {
            run: "r".into(),
            run_time: time(0),
            release: String::new(),
            kind,
            state: None,
            state_id: String::new(),
            buckets: MIN_BUCKETS,
            from: positions(10),
            to: positions(20),
            begin: Positions::new(),
            covered: Positions::new(),
            objects: Vec::new(),
        };
        let read = |kind| {
            let window = manifest(kind).window("t", 0);
            [(9, 900), (10, 1000), (19, 1900), (20, 2000)]
                .map(|(offset, time)| window.contains(offset, time))
        };
        assert_eq!(read(RunKind::Incremental), [false, true, true, false]);
        let after_a_loss = Manifest {
            covered: positions(5),
            ..manifest(RunKind::Incremental)
        };
        assert_eq!(
            after_a_loss.window("t", 0).offsets,
            5..20,
            "objects that were restored are read"
        );
        assert_eq!(read(RunKind::Full), [true, true, true, false]);
        assert_eq!(
            read(RunKind::Backfill {
                from: time(900),
                to: time(1000)
            }),
            [true, false, false, false]
        );
        assert_eq!(read(RunKind::Import), [true; 4]);
        assert!(
            !manifest(RunKind::Full).window("t", 3).contains(0, 0),
            "the manifest doesn't have that partition"
        );
    }
}
