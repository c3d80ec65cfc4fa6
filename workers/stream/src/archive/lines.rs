//! A batch of raw records, one per line, with their offsets and times.

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use pinpipe_config::Compression;
use pinpipe_core::{Order, Rejection, single_line};
use pinpipe_runtime::{
    compressed,
    raw_zone::{Index, LineOrder},
};
use tokio::{sync::OnceCell, task::spawn_blocking};

use crate::{
    log::Position,
    sink::{Batch, Consumed},
};

/// The assumed compression ratio, until the text is compressed: JSON compresses better than that.
const COMPRESSION_RATIO: usize = 2;

/// Raw records of one partition.
#[derive(Debug)]
pub struct Lines {
    compression: Compression,
    /// The text while the batch is open.
    open_text: BytesMut,
    /// The text once the batch is closed.
    text: Bytes,
    entries: Vec<Line>,
    /// The orders of re-driven records, by line number.
    orders: Vec<(usize, Order)>,
    /// The whole text, compressed once for all attempts to send it.
    compressed: OnceCell<Bytes>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    position: Order,
    /// Its first byte in the text.
    start: usize,
}

/// The rest of a batch that is still to be written: its lines from some offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The lines, each ending in a line break.
    pub text: Bytes,
    /// The offset and time of each line.
    pub index: Index,
}

impl Part {
    /// The number of lines.
    pub fn records(&self) -> usize {
        self.index.offsets.len()
    }

    /// The earliest and the latest record time, milliseconds since the epoch; zeros without
    /// records.
    pub fn times(&self) -> (i64, i64) {
        let times = &self.index.times;
        (
            times.iter().copied().min().unwrap_or(0),
            times.iter().copied().max().unwrap_or(0),
        )
    }
}

impl Lines {
    /// An empty batch.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            open_text: BytesMut::new(),
            text: Bytes::new(),
            entries: Vec::new(),
            orders: Vec::new(),
            compressed: OnceCell::new(),
        }
    }

    /// The object's body for a part, compressed if need be.
    pub async fn body(&self, part: &Part) -> anyhow::Result<Bytes> {
        if self.compression == Compression::None {
            return Ok(part.text.clone());
        }
        if part.text.len() < self.text.len() {
            return compress(self.compression, part.text.clone()).await;
        }
        self.compressed
            .get_or_try_init(|| compress(self.compression, part.text.clone()))
            .await
            .cloned()
    }

    /// The lines from offset `from` on. Call it after the batch is closed.
    #[must_use]
    pub fn part(&self, from: i64) -> Part {
        let skipped = self
            .entries
            .partition_point(|line| line.position.offset < from);
        let kept = &self.entries[skipped..];
        let start = kept.first().map_or(self.text.len(), |line| line.start);
        Part {
            text: self.text.slice(start..),
            index: Index {
                offsets: kept.iter().map(|line| line.position.offset).collect(),
                times: kept.iter().map(|line| line.position.time).collect(),
                orders: self
                    .orders
                    .iter()
                    .filter_map(|(line, order)| {
                        Some(line_order(line.checked_sub(skipped)?, *order))
                    })
                    .collect(),
            },
        }
    }
}

const fn line_order(
    line: usize,
    Order {
        time,
        partition,
        offset,
    }: Order,
) -> LineOrder {
    LineOrder {
        line,
        time,
        partition,
        offset,
    }
}

/// Compresses a text on a thread for blocking work.
pub async fn compress(compression: Compression, text: Bytes) -> anyhow::Result<Bytes> {
    let compressed = spawn_blocking(move || compressed::compress(compression, &text)).await?;
    Ok(compressed.context("records can't be compressed")?.into())
}

/// Whether a record belongs in the raw zone: any JSON does, even without a readable key. Records
/// that are not JSON or too large to parse go to the dead letters only.
const fn is_kept(rejection: Option<&Rejection>) -> bool {
    match rejection {
        None
        | Some(
            Rejection::NotAnObject | Rejection::KeyMissing { .. } | Rejection::KeyUnreadable { .. },
        ) => true,
        Some(Rejection::TooLarge { .. } | Rejection::NotUtf8 | Rejection::NotJson) => false,
    }
}

impl Batch for Lines {
    fn push(&mut self, record: Consumed<'_>) {
        if is_kept(record.cleaned.as_ref().err()) {
            if record.order != record.position {
                self.orders.push((self.entries.len(), record.order));
            }
            self.entries.push(Line {
                position: record.position,
                start: self.open_text.len(),
            });
            self.open_text.extend_from_slice(&single_line(record.raw));
            self.open_text.extend_from_slice(b"\n");
        }
    }

