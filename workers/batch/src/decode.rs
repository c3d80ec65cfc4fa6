//! Decodes the bytes of one raw object, as they arrive, into clean rows.

use std::{
    io::{BufRead, Read as _},
    mem,
};

use anyhow::{Result, anyhow};
use pinpipe_core::{Kind, Order, clean};
use pinpipe_runtime::raw_zone::Index;

use crate::{
    columns::TableBuilder, counts::Counts, failure::Permanent, manifest::Window, rows::Chunk,
};

/// Most rows of a chunk. Bounds memory, and the bytes of an Arrow text column, which has 32-bit
/// offsets.
const CHUNK_ROWS: usize = 8_192;
/// Bytes of raw records after which a chunk ends. Bounds memory when records are large.
const CHUNK_BYTES: usize = 8 << 20;

/// What takes the records of a raw object.
pub trait Records {
    /// Takes a record. `position` is its position in the log, and `order` decides which of two
    /// records is the later one; they differ for re-driven records.
    fn record(&mut self, raw: &[u8], order: Order, position: Order) -> Result<()>;
    /// Bytes of the largest record that isn't rejected. Of a larger one only the beginning comes.
    fn max_bytes(&self) -> usize;
}

/// Cleans raw records into rows and counts.
pub struct Cleaner {
    kind: Kind,
    max_bytes: usize,
    table: TableBuilder,
    orders: Vec<Order>,
    positions: Vec<Order>,
    /// Bytes of the raw records in `table`.
    bytes: usize,
    /// Full chunks.
    ready: Vec<Chunk>,
    stats: ReadStats,
}

/// Statistics of the records read.
#[derive(Clone, Debug, Default)]
pub struct ReadStats {
    /// Counts of records.
    pub counts: Counts,
    /// Latest timestamp of a record, milliseconds since the epoch; 0 without records.
    pub latest: i64,
    /// Bytes of the objects as stored, compressed or not.
    pub bytes: u64,
}

impl Cleaner {
    /// A cleaner of records of one kind, which rejects records over `max_bytes`.
    pub fn new(kind: Kind, max_bytes: usize) -> Self {
        Self {
            kind,
            max_bytes,
            table: TableBuilder::new(kind),
            orders: Vec::new(),
            positions: Vec::new(),
            bytes: 0,
            ready: Vec::new(),
            stats: ReadStats::default(),
        }
    }

