//! The sinks of a run: what each must be able to do, and what each lacks.
//!
//! A sink keeps a marker of the last run that was loaded into it. A run gives a sink with the
//! marker of the run it builds on only what has changed, and any other sink everything: one that is
//! new, was emptied or replaced, or was left out by runs in between.

use std::collections::HashSet;

use anyhow::Result;
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use pinpipe_config::Pipeline;
use serde::Serialize;

use crate::{cells::Cell, failure::Permanent, refused::RefusedRows};

/// Refused rows of a table, in percent and in number, above which the sink is at fault rather than
/// the rows.
const TOLERATED: (u64, u64) = (1, 100);
/// Most characters of a refused row's key in the report.
const KEY_CHARS: usize = 100;

/// Identifies a run's result in a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The id of the state, see [`crate::state::State::id`].
    pub state_id: String,
    /// The run's time.
    pub run_time: DateTime<Utc>,
}

/// What a sink has of a record.
#[derive(Debug, Default)]
pub struct Lookup {
    /// Whether the table exists.
    pub has_table: bool,
    /// The rows, as JSON objects.
    pub rows: Vec<String>,
    /// The last run that was loaded into it.
    pub marker: Option<Marker>,
}

/// A table of a sink.
#[derive(Clone, Debug)]
pub struct SinkTable {
    /// The table's name.
    pub name: &'static str,
    /// The columns.
    pub schema: SchemaRef,
    /// The key's columns. Rows are distributed by the first one.
    pub key: Vec<&'static str>,
}

/// Rows to be written: the table's columns, and perhaps others behind them that tell where their
/// records came from, see [`crate::rows::origin`].
pub type Rows<'a> = BoxStream<'a, Result<RecordBatch>>;

/// What became of the rows written to a table.
#[derive(Debug, Default)]
pub struct Written {
    /// Rows stored.
    pub rows: u64,
    /// Rows that the server refuses for good.
    pub refused: RefusedRows,
}

impl Written {
    /// Adds what became of other rows. Fails if so many are refused that the sink must be at fault.
    pub fn add(&mut self, other: Self) -> Result<(), Permanent> {
        self.rows += other.rows;
        self.refused.append(other.refused);
        let (percent, number) = TOLERATED;
        let refused = self.refused.number();
        let all = self.rows + refused;
        match self.refused.first().first() {
            Some(first) if refused > number && refused * 100 > all * percent => {
                Err(Permanent(format!(
                    "the server refuses {refused} of {all} rows, the first with the key {}: {}",
                    first.key, first.reason
                )))
            }
            _ => Ok(()),
        }
    }

    /// Fails if several rows are all refused: the earlier rows, which they were to replace, must
    /// not be deleted then.
    pub fn check_replacement(&self) -> Result<(), Permanent> {
        match self.refused.first() {
            [first, _, ..] if self.rows == 0 => Err(Permanent(format!(
                "the server refuses all {} rows, the first with the key {}: {}",
                self.refused.number(),
                first.key,
                first.reason
            ))),
            _ => Ok(()),
        }
    }
}

