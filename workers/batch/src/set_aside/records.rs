//! Finds raw records in a raw object.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use pinpipe_runtime::{
    compressed::Decompressor,
    raw_zone::{Index, ObjectMetadata},
};

use super::Row;
use crate::{failure::Permanent, store::Store};

/// The records of some rows that an object holds.
pub struct Found<'a> {
    /// The object's metadata.
    pub metadata: ObjectMetadata,
    /// The rows with their raw records.
    pub records: Vec<(Row<'a>, Vec<u8>)>,
}

/// Reads the records of `rows`, which are of one partition, from the object `key`. Those that it
/// doesn't hold are left out.
pub async fn read<'a>(store: &Store, key: &str, rows: &[&Row<'a>]) -> Result<Found<'a>> {
    let response = store.get_once(key).await?;
    let metadata = ObjectMetadata::from_metadata(&response.metadata.unwrap_or_default());
    let metadata = metadata.map_err(|error| Permanent(format!("{key}: {error}")))?;
    let index = match metadata.record_count {
        0 => Index::default(),
        _ => store.get_json_once(&metadata.index).await?,
    };
    let numbered = rows
        .iter()
        .filter_map(|row| Some((line(&index, row)?, **row)));
    let by_line: BTreeMap<usize, Row<'a>> = numbered.collect();
    let mut lines = Lines::new(by_line.keys().copied().collect());
    let mut decompressor =
        Decompressor::for_key(key).map_err(|error| Permanent(error.to_string()))?;
    let mut body = response.body;
    while !lines.is_done()
        && let Some(piece) = body.next().await
    {
        decompressor.push(&piece?, |text| {
            lines.push(text);
            anyhow::Ok(())
        })?;
    }
    let found = lines.finish();
    ensure!(
        found.len() == by_line.len(),
        "{key} doesn't have the {} lines of its index object",
        index.offsets.len()
    );
    Ok(Found {
        metadata,
        records: by_line.into_values().zip(found).collect(),
    })
}

/// The number of the line with a row's record; `None` if the object doesn't have it.
fn line(index: &Index, row: &Row<'_>) -> Option<usize> {
    let line = index.offsets.binary_search(&row.position.offset).ok()?;
    let is_its = index.times.get(line) == Some(&row.position.time)
        && index.order(line, row.position.partition) == Some(row.order);
    is_its.then_some(line)
}

/// Picks lines out of a text that comes in pieces of any size.
struct Lines {
    /// The numbers of the lines to be picked, in order.
    wanted: Vec<usize>,
    /// Number of complete lines so far.
    number: usize,
    /// The lines picked; the last one may not be complete.
    picked: Vec<Vec<u8>>,
}

impl Lines {
    const fn new(wanted: Vec<usize>) -> Self {
        Self {
            wanted,
            number: 0,
            picked: Vec::new(),
        }
    }

    /// Whether all lines are picked.
    fn is_done(&self) -> bool {
        self.wanted.last().is_none_or(|last| self.number > *last)
    }

    fn push(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            let wanted = self.wanted.binary_search(&self.number);
            if let Ok(at) = wanted {
                self.picked.resize(at + 1, Vec::new());
                self.picked[at].extend_from_slice(piece);
            }
            self.number += usize::from(piece.last() == Some(&b'\n'));
        }
    }

    /// The lines that were found, without their line breaks.
    fn finish(mut self) -> Vec<Vec<u8>> {
        for line in &mut self.picked {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
        }
        self.picked
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::Order;
    use pinpipe_runtime::{failure::Refusal, raw_zone::LineOrder};

    use super::*;

    #[test]
    fn lines_are_picked_whatever_the_pieces() {
        let text = b"zero\none\n\nthree\nfour";
        for size in 1..text.len() {
            let mut lines = Lines::new(vec![1, 2, 4]);
            for piece in text.chunks(size) {
                assert!(!lines.is_done());
                lines.push(piece);
            }
            assert_eq!(lines.finish(), [&b"one"[..], b"", b"four"], "{size}");
        }
        assert!(Lines::new(Vec::new()).is_done());
    }

    #[test]
    fn a_row_s_record_is_that_of_its_offset_time_and_order() {
        let at = |time, offset| Order {
            time,
            partition: 0,
            offset,
        };
        let index = Index {
            offsets: vec![5, 7, 9],
            times: vec![50, 70, 90],
            orders: vec![LineOrder {
                line: 2,
                time: 20,
                partition: 0,
                offset: 2,
            }],
        };
        let refusal = Refusal::new("c", "s");
        for (order, position, expected) in [
            (at(50, 5), at(50, 5), Some(0)),
            (at(20, 2), at(90, 9), Some(2)),
            // Of a record that was here before the topic was created again.
            (at(51, 5), at(51, 5), None),
            (at(60, 6), at(60, 6), None),
            (at(90, 9), at(90, 9), None),
        ] {
            let row = Row {
                order,
                position,
                refusal: &refusal,
            };
            assert_eq!(line(&index, &row), expected, "{row:?}");
        }
    }
}
