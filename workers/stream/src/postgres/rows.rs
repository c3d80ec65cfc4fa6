//! A batch of clean rows, encoded for PostgreSQL's COPY as they are pushed.
//!
//! A batch keeps all its rows until it is committed: where the server refuses one of them, the
//! batch is split, and an earlier row of a key may be the one to store. With upsert only the latest
//! row of each key is sent; with append all are.

use std::cmp::Ordering;

use bytes::{Bytes, BytesMut};
use pinpipe_config::WriteMode;
use pinpipe_core::{Kind, Order};

use super::encode::{HEADER, TRAILER, first_field, put_row};
use crate::{
    log::Position,
    sink::{Batch, Consumed},
};

/// The size of the pieces in which COPY data are sent, bytes.
const PIECE: usize = 256 << 10;

/// Clean rows of one kind.
#[derive(Debug)]
pub struct Rows {
    kind: Kind,
    mode: WriteMode,
    /// The encoded rows while the batch is open.
    open: BytesMut,
    /// The encoded rows once the batch is closed.
    encoded: Bytes,
    /// In the order of the log.
    entries: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    order: Order,
    /// The position behind its record.
    after: Position,
    start: usize,
    end: usize,
}

impl Rows {
    /// An empty batch.
    #[must_use]
    pub fn new(kind: Kind, mode: WriteMode) -> Self {
        Self {
            kind,
            mode,
            open: BytesMut::new(),
            encoded: Bytes::new(),
            entries: Vec::new(),
        }
    }

    /// A part of a closed batch.
    fn slice(&self, entries: &[Row]) -> Self {
        let start = entries.first().map_or(0, |row| row.start);
        let end = entries.last().map_or(0, |row| row.end);
        let moved = |row: &Row| Row {
            start: row.start - start,
            end: row.end - start,
            ..*row
        };
        Self {
            kind: self.kind,
            mode: self.mode,
            open: BytesMut::new(),
            encoded: self.encoded.slice(start..end),
            entries: entries.iter().map(moved).collect(),
        }
    }
}

impl Batch for Rows {
    fn push(&mut self, record: Consumed<'_>) {
        let Ok(cleaned) = record.cleaned else {
            return;
        };
        let order = match self.mode {
            WriteMode::Upsert => record.order,
            WriteMode::Append => record.position,
        };
        let start = self.open.len();
        put_row(&mut self.open, &cleaned.record, order);
        self.entries.push(Row {
            order,
            after: record.after,
            start,
            end: self.open.len(),
        });
    }

    fn close(&mut self) {
        self.encoded = std::mem::take(&mut self.open).freeze();
    }

    fn records(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> usize {
        self.open.len() + self.encoded.len() + self.entries.len() * size_of::<Row>()
    }

    fn last(&self) -> Option<Position> {
        self.entries.last().map(|row| row.after)
    }

    fn split(&self) -> Option<(Self, Self)> {
        let half = self.entries.len() / 2;
        let (first, second) = self.entries.split_at(half);
        (half > 0).then(|| (self.slice(first), self.slice(second)))
    }
}

/// A row of one of several batches.
#[derive(Clone, Copy)]
struct Sent<'a> {
    order: Order,
    encoded: &'a [u8],
}

/// The data for `COPY … FROM STDIN (FORMAT binary)` of closed batches of one kind, in pieces: the
/// latest row of each key, sorted by key, or all rows in the order of their offsets.
pub fn copy_data<'a>(batches: &[&'a Rows]) -> impl Iterator<Item = Bytes> + use<'a> {
    let rows = |batch: &&'a Rows| {
        let batch: &'a Rows = batch;
        batch.entries.iter().map(|row| Sent {
            order: row.order,
            encoded: &batch.encoded[row.start..row.end],
        })
    };
    let mut sent: Vec<Sent<'a>> = batches.iter().flat_map(rows).collect();
    if let Some(Rows {
        kind,
        mode: WriteMode::Upsert,
        ..
    }) = batches.first()
    {
        keep_latest(*kind, &mut sent);
    }
    let mut rest = sent.into_iter().peekable();
    let mut begun = false;
    std::iter::from_fn(move || {
        let mut piece = BytesMut::with_capacity(PIECE);
        if !std::mem::replace(&mut begun, true) {
            piece.extend_from_slice(HEADER);
        } else if rest.peek().is_none() {
            return None;
        }
        while piece.len() < PIECE {
            let Some(row) = rest.next() else { break };
            piece.extend_from_slice(row.encoded);
        }
        if rest.peek().is_none() {
            piece.extend_from_slice(TRAILER);
        }
        Some(piece.freeze())
    })
}