/// A row's key for messages, shortened.
pub fn key_text(key: &[&Cell<'_>]) -> String {
    let text: Vec<String> = key
        .iter()
        .map(|cell| match cell {
            Cell::Text(text) => (*text).to_owned(),
            cell => cell.to_json().to_string(),
        })
        .collect();
    short_key(&text.join(", "))
}

/// A key for messages, shortened.
pub fn short_key(text: &str) -> String {
    match text.char_indices().nth(KEY_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// The server became unavailable in the middle of a load, and nothing of the load is stored: it can
/// be repeated from its beginning.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Interrupted(pub anyhow::Error);

/// A store of clean tables and answers. All calls are idempotent. While the server is unavailable,
/// they retry for a bounded time, or fail with [`Interrupted`].
#[async_trait]
pub trait Sink: Send + Sync {
    /// Whether [`mark`](Self::mark) stores all that was written since
    /// [`prepare`](Self::prepare), and nothing is stored without it.
    fn is_atomic(&self) -> bool;

    /// Claims the place for `pipeline` (`namespace/name`). Fails if another one has claimed it.
    async fn claim(&self, pipeline: &str) -> Result<()>;

    /// Claims the place, too, and creates those of `tables` that don't exist. Returns the marker,
    /// unless a table was missing.
    async fn prepare(&self, pipeline: &str, tables: &[SinkTable]) -> Result<Option<Marker>>;

    /// Writes whole rows of the run at `run_time`, replacing earlier ones of the same key. `total`
    /// is their number, for the log.
    async fn write(
        &self,
        table: &SinkTable,
        total: u64,
        rows: Rows<'_>,
        run_time: DateTime<Utc>,
    ) -> Result<Written>;

    /// Deletes the rows that were written before `run_time`, and returns their number.
    async fn delete_older(&self, table: &SinkTable, run_time: DateTime<Utc>) -> Result<u64>;

    /// Keeps what [`prepare`](Self::prepare) has begun from timing out. To be called at least once
    /// a minute while nothing else is.
    async fn keep_open(&self) -> Result<()>;

    /// Replaces the marker.
    async fn mark(&self, marker: &Marker) -> Result<()>;
}

/// Whether a marker tells what `tables` hold. It doesn't if one of them is missing: the new table
/// would only ever get the rows that change.
pub fn is_marker_valid(existing: &HashSet<String>, tables: &[SinkTable]) -> bool {
    tables.iter().all(|table| existing.contains(table.name))
}

/// A pipeline's name in a sink.
pub fn pipeline_name(pipeline: &Pipeline) -> String {
    format!("{}/{}", pipeline.namespace, pipeline.name)
}

/// Which rows a run gives a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Extent {
    /// The rows that this run has changed.
    Changes,
    /// All rows. Others in the sink are deleted.
    Whole,
    /// Nothing: the sink has all of this run's rows.
    Nothing,
}

/// Which rows the run `this`, which builds on the run at `base`, gives a sink with `marker`, and
/// why. `is_attempt` tells that a worker of another release has begun the run, or that an import
/// was abandoned before it: the sink may have rows that the run doesn't have. `is_atomic` is
/// [`Sink::is_atomic`].
pub fn extent(
    marker: Option<&Marker>,
    this: &Marker,
    base: Option<DateTime<Utc>>,
    is_attempt: bool,
    is_atomic: bool,
) -> Result<(Extent, String), Permanent> {
    let Some(marker) = marker else {
        return Ok((Extent::Whole, "no run was loaded into it before".to_owned()));
    };
    if is_atomic && marker == this {
        let why = "it was loaded before the run was interrupted".to_owned();
        return Ok((Extent::Nothing, why));
    }
    let time = marker.run_time;
    if time > this.run_time {
        return Err(Permanent(format!(
            "it was loaded by the run of {time:?}, which is later than this one, {:?}, so its rows \
             would win over this run's: the state in the bucket was restored or replaced, or a \
             clock was ahead. Drop the keyspace or schema, or use another, and run again",
            this.run_time
        )));
    }
    let whole = |why: String| Ok((Extent::Whole, why));
    if marker.state_id != this.state_id {
        return whole(format!(
            "it was loaded from another state, {}",
            marker.state_id
        ));
    }
    match base {
        None => whole("the run has read all records".to_owned()),
        Some(base) if time == this.run_time || (time == base && !is_attempt) => Ok((
            Extent::Changes,
            format!("it has the rows of the run of {time:?}"),
        )),
        Some(base) if time == base => whole(
            "it may have rows of an abandoned import, or of another release's attempt".to_owned(),
        ),
        Some(_) => whole(format!(
            "it has the rows of the run of {time:?}, which is not the one before this"
        )),
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_runtime::failure::Refusal;

    use super::*;
    use crate::refused::Refused;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).unwrap()
    }

    fn marker(state_id: &str, micros: i64) -> Marker {
        Marker {
            state_id: state_id.into(),
            run_time: at(micros),
        }
    }

    #[test]
    fn a_marker_is_void_if_a_table_is_missing() {
        let table = |name| SinkTable {
            name,
            schema: SchemaRef::new(arrow::datatypes::Schema::empty()),
            key: vec!["x"],
        };
        let tables = [table("pinterest_batch"), table("geo_batch")];
        let valid = |existing: &[&str]| {
            is_marker_valid(&existing.iter().map(ToString::to_string).collect(), &tables)
        };
        assert!(valid(&["geo_batch", "pinpipe_marker", "pinterest_batch"]));
        assert!(!valid(&["geo_batch", "pinpipe_marker"]), "one was dropped");
    }

    #[test]
    fn only_a_sink_with_the_marker_of_the_run_before_gets_changes_alone() {
        let this = marker("a", 20);
        for (found, base, expected) in [
            (None, Some(10), Extent::Whole),
            (Some(marker("a", 10)), Some(10), Extent::Changes),
            // This run died after it had loaded the sink.
            (Some(marker("a", 20)), Some(10), Extent::Changes),
            (Some(marker("a", 5)), Some(10), Extent::Whole),
            // An attempt of this run by another release.
            (Some(marker("a", 19)), Some(10), Extent::Whole),
            (Some(marker("b", 10)), Some(10), Extent::Whole),
            (Some(marker("a", 10)), None, Extent::Whole),
            (Some(marker("a", 20)), None, Extent::Whole),
        ] {
            let extent_of = |is_atomic| {
                extent(found.as_ref(), &this, base.map(at), false, is_atomic)
                    .unwrap()
                    .0
            };
            assert_eq!(extent_of(false), expected, "{found:?} {base:?}");
            let whole_run = found.as_ref() == Some(&this);
            let expected = if whole_run { Extent::Nothing } else { expected };
            assert_eq!(extent_of(true), expected, "atomic: {found:?} {base:?}");
        }
    }

    #[test]
    fn another_attempt_deletes_the_rows_that_only_the_first_one_had() {
        // The first attempt died before it had replaced the marker of the run before.
        let (extent, because) = extent(
            Some(&marker("a", 10)),
            &marker("a", 21),
            Some(at(10)),
            true,
            false,
        )
        .unwrap();
        assert_eq!(extent, Extent::Whole, "{because}");
    }

    #[test]
    fn a_sink_with_later_rows_is_refused() {
        let error = extent(
            Some(&marker("b", 21)),
            &marker("a", 20),
            Some(at(10)),
            false,
            false,
        )
        .unwrap_err();
        assert!(error.to_string().contains("later than this one"), "{error}");
    }

    #[test]
    fn many_refused_rows_are_the_sinks_fault() {
        let some = |rows, refused| {
            let mut written = Written {
                rows,
                ..Written::default()
            };
            for _ in 0..refused {
                written.refused.push(Refused {
                    table: "t".into(),
                    key: "k".into(),
                    reason: Refusal::new(
                        "0x2200",
                        "Key length of 70000 is longer than maximum of 65535",
                    ),
                    origin: None,
                });
            }
            written
        };
        let mut few = Written::default();
        few.add(some(0, 100)).unwrap();
        few.add(some(20_000, 101)).unwrap();
        assert_eq!(few.refused.number(), 201);
        let error = Written::default().add(some(10_000, 102)).unwrap_err();
        assert!(error.to_string().contains("102 of 10102 rows"), "{error}");
        assert!(error.to_string().contains("Key length of 70000"), "{error}");
        for (rows, refused, expected) in [
            (0, 0, true),
            (0, 1, true),
            (1, 2, true),
            (0, 2, false),
            (0, 100, false),
        ] {
            let result = some(rows, refused).check_replacement();
            assert_eq!(result.is_ok(), expected, "{rows} {refused}");
            if let Err(error) = result {
                assert!(
                    error.to_string().contains("all 2 rows") || refused > 2,
                    "{error}"
                );
            }
        }
    }
}