    /// Cleans one record, see [`Records::record`].
    pub fn record(&mut self, raw: &[u8], order: Order, position: Order) -> Result<()> {
        self.stats.latest = self.stats.latest.max(position.time);
        match clean(self.kind, raw, self.max_bytes) {
            Ok(cleaned) => {
                self.stats.counts.clean(&cleaned.repairs);
                self.table.push(&cleaned.record);
                self.orders.push(order);
                self.positions.push(position);
                self.bytes += raw.len();
                if self.table.len() == CHUNK_ROWS || self.bytes >= CHUNK_BYTES {
                    self.end_chunk()?;
                }
            }
            Err(rejection) => self.stats.counts.rejected(&rejection),
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<()> {
        let (orders, positions) = (mem::take(&mut self.orders), mem::take(&mut self.positions));
        self.bytes = 0;
        self.ready.push(Chunk {
            batch: self.table.finish()?,
            orders,
            positions,
        });
        Ok(())
    }

    /// Removes and returns the full chunks.
    pub fn ready(&mut self) -> Vec<Chunk> {
        mem::take(&mut self.ready)
    }

    /// Returns the remaining chunks and the statistics of all records.
    pub fn finish(mut self) -> Result<(Vec<Chunk>, ReadStats)> {
        if self.table.len() > 0 {
            self.end_chunk()?;
        }
        Ok((self.ready, self.stats))
    }
}

impl Records for Cleaner {
    fn record(&mut self, raw: &[u8], order: Order, position: Order) -> Result<()> {
        Self::record(self, raw, order, position)
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

/// Order and position of a line; `None` if the object has no such line.
fn position(index: &Index, line: usize, partition: i32) -> Option<(Order, Order)> {
    let position = Order {
        time: *index.times.get(line)?,
        partition,
        offset: *index.offsets.get(line)?,
    };
    Some((index.order(line, partition)?, position))
}

/// Decoder of an object with one record per line, fed in pieces of any size.
pub struct LineDecoder<R> {
    records: R,
    partition: i32,
    window: Window,
    index: Index,
    /// Number of complete lines so far.
    lines: usize,
    /// The incomplete last line, up to the byte that makes it too large.
    line: Vec<u8>,
}

impl<R: Records> LineDecoder<R> {
    /// A decoder for an object of `partition` that skips records outside of `window`.
    pub fn new(records: R, partition: i32, window: Window, index: Index) -> Result<Self> {
        if index.offsets.len() != index.times.len() {
            return Err(Permanent(format!(
                "its index object has {} offsets but {} timestamps",
                index.offsets.len(),
                index.times.len()
            ))
            .into());
        }
        Ok(Self {
            records,
            partition,
            window,
            index,
            lines: 0,
            line: Vec::new(),
        })
    }

    /// Decodes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        // One more than a record may have, and the newline.
        let most = self.records.max_bytes().saturating_add(2);
        while !bytes.is_empty() {
            let (piece, room) = (bytes, most - self.line.len());
            let taken = if room == 0 {
                bytes.skip_until(b'\n')?
            } else {
                let taken = bytes.take(room as u64).read_until(b'\n', &mut self.line)?;
                bytes = &piece[taken..];
                taken
            };
            if piece[..taken].last() == Some(&b'\n') {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let mut line = mem::take(&mut self.line);
        let (order, position) = position(&self.index, self.lines, self.partition)
            .ok_or_else(|| self.line_count_mismatch())?;
        self.lines += 1;
        if self.window.contains(position.offset, position.time) {
            self.records
                .record(line.strip_suffix(b"\n").unwrap_or(&line), order, position)?;
        }
        line.clear();
        self.line = line;
        Ok(())
    }

    /// What has taken the records so far.
    pub const fn records(&mut self) -> &mut R {
        &mut self.records
    }

    /// Ends the object. Returns what has taken its records.
    pub fn finish(mut self) -> Result<R> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        if self.index.offsets.len() != self.lines {
            return Err(self.line_count_mismatch());
        }
        Ok(self.records)
    }

    /// The response may have been cut short, so the error is not permanent.
    fn line_count_mismatch(&self) -> anyhow::Error {
        let expected = self.index.offsets.len();
        anyhow!("it doesn't have the {expected} lines of its index object")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pinpipe_runtime::raw_zone::LineOrder;

    use super::*;
    use crate::cells::{self, Cell};

    fn window(offsets: std::ops::Range<i64>) -> Window {
        Window {
            offsets,
            times: i64::MIN..i64::MAX,
        }
    }

    /// The index of lines without anything special.
    fn lines(lines: i64) -> Index {
        Index {
            offsets: (0..lines).collect(),
            times: vec![0; usize::try_from(lines).unwrap()],
            orders: Vec::new(),
        }
    }

    fn index(lines: i64) -> Index {
        Index {
            offsets: (10..10 + lines).collect(),
            times: (0..lines).map(|i| 1000 + i).collect(),
            orders: vec![LineOrder {
                line: 3,
                time: 7,
                partition: 1,
                offset: 70,
            }],
        }
    }

    fn decoder(count: i64, window: Window) -> LineDecoder<Cleaner> {
        LineDecoder::new(Cleaner::new(Kind::User, 1000), 3, window, index(count)).unwrap()
    }

    const LINES: &[u8] = br#"{"ind": 1, "first_name": "A", "age": 200}
{"first_name": "keyless"}
[]
{"ind": 2, "age": "yesterday", "date_joined": "x"}
{"ind": 1, "last_name": "B"}
"#;

    #[test]
    fn pieces_of_any_size_give_the_same_rows_and_counts() {
        for size in [1, 7, 41, 1000] {
            let mut decoder = decoder(5, window(0..100));
            for piece in LINES.chunks(size) {
                decoder.push(piece).unwrap();
            }
            let (chunks, ReadStats { counts, latest, .. }) =
                decoder.finish().unwrap().finish().unwrap();
            assert_eq!(
                (counts.read, counts.clean, counts.repaired, counts.rejected),
                (5, 3, 2, 2),
                "{size}"
            );
            assert_eq!(latest, 1004);
            let repaired = [
                (
                    "age",
                    BTreeMap::from([("out-of-range", 1), ("unreadable", 1)]),
                ),
                ("date_joined", BTreeMap::from([("unreadable", 1)])),
            ];
            assert_eq!(counts.repaired_by_field, repaired.into());
            assert_eq!(
                counts.rejected_by_reason,
                [("key-missing", 1), ("not-an-object", 1)].into()
            );
            let [chunk] = &chunks[..] else {
                panic!("{} chunks", chunks.len())
            };
            assert_eq!(
                cells::row(&chunk.batch, 2).unwrap()[..2],
                [Cell::BigInt(1), Cell::Text("B")]
            );
            let at = |time, partition, offset| Order {
                time,
                partition,
                offset,
            };
            assert_eq!(
                chunk.orders,
                [at(1000, 3, 10), at(7, 1, 70), at(1004, 3, 14)],
                "a re-driven record keeps its first order"
            );
            assert_eq!(
                chunk.positions,
                [at(1000, 3, 10), at(1003, 3, 13), at(1004, 3, 14)]
            );
        }
    }

    #[test]
    fn records_outside_of_the_window_are_skipped() {
        for (window, read, clean) in [
            (window(0..13), 3, 1),
            (window(13..100), 2, 2),
            (window(11..12), 1, 0),
            (
                Window {
                    offsets: 0..100,
                    times: 1003..1004,
                },
                1,
                1,
            ),
        ] {
            let mut decoder = decoder(5, window);
            decoder.push(LINES).unwrap();
            let counts = decoder.finish().unwrap().finish().unwrap().1.counts;
            assert_eq!((counts.read, counts.clean), (read, clean));
        }
    }

    #[test]
    fn the_last_line_may_lack_its_newline_but_the_line_count_must_match() {
        let trimmed = LINES.trim_ascii_end();
        let mut whole = decoder(5, window(0..100));
        whole.push(trimmed).unwrap();
        assert_eq!(whole.finish().unwrap().finish().unwrap().1.counts.read, 5);
        let mut short = decoder(6, window(0..100));
        short.push(LINES).unwrap();
        let error = short.finish().err().unwrap().to_string();
        assert!(error.contains("6 lines"), "{error}");
        assert!(decoder(4, window(0..100)).push(LINES).is_err());
    }

    #[test]
    fn an_object_without_lines_has_no_rows() {
        let (chunks, stats) = decoder(0, window(0..100))
            .finish()
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!((chunks.len(), stats.counts.read, stats.latest), (0, 0, 0));
    }

    #[test]
    fn a_line_of_a_gigabyte_is_rejected_and_not_held_in_memory() {
        let all = window(i64::MIN..i64::MAX);
        let cleaner = Cleaner::new(Kind::User, 1000);
        let mut decoder = LineDecoder::new(cleaner, 0, all, lines(3)).unwrap();
        decoder.push(b"{\"ind\": 1}\n").unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..1024 {
            decoder.push(&piece).unwrap();
            assert!(decoder.line.capacity() < 10_000, "the line is kept");
        }
        decoder.push(b"x\n{\"ind\": 2}\n").unwrap();
        let (chunks, ReadStats { counts, .. }) = decoder.finish().unwrap().finish().unwrap();
        assert_eq!((counts.read, counts.clean), (3, 2));
        assert_eq!(counts.rejected_by_reason, [("too-large", 1)].into());
        assert_eq!(chunks[0].orders[1].offset, 2, "it is a line like others");
    }

    #[test]
    fn a_line_as_long_as_allowed_is_read_in_pieces_of_any_size() {
        let record = br#"{"ind": 7, "first_name": "abcdefgh"}"#;
        for (limit, size) in [(0, 1), (0, 5), (0, 1000), (1, 1), (1, 5), (1, 1000)] {
            let cleaner = Cleaner::new(Kind::User, record.len() - limit);
            let all = window(i64::MIN..i64::MAX);
            let mut decoder = LineDecoder::new(cleaner, 0, all, lines(2)).unwrap();
            for piece in [record, &b"\n"[..], record].concat().chunks(size) {
                decoder.push(piece).unwrap();
            }
            let counts = decoder.finish().unwrap().finish().unwrap().1.counts;
            let rejected = 2 * limit as u64;
            assert_eq!(
                (counts.read, counts.rejected),
                (2, rejected),
                "{limit} {size}"
            );
        }
    }

    #[test]
    fn large_records_make_smaller_chunks() {
        let all = window(i64::MIN..i64::MAX);
        let cleaner = Cleaner::new(Kind::User, 1 << 20);
        let mut decoder = LineDecoder::new(cleaner, 0, all, lines(64)).unwrap();
        let line = format!(
            "{{\"ind\": 1, \"first_name\": \"{}\"}}\n",
            "x".repeat(1 << 19)
        );
        for _ in 0..64 {
            decoder.push(line.as_bytes()).unwrap();
        }
        let chunks = decoder.records().ready();
        assert!(chunks.len() >= 3, "{} chunks of 32 MiB", chunks.len());
        for chunk in chunks {
            assert!(chunk.batch.get_array_memory_size() < 20 << 20);
        }
    }

    #[test]
    fn a_large_object_is_split_into_chunks() {
        let rows = i64::try_from(CHUNK_ROWS).unwrap() + 1;
        let mut decoder = LineDecoder::new(
            Cleaner::new(Kind::User, 1000),
            0,
            window(0..i64::MAX),
            lines(rows),
        )
        .unwrap();
        for i in 0..rows {
            decoder
                .push(format!("{{\"ind\": {i}}}\n").as_bytes())
                .unwrap();
        }
        let (full, rest) = (
            decoder.records().ready(),
            decoder.finish().unwrap().finish().unwrap().0,
        );
        let rows: Vec<usize> = full
            .iter()
            .chain(&rest)
            .map(|chunk| chunk.orders.len())
            .collect();
        assert_eq!(rows, [CHUNK_ROWS, 1]);
    }
}
