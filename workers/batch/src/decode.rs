//! The bytes of one raw object, as they come, into clean rows.

use std::{io::BufRead, mem};

use anyhow::{Result, anyhow};
use pinpipe_core::{Kind, Order, clean};
use pinpipe_runtime::raw_zone::Index;

use crate::{
    columns::TableBuilder, counts::Counts, manifest::Window, retry::Hopeless, rows::Chunk,
};

/// Rows of one chunk: bounds what Arrow's text columns can hold, and memory.
const CHUNK_ROWS: usize = 8_192;

/// Raw records into clean rows and counts.
pub struct Cleaner {
    kind: Kind,
    max_bytes: usize,
    table: TableBuilder,
    orders: Vec<Order>,
    places: Vec<Order>,
    /// Chunks that are full.
    ready: Vec<Chunk>,
    seen: Seen,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Records.
    pub counts: Counts,
    /// The latest time of a record, milliseconds since the epoch; 0 without one.
    pub latest: i64,
    /// Bytes of the objects, as they are stored.
    pub bytes: u64,
}

impl Cleaner {
    /// Nothing seen yet.
    pub fn new(kind: Kind, max_bytes: usize) -> Self {
        Self {
            kind,
            max_bytes,
            table: TableBuilder::new(kind),
            orders: Vec::new(),
            places: Vec::new(),
            ready: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Takes one record that has this order and stands at this place.
    pub fn record(&mut self, raw: &[u8], order: Order, place: Order) -> Result<()> {
        self.seen.latest = self.seen.latest.max(place.time);
        match clean(self.kind, raw, self.max_bytes) {
            Ok(cleaned) => {
                self.seen.counts.clean(&cleaned.repairs);
                self.table.push(&cleaned.record);
                self.orders.push(order);
                self.places.push(place);
                if self.table.len() == CHUNK_ROWS {
                    self.end_chunk()?;
                }
            }
            Err(rejection) => self.seen.counts.rejected(&rejection),
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<()> {
        let (orders, places) = (mem::take(&mut self.orders), mem::take(&mut self.places));
        self.ready.push(Chunk {
            batch: self.table.finish()?,
            orders,
            places,
        });
        Ok(())
    }

    /// Takes the chunks that are full.
    pub fn ready(&mut self) -> Vec<Chunk> {
        mem::take(&mut self.ready)
    }

    /// Takes what is left.
    pub fn finish(mut self) -> Result<(Vec<Chunk>, Seen)> {
        if self.table.len() > 0 {
            self.end_chunk()?;
        }
        Ok((self.ready, self.seen))
    }
}

/// Where the lines of an object stand.
pub enum Places {
    /// Our archive's index object says.
    Index(Index),
    /// One behind the other from an offset on, at no time: a connector's object, whatever it was,
    /// is older than the archive's.
    From(i64),
}

impl Places {
    /// Order and place of a line; none: there is no such line.
    fn get(&self, line: usize, partition: i32) -> Option<(Order, Order)> {
        match self {
            Self::Index(index) => {
                let place = Order {
                    time: *index.times.get(line)?,
                    partition,
                    offset: *index.offsets.get(line)?,
                };
                Some((index.order(line, partition)?, place))
            }
            Self::From(first) => {
                let place = Order {
                    time: 0,
                    partition,
                    offset: first + i64::try_from(line).ok()?,
                };
                Some((place, place))
            }
        }
    }
}

/// An object of one record a line, in pieces of any size.
pub struct Lines {
    cleaner: Cleaner,
    partition: i32,
    window: Window,
    places: Places,
    ended: usize,
    /// The line that has not come to its end.
    line: Vec<u8>,
}

impl Lines {
    /// An object of `partition` whose records outside of `window` are left out.
    pub fn new(cleaner: Cleaner, partition: i32, window: Window, places: Places) -> Result<Self> {
        if let Places::Index(index) = &places
            && index.offsets.len() != index.times.len()
        {
            return Err(Hopeless(
                "its index object has more offsets than times, or fewer".to_owned(),
            )
            .into());
        }
        Ok(Self {
            cleaner,
            partition,
            window,
            places,
            ended: 0,
            line: Vec::new(),
        })
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes.read_until(b'\n', &mut self.line)?;
            if self.line.last() == Some(&b'\n') {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let mut line = mem::take(&mut self.line);
        let (order, place) = self
            .places
            .get(self.ended, self.partition)
            .ok_or_else(|| self.uneven())?;
        self.ended += 1;
        if self.window.contains(place.offset, place.time) {
            self.cleaner
                .record(line.strip_suffix(b"\n").unwrap_or(&line), order, place)?;
        }
        line.clear();
        self.line = line;
        Ok(())
    }

    /// Takes the chunks that are full.
    pub fn ready(&mut self) -> Vec<Chunk> {
        self.cleaner.ready()
    }

    /// The object is at its end.
    pub fn finish(mut self) -> Result<(Vec<Chunk>, Seen)> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        match &self.places {
            Places::Index(index) if index.offsets.len() != self.ended => Err(self.uneven()),
            _ => self.cleaner.finish(),
        }
    }

    /// May be an answer cut short, so worth another try.
    fn uneven(&self) -> anyhow::Error {
        let told = if let Places::Index(index) = &self.places {
            index.offsets.len()
        } else {
            self.ended
        };
        anyhow!("it does not have the {told} lines its index object tells of")
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

    fn lines(count: i64, window: Window) -> Lines {
        Lines::new(
            Cleaner::new(Kind::User, 1000),
            3,
            window,
            Places::Index(index(count)),
        )
        .unwrap()
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
            let mut lines = lines(5, window(0..100));
            for piece in LINES.chunks(size) {
                lines.push(piece).unwrap();
            }
            let (chunks, Seen { counts, latest, .. }) = lines.finish().unwrap();
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
                "re-driven: its first order"
            );
            assert_eq!(
                chunk.places,
                [at(1000, 3, 10), at(1003, 3, 13), at(1004, 3, 14)]
            );
        }
    }

    #[test]
    fn records_of_other_runs_are_left_to_them() {
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
            let mut lines = lines(5, window);
            lines.push(LINES).unwrap();
            let counts = lines.finish().unwrap().1.counts;
            assert_eq!((counts.read, counts.clean), (read, clean));
        }
    }

    #[test]
    fn the_last_line_may_lack_its_end_but_no_line_may_be_missing_or_too_many() {
        let trimmed = LINES.trim_ascii_end();
        let mut whole = lines(5, window(0..100));
        whole.push(trimmed).unwrap();
        assert_eq!(whole.finish().unwrap().1.counts.read, 5);
        let mut short = lines(6, window(0..100));
        short.push(LINES).unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("6 lines"));
        assert!(lines(4, window(0..100)).push(LINES).is_err());
    }

    #[test]
    fn an_object_without_a_line_is_read_as_nothing() {
        let (chunks, seen) = lines(0, window(0..100)).finish().unwrap();
        assert_eq!((chunks.len(), seen.counts.read, seen.latest), (0, 0, 0));
    }

    #[test]
    fn a_connectors_lines_follow_each_other_and_are_older_than_any_time() {
        let cleaner = Cleaner::new(Kind::User, 1000);
        let mut lines =
            Lines::new(cleaner, 2, window(i64::MIN..i64::MAX), Places::From(40)).unwrap();
        lines.push(LINES).unwrap();
        let (chunks, _) = lines.finish().unwrap();
        let offsets: Vec<i64> = chunks[0].orders.iter().map(|order| order.offset).collect();
        assert_eq!((offsets, chunks[0].orders[0].time), (vec![40, 43, 44], 0));
    }

    #[test]
    fn a_large_object_is_cut_into_chunks() {
        let rows = i64::try_from(CHUNK_ROWS).unwrap() + 1;
        let mut lines = Lines::new(
            Cleaner::new(Kind::User, 1000),
            0,
            window(0..i64::MAX),
            Places::From(0),
        )
        .unwrap();
        for i in 0..rows {
            lines
                .push(format!("{{\"ind\": {i}}}\n").as_bytes())
                .unwrap();
        }
        let (full, rest) = (lines.ready(), lines.finish().unwrap().0);
        let rows: Vec<usize> = full
            .iter()
            .chain(&rest)
            .map(|chunk| chunk.orders.len())
            .collect();
        assert_eq!(rows, [CHUNK_ROWS, 1]);
    }
}
