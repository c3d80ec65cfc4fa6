//! Finds raw records in a raw object.

use std::{collections::BTreeMap, mem};

use anyhow::{Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use pinpipe_runtime::{
    compressed::Decompressor,
    raw_zone::{Index, ObjectMetadata},
};

use super::Row;
use crate::{failure::Permanent, store::Store};

/// Bytes of records above which they are returned before others are read.
const PIECE_BYTES: usize = 8 << 20;

/// A reader of the raw records of some rows in one object.
pub struct Records<'a> {
    /// The object's metadata.
    pub metadata: ObjectMetadata,
    key: String,
    body: ByteStream,
    decompressor: Decompressor,
    lines: Lines<Row<'a>>,
}

impl<'a> Records<'a> {
    /// Reads the records of `rows`, which are of one partition, from the object `key`. Those that
    /// it doesn't hold are left out.
    pub async fn open(store: &Store, key: &str, rows: &[&Row<'a>]) -> Result<Self> {
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
        let lines = Lines::new(numbered.collect());
        let decompressor =
            Decompressor::for_key(key).map_err(|error| Permanent(error.to_string()))?;
        Ok(Self {
            metadata,
            key: key.to_owned(),
            body: response.body,
            decompressor,
            lines,
        })
    }

    /// The next rows with their records; `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<(Row<'a>, Vec<u8>)>>> {
        let lines = &mut self.lines;
        while !lines.wanted.is_empty() && lines.bytes < PIECE_BYTES {
            let Some(piece) = self.body.next().await else {
                lines.finish();
                ensure!(
                    lines.wanted.is_empty(),
                    "{} doesn't have {} lines of its index object",
                    self.key,
                    lines.wanted.len()
                );
                break;
            };
            self.decompressor.push(&piece?, |text| {
                lines.push(text);
                anyhow::Ok(())
            })?;
        }
        lines.bytes = 0;
        let found = mem::take(&mut lines.found);
        Ok((!found.is_empty()).then_some(found))
    }
}

/// The number of the line with a row's record; `None` if the object doesn't have it.
fn line(index: &Index, row: &Row<'_>) -> Option<usize> {
    let line = index.offsets.binary_search(&row.position.offset).ok()?;
    let is_its = index.times.get(line) == Some(&row.position.time)
        && index.order(line, row.position.partition) == Some(row.order);
    is_its.then_some(line)
}

/// Picks lines out of a text that comes in pieces of any size.
struct Lines<T> {
    /// What the lines to be picked belong to, by their numbers.
    wanted: BTreeMap<usize, T>,
    /// Number of complete lines so far.
    number: usize,
    /// The beginning of a line that is not complete, if it is to be picked.
    begun: Vec<u8>,
    /// The lines picked, without their line breaks.
    found: Vec<(T, Vec<u8>)>,
    /// The bytes of these.
    bytes: usize,
}

impl<T> Lines<T> {
    const fn new(wanted: BTreeMap<usize, T>) -> Self {
        Self {
            wanted,
            number: 0,
            begun: Vec::new(),
            found: Vec::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            if self.wanted.contains_key(&self.number) {
                self.begun.extend_from_slice(line.unwrap_or(piece));
            }
            if line.is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if let Some(of) = self.wanted.remove(&self.number) {
            let line = mem::take(&mut self.begun);
            self.bytes += line.len();
            self.found.push((of, line));
        }
        self.number += 1;
    }

    /// Ends the text: its last line needs no line break.
    fn finish(&mut self) {
        if !self.begun.is_empty() {
            self.end_line();
        }
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
            let mut lines = Lines::new([(1, 'b'), (2, 'c'), (4, 'e'), (5, 'f')].into());
            for piece in text.chunks(size) {
                lines.push(piece);
            }
            assert_eq!((lines.found.len(), lines.bytes), (2, 3), "{size}");
            lines.finish();
            let found = [
                ('b', b"one".to_vec()),
                ('c', Vec::new()),
                ('e', b"four".to_vec()),
            ];
            assert_eq!(lines.found, found, "{size}");
            assert_eq!(lines.wanted, [(5, 'f')].into(), "{size}");
        }
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