/// Sorts by key and keeps the latest row of each. Of two rows of the same order, which come from
/// one record, either may be kept.
fn keep_latest(kind: Kind, rows: &mut Vec<Sent<'_>>) {
    match kind {
        Kind::Pin => rows.sort_unstable_by(|a, b| {
            let keys = first_field(a.encoded).cmp(first_field(b.encoded));
            later_first(keys, a, b)
        }),
        Kind::Geo | Kind::User => rows.sort_unstable_by(|a, b| {
            let keys = integer(a.encoded).cmp(&integer(b.encoded));
            later_first(keys, a, b)
        }),
    }
    rows.dedup_by(|next, kept| first_field(next.encoded) == first_field(kept.encoded));
}

fn later_first(keys: Ordering, a: &Sent<'_>, b: &Sent<'_>) -> Ordering {
    keys.then_with(|| b.order.cmp(&a.order))
}

fn integer(row: &[u8]) -> i64 {
    first_field(row)
        .first_chunk()
        .map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use pinpipe_core::clean;

    use super::*;

    fn order(time: i64, partition: i32, offset: i64) -> Order {
        Order {
            time,
            partition,
            offset,
        }
    }

    fn batch(kind: Kind, mode: WriteMode, records: &[(&str, Order)]) -> Rows {
        let mut rows = Rows::new(kind, mode);
        for (raw, position) in records {
            let cleaned = clean(kind, raw.as_bytes(), 100_000);
            rows.push(Consumed {
                raw: raw.as_bytes(),
                position: *position,
                after: Position::offset(position.offset + 1),
                order: *position,
                cleaned: &cleaned,
            });
        }
        rows.close();
        rows
    }

    /// The fields of each row of COPY data.
    fn fields(batches: &[&Rows]) -> Vec<Vec<Option<Vec<u8>>>> {
        fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
            let (head, tail) = data.split_at(n);
            *data = tail;
            head
        }
        let pieces: Vec<Bytes> = copy_data(batches).collect();
        let data = pieces.concat();
        let mut data = &data[..];
        assert_eq!(take(&mut data, 11), b"PGCOPY\n\xff\r\n\0");
        take(&mut data, 8);
        let mut rows = Vec::new();
        loop {
            let count = i16::from_be_bytes(take(&mut data, 2).try_into().unwrap());
            if count == -1 {
                assert!(data.is_empty());
                return rows;
            }
            let row = (0..count).map(|_| {
                let length = i32::from_be_bytes(take(&mut data, 4).try_into().unwrap());
                let length = usize::try_from(length).ok()?;
                Some(take(&mut data, length).to_vec())
            });
            rows.push(row.collect());
        }
    }

    fn integer_of(field: Option<&Vec<u8>>) -> i64 {
        i64::from_be_bytes(field.unwrap().clone().try_into().unwrap())
    }

    /// Key and country of each sent row.
    fn countries(batches: &[&Rows]) -> Vec<(i64, String)> {
        let text = |field: Option<&Vec<u8>>| String::from_utf8(field.unwrap().clone()).unwrap();
        fields(batches)
            .iter()
            .map(|row| (integer_of(row[0].as_ref()), text(row[1].as_ref())))
            .collect()
    }

    fn geo(ind: i64, country: &str) -> String {
        format!("{{\"ind\":{ind},\"country\":\"{country}\"}}")
    }

    #[test]
    fn only_the_latest_row_of_each_key_is_sent_and_integer_keys_are_sorted_as_numbers() {
        let records = [
            (geo(7, "old"), order(5, 0, 0)),
            (geo(-3, "x"), order(5, 0, 1)),
            (geo(7, "late clock"), order(9, 0, 2)),
            (geo(7, "later offset, earlier clock"), order(8, 0, 3)),
            (geo(7, "last"), order(9, 0, 4)),
        ];
        let records = records
            .each_ref()
            .map(|(raw, order)| (raw.as_str(), *order));
        let rows = batch(Kind::Geo, WriteMode::Upsert, &records);
        assert_eq!(
            countries(&[&rows]),
            [(-3, "x".to_owned()), (7, "last".to_owned())]
        );
        assert_eq!(rows.records(), 5);
    }

    #[test]
    fn a_key_of_several_partitions_is_sent_once() {
        let (early, late) = (geo(7, "early"), geo(7, "late"));
        let first = batch(Kind::Geo, WriteMode::Upsert, &[(&late, order(9, 0, 0))]);
        let second = batch(Kind::Geo, WriteMode::Upsert, &[(&early, order(8, 1, 4))]);
        for group in [[&first, &second], [&second, &first]] {
            assert_eq!(countries(&group), [(7, "late".to_owned())]);
        }
    }

    #[test]
    fn text_keys_are_sorted_by_bytes_and_every_column_is_encoded() {
        let records: Vec<(String, Order)> = ["b", "a", "Z", "ä"]
            .iter()
            .zip(0..)
            .map(|(id, offset)| {
                let raw = format!(
                    "{{\"unique_id\":\"{id}\",\"index\":1,\"follower_count\":\"1k\",\
                     \"downloaded\":true}}"
                );
                (raw, order(1, 0, offset))
            })
            .collect();
        let records: Vec<_> = records
            .iter()
            .map(|(raw, order)| (raw.as_str(), *order))
            .collect();
        let sent = fields(&[&batch(Kind::Pin, WriteMode::Upsert, &records)]);
        let keys: Vec<_> = sent
            .iter()
            .map(|row| String::from_utf8(row[0].clone().unwrap()).unwrap())
            .collect();
        assert_eq!(keys, ["Z", "a", "b", "ä"]);
        assert!(sent.iter().all(|row| row.len() == 15));
        assert_eq!(sent[0][6].as_deref(), Some(&1000i64.to_be_bytes()[..]));
        assert_eq!(sent[0][10].as_deref(), Some(&1i32.to_be_bytes()[..]));
    }

    #[test]
    fn rejected_records_make_no_row() {
        let rows = batch(Kind::Geo, WriteMode::Upsert, &[("{}", order(1, 0, 1))]);
        assert_eq!((rows.records(), rows.last()), (0, None));
        assert!(fields(&[&rows]).is_empty());
    }

    #[test]
    fn appended_rows_are_all_sent_in_the_log_s_order() {
        let records = [7, -3, 7].map(|ind| geo(ind, "x"));
        let records: Vec<_> = records
            .iter()
            .zip(0..)
            .map(|(raw, offset)| (raw.as_str(), order(9 - offset, 0, offset)))
            .collect();
        let rows = batch(Kind::Geo, WriteMode::Append, &records);
        let keys: Vec<_> = countries(&[&rows])
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, [7, -3, 7]);
    }

    #[test]
    fn a_split_keeps_the_row_that_a_later_one_of_its_key_replaces() {
        let records = [geo(1, "a"), geo(2, "b"), geo(1, "c")];
        let records: Vec<_> = records
            .iter()
            .zip(4..)
            .map(|(raw, offset)| (raw.as_str(), order(offset, 0, offset)))
            .collect();
        let rows = batch(Kind::Geo, WriteMode::Upsert, &records);
        let (first, second) = rows.split().unwrap();
        assert_eq!(countries(&[&first]), [(1, "a".to_owned())]);
        assert_eq!(first.last(), Some(Position::offset(5)));
        assert_eq!(
            countries(&[&second]),
            [(1, "c".to_owned()), (2, "b".to_owned())]
        );
        assert_eq!(second.last(), rows.last());
        let (third, fourth) = second.split().unwrap();
        assert_eq!(countries(&[&third]), [(2, "b".to_owned())]);
        assert_eq!(countries(&[&fourth]), [(1, "c".to_owned())]);
        assert!(fourth.split().is_none());
    }

    #[test]
    fn large_batches_are_sent_in_pieces() {
        let title = "t".repeat(90_000);
        let records: Vec<(String, Order)> = (0..8)
            .map(|offset| {
                let raw =
                    format!("{{\"unique_id\":\"{offset}\",\"index\":1,\"title\":\"{title}\"}}");
                (raw, order(1, 0, offset))
            })
            .collect();
        let records: Vec<_> = records
            .iter()
            .map(|(raw, order)| (raw.as_str(), *order))
            .collect();
        let rows = batch(Kind::Pin, WriteMode::Upsert, &records);
        assert_eq!(fields(&[&rows]).len(), 8);
        let pieces: Vec<_> = copy_data(&[&rows]).map(|piece| piece.len()).collect();
        assert!(pieces.len() > 2, "{pieces:?}");
        assert!(pieces.iter().all(|bytes| *bytes < 2 * PIECE), "{pieces:?}");
    }
}
