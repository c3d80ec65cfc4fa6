//! A batch of raw records, one a line, and where each came from.

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use pinpipe_config::Compression;
use pinpipe_core::{Order, Rejection, single_line};
use pinpipe_runtime::{
    compressed,
    raw_zone::{Index, LineOrder},
};
use tokio::{sync::OnceCell, task::spawn_blocking};

use crate::sink::{Batch, Consumed, Unstorable};

/// What the compressed text is reckoned with before it is there: JSON comes down to less than this
/// share.
const COMPRESSED: usize = 2;

/// Raw records of one partition.
#[derive(Debug)]
pub struct Lines {
    compression: Compression,
    /// While the batch is open.
    gathered: BytesMut,
    /// Once it is closed.
    text: Bytes,
    places: Vec<Line>,
    /// The orders of re-driven records, by the number of their line.
    orders: Vec<(usize, Order)>,
    /// All of the text, compressed once however often it is sent.
    compressed: OnceCell<Bytes>,
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

    /// The earliest and the latest of the records' times, milliseconds since the epoch; zeros
    /// without a record.
    pub fn times(&self) -> (i64, i64) {
        let times = &self.index.times;
        (
            times.iter().copied().min().unwrap_or(0),
            times.iter().copied().max().unwrap_or(0),
        )
    }
}

impl Lines {
    /// None yet.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            gathered: BytesMut::new(),
            text: Bytes::new(),
            places: Vec::new(),
            orders: Vec::new(),
            compressed: OnceCell::new(),
        }
    }

    /// A part as its object holds it.
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

/// Compresses a text on a thread where that holds up nobody.
pub async fn compress(compression: Compression, text: Bytes) -> anyhow::Result<Bytes> {
    let compressed = spawn_blocking(move || compressed::compress(compression, &text)).await?;
    Ok(compressed.context("records can't be compressed")?.into())
}

/// Whether a record belongs into the raw zone: all that is JSON, also where no key can be read.
/// What is not JSON, and what is too large to be looked at, is in the dead letters only.
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
    fn push(&mut self, record: Consumed<'_>) -> Result<(), Unstorable> {
        if is_kept(record.cleaned.as_ref().err()) {
            if record.order != record.place {
                self.orders.push((self.places.len(), record.order));
            }
            self.places.push(Line {
                place: record.place,
                start: self.gathered.len(),
            });
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
        let compressed = if self.compression == Compression::None {
            0
        } else {
            self.text.len() / COMPRESSED
        };
        self.gathered.len()
            + self.text.len()
            + compressed
            + self.places.len() * size_of::<Line>()
            + self.orders.len() * size_of::<(usize, Order)>()
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::Kind;

    use super::*;

    fn lines(records: &[(i64, &str)]) -> Lines {
        let mut lines = Lines::new(Compression::None);
        for (offset, raw) in records {
            let cleaned = pinpipe_core::clean(Kind::Geo, raw.as_bytes(), 60);
            let place = Order {
                time: 100 - offset,
                partition: 0,
                offset: *offset,
            };
            lines
                .push(Consumed {
                    raw: raw.as_bytes(),
                    place,
                    order: place,
                    cleaned: &cleaned,
                })
                .unwrap();
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
        let mut lines = Lines::new(Compression::None);
        let raw = b"{\"ind\":1}";
        let cleaned = pinpipe_core::clean(Kind::Geo, raw, 60);
        let first = Order {
            time: 3,
            partition: 2,
            offset: 4,
        };
        for (offset, redriven) in [(10, None), (11, Some(first)), (12, None)] {
            let place = Order {
                time: 100,
                partition: 0,
                offset,
            };
            lines
                .push(Consumed {
                    raw,
                    place,
                    order: redriven.unwrap_or(place),
                    cleaned: &cleaned,
                })
                .unwrap();
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
                let place = Order {
                    time: 100,
                    partition: 0,
                    offset,
                };
                let raw = format!("{{\"ind\":{offset}}}");
                lines
                    .push(Consumed {
                        raw: raw.as_bytes(),
                        place,
                        order: place,
                        cleaned: &cleaned,
                    })
                    .unwrap();
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