    fn close(&mut self) {
        self.text = self.open_text.split().freeze();
    }

    fn records(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> usize {
        let compressed = if self.compression == Compression::None {
            0
        } else {
            self.text.len() / COMPRESSION_RATIO
        };
        self.open_text.len()
            + self.text.len()
            + compressed
            + self.entries.len() * size_of::<Line>()
            + self.orders.len() * size_of::<(usize, Order)>()
    }

    fn last(&self) -> Option<Position> {
        let last = self.entries.last()?;
        Some(Position::offset(last.position.offset + 1))
    }

    /// An object store refuses no record.
    fn split(&self) -> Option<(Self, Self)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::{Cleaned, Kind};

    use super::*;

    /// Pushes a record of partition 0 that was stamped at `time`.
    fn push(
        lines: &mut Lines,
        raw: &str,
        (time, offset): (i64, i64),
        cleaned: &Result<Cleaned<'_>, Rejection>,
    ) {
        let position = Order {
            time,
            partition: 0,
            offset,
        };
        lines.push(Consumed {
            raw: raw.as_bytes(),
            position,
            after: Position::offset(offset + 1),
            order: position,
            cleaned,
        });
    }

    fn lines(records: &[(i64, &str)]) -> Lines {
        let mut lines = Lines::new(Compression::None);
        for (offset, raw) in records {
            let cleaned = pinpipe_core::clean(Kind::Geo, raw.as_bytes(), 60);
            push(&mut lines, raw, (100 - offset, *offset), &cleaned);
        }
        lines.close();
        lines
    }

    #[test]
    fn every_json_record_is_kept_on_one_line() {
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
    fn a_re_driven_record_keeps_its_order_in_every_part() {
        let mut lines = Lines::new(Compression::None);
        let raw = b"{\"ind\":1}";
        let cleaned = pinpipe_core::clean(Kind::Geo, raw, 60);
        let first = Order {
            time: 3,
            partition: 2,
            offset: 4,
        };
        for (offset, redriven) in [(10, None), (11, Some(first)), (12, None)] {
            let position = Order {
                time: 100,
                partition: 0,
                offset,
            };
            lines.push(Consumed {
                raw,
                position,
                after: Position::offset(position.offset + 1),
                order: redriven.unwrap_or(position),
                cleaned: &cleaned,
            });
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
    fn a_part_starts_at_the_first_line_not_before_the_offset() {
        let lines = lines(&[
            (10, "{\"ind\":1}"),
            (12, "{\"ind\":2}"),
            (15, "{\"ind\":3}"),
        ]);
        for (from, offsets, text) in [
            (
                10,
                vec![10, 12, 15],
                "{\"ind\":1}\n{\"ind\":2}\n{\"ind\":3}\n",
            ),
            (11, vec![12, 15], "{\"ind\":2}\n{\"ind\":3}\n"),
            (13, vec![15], "{\"ind\":3}\n"),
            (16, vec![], ""),
        ] {
            let part = lines.part(from);
            assert_eq!(part.index.offsets, offsets);
            assert_eq!(part.text, text);
        }
    }

    #[tokio::test]
    async fn a_compressed_object_holds_its_part_and_no_more() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut lines = Lines::new(compression);
            let cleaned = pinpipe_core::clean(Kind::Geo, b"{\"ind\":1}", 60);
            for offset in 10..13 {
                let raw = format!("{{\"ind\":{offset}}}");
                push(&mut lines, &raw, (100, offset), &cleaned);
            }
            lines.close();
            for (from, expected) in [
                (10, "{\"ind\":10}\n{\"ind\":11}\n{\"ind\":12}\n"),
                (12, "{\"ind\":12}\n"),
            ] {
                let body = lines.body(&lines.part(from)).await.unwrap();
                let (mut text, key) = (Vec::new(), format!("k{}", compressed::suffix(compression)));
                let mut decompressor = compressed::Decompressor::for_key(&key).unwrap();
                let pushed = decompressor.push(&body, |piece| -> std::io::Result<()> {
                    text.extend_from_slice(piece);
                    Ok(())
                });
                pushed.and_then(|()| decompressor.finish()).unwrap();
                assert_eq!(
                    String::from_utf8(text).unwrap(),
                    expected,
                    "{compression:?}"
                );
            }
        }
    }
}
