//! A batch of raw records, one a line, and where each came from.

use bytes::{Bytes, BytesMut};
use pinpipe_core::{Order, Rejection, single_line};
use pinpipe_runtime::raw_zone::{Index, LineOrder};

use crate::sink::{Batch, Consumed, Unstorable};

/// Raw records of one partition.
#[derive(Debug, Default)]
pub struct Lines {
    /// While the batch is open.
    gathered: BytesMut,
    /// Once it is closed.
    text: Bytes,
    places: Vec<Line>,
    /// The orders of re-driven records, by the number of their line.
    orders: Vec<(usize, Order)>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    place: Order,
    /// Where it begins in the text.
    start: usize,
}

/// What of a batch is still to be written: its lines from some offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The lines, each with a line break at its end.
    pub text: Bytes,
    /// Offset and time of each.
    pub index: Index,
}

impl Part {
    /// Lines.
    pub fn records(&self) -> usize {
        self.index.offsets.len()
    }

    /// The earliest and the latest of the records' times, milliseconds since the epoch; zeros without a record.
    pub fn times(&self) -> (i64, i64) {
        let times = &self.index.times;
        (times.iter().copied().min().unwrap_or(0), times.iter().copied().max().unwrap_or(0))
    }
}

impl Lines {
    /// The lines at `from` and behind. Of a closed batch.
    #[must_use]
    pub fn part(&self, from: i64) -> Part {
        let skipped = self.places.partition_point(|line| line.place.offset < from);
        let kept = &self.places[skipped..];
        let start = kept.first().map_or(self.text.len(), |line| line.start);
        Part {
            text: self.text.slice(start..),
            index: Index {
                offsets: kept.iter().map(|line| line.place.offset).collect(),
                times: kept.iter().map(|line| line.place.time).collect(),
                orders: self
                    .orders
                    .iter()
                    .filter_map(|(line, order)| Some(line_order(line.checked_sub(skipped)?, *order)))
                    .collect(),
            },
        }
    }
}

const fn line_order(line: usize, Order { time, partition, offset }: Order) -> LineOrder {
    LineOrder { line, time, partition, offset }
}

/// Whether a record belongs into the raw zone: all that is JSON, also where no key can be read. What is not JSON, and what is too
/// large to be looked at, is in the dead letters only.
const fn is_kept(rejection: Option<&Rejection>) -> bool {
    match rejection {
        None | Some(Rejection::NotAnObject | Rejection::KeyMissing { .. } | Rejection::KeyUnreadable { .. }) => true,
        Some(Rejection::TooLarge { .. } | Rejection::NotUtf8 | Rejection::NotJson) => false,
    }
}

impl Batch for Lines {
    fn push(&mut self, record: Consumed<'_>) -> Result<(), Unstorable> {
        if is_kept(record.cleaned.as_ref().err()) {
            if record.order != record.place {
                self.orders.push((self.places.len(), record.order));
            }
            self.places.push(Line { place: record.place, start: self.gathered.len() });
            self.gathered.extend_from_slice(&single_line(record.raw));
            self.gathered.extend_from_slice(b"\n");
        }
        Ok(())
    }

    fn close(&mut self) {
        self.text = self.gathered.split().freeze();
    }

    fn records(&self) -> usize {
        self.places.len()
    }

    fn bytes(&self) -> usize {
        self.gathered.len()
            + self.text.len()
            + self.places.len() * size_of::<Line>()
            + self.orders.len() * size_of::<(usize, Order)>()
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::Kind;

    use super::*;

    fn lines(records: &[(i64, &str)]) -> Lines {
        let mut lines = Lines::default();
        for (offset, raw) in records {
            let cleaned = pinpipe_core::clean(Kind::Geo, raw.as_bytes(), 60);
            let place = Order { time: 100 - offset, partition: 0, offset: *offset };
            lines.push(Consumed { raw: raw.as_bytes(), place, order: place, cleaned: &cleaned }).unwrap();
        }
        lines.close();
        lines
    }

    #[test]
    fn what_is_json_is_kept_on_one_line() {
        let long = format!("{{\"ind\": 1, \"country\": \"{}\"}}", "x".repeat(60));
        let lines = lines(&[
            (0, "{\"ind\": 1}"),
            (1, "not json"),
            (2, "{\n \"ind\":\n 2}"),
            (3, "{\"country\": \"A\"}"),
            (4, "[1]"),
            (5, ""),
            (6, &long),
        ]);
        let part = lines.part(0);
        assert_eq!(part.index.offsets, [0, 2, 3, 4]);
        assert_eq!(part.index.times, [100, 98, 97, 96]);
        assert_eq!(part.times(), (96, 100));
        let text = String::from_utf8(part.text.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_re_driven_record_keeps_its_order_in_whichever_part_it_stands() {
        let mut lines = Lines::default();
        let raw = b"{\"ind\":1}";
        let cleaned = pinpipe_core::clean(Kind::Geo, raw, 60);
        let first = Order { time: 3, partition: 2, offset: 4 };
        for (offset, redriven) in [(10, None), (11, Some(first)), (12, None)] {
            let place = Order { time: 100, partition: 0, offset };
            lines.push(Consumed { raw, place, order: redriven.unwrap_or(place), cleaned: &cleaned }).unwrap();
        }
        lines.close();
        for (from, line) in [(10, Some(1)), (11, Some(0)), (12, None)] {
            let index = lines.part(from).index;
            assert_eq!(index.orders.first().map(|order| order.line), line);
            assert_eq!(index.offsets.first(), Some(&from));
            if let Some(line) = line {
                assert_eq!(index.order(line, 0), Some(first));
            }
        }
    }

    #[test]
    fn a_part_begins_at_the_first_line_not_before_the_offset() {
        let lines = lines(&[(10, "{\"ind\":1}"), (12, "{\"ind\":2}"), (15, "{\"ind\":3}")]);
        for (from, offsets, text) in [
            (10, vec![10, 12, 15], "{\"ind\":1}\n{\"ind\":2}\n{\"ind\":3}\n"),
            (11, vec![12, 15], "{\"ind\":2}\n{\"ind\":3}\n"),
            (13, vec![15], "{\"ind\":3}\n"),
            (16, vec![], ""),
        ] {
            let part = lines.part(from);
            assert_eq!(part.index.offsets, offsets);
            assert_eq!(part.text, text);
        }
    }
}
