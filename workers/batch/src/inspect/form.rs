//! Values in the form in which results have them.

use anyhow::Result;
use arrow::array::RecordBatch;
use chrono::{DateTime, SecondsFormat};
use pinpipe_config::RecordKind;
use pinpipe_core::Kind;
use serde_json::{Map, Value};

use crate::cells::{self, Cell};

/// A time, from milliseconds since the epoch.
pub fn time(millis: i64) -> String {
    DateTime::from_timestamp_millis(millis).map_or_else(
        || millis.to_string(),
        |time| time.to_rfc3339_opts(SecondsFormat::Millis, true),
    )
}

/// A text, from bytes that should be UTF-8.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A kind.
pub const fn kind(kind: Kind) -> RecordKind {
    match kind {
        Kind::Pin => RecordKind::Pin,
        Kind::Geo => RecordKind::Geo,
        Kind::User => RecordKind::User,
    }
}

/// A row as a JSON object by column.
pub fn row(batch: &RecordBatch, number: usize) -> Result<Map<String, Value>> {
    let (schema, cells) = (batch.schema(), cells::row(batch, number)?);
    let names = schema.fields().iter().map(|field| field.name().clone());
    let values = cells.iter().map(|cell| match cell {
        Cell::Time(micros) => DateTime::from_timestamp_micros(*micros)
            .map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
            .into(),
        cell => cell.to_json(),
    });
    Ok(names.zip(values).collect())
}

/// Numbers in ascending order, as ranges: `3, 5 to 9`. At most `most` of them, then an ellipsis.
pub fn ranges(numbers: &[i64], most: usize) -> String {
    let runs: Vec<&[i64]> = numbers.chunk_by(|a, b| a + 1 == *b).collect();
    let shown = runs.iter().take(most).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{} to {}", run[0], run[run.len() - 1]),
    });
    let mut shown: Vec<String> = shown.collect();
    if runs.len() > most {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_a_range() {
        assert_eq!(ranges(&[3, 5, 6, 7, 9], 9), "3, 5 to 7, 9");
        assert_eq!(ranges(&[1, 3, 5], 2), "1, 3, …");
        assert_eq!(ranges(&[], 2), "");
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(time(1_598_586_767_005), "2020-08-28T03:52:47.005Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
    }
}
