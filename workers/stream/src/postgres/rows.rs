//! A batch of clean rows in the binary format of PostgreSQL's COPY.
//!
//! Rows are encoded as they are pushed. With upsert, only the latest row of each key is sent; with
//! append, all rows are. The format is
//! <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT>: a row is a count
//! of fields, then for each field its length and its bytes in the type's binary format, all
//! big-endian.

use bytes::{BufMut, Bytes, BytesMut};
use pinpipe_config::WriteMode;
use pinpipe_core::{Geo, Kind, Order, Pin, Record, User, columns};

use crate::{
    log::Position,
    sink::{Batch, Consumed, Unstorable},
};

/// Microseconds between 1970-01-01, the records' epoch, and 2000-01-01, PostgreSQL's.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The longest key, bytes. A B-tree entry may take a third of an 8 KiB page: 2704 bytes with its
/// header.
const MAX_KEY: usize = 2600;

/// The OID of `double precision` in `pg_type`.
const FLOAT8: i32 = 701;

/// Clean rows of one kind.
#[derive(Debug)]
pub struct Rows {
    kind: Kind,
    mode: WriteMode,
    encoded: BytesMut,
    entries: Vec<Row>,
    records: usize,
    last: Option<Position>,
    copy_data: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    order: Order,
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
            encoded: BytesMut::new(),
            entries: Vec::new(),
            records: 0,
            last: None,
            copy_data: Bytes::new(),
        }
    }

    /// The rows' kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The data for `COPY … FROM STDIN (FORMAT binary)`: the latest row of each key, sorted by key,
    /// or all rows in the order of their offsets. Empty until the batch is closed.
    #[must_use]
    pub fn copy_data(&self) -> Bytes {
        self.copy_data.clone()
    }

    /// The latest row of each key, sorted by key.
    fn latest(&self) -> Vec<Row> {
        let mut rows = self.entries.clone();
        match self.kind {
            Kind::Pin => rows
                .sort_unstable_by(|a, b| self.key(a).cmp(self.key(b)).then(b.order.cmp(&a.order))),
            Kind::Geo | Kind::User => {
                rows.sort_unstable_by_key(|row| {
                    (self.integer_key(row), std::cmp::Reverse(row.order))
                });
            }
        }
        rows.dedup_by(|later, first| self.key(later) == self.key(first));
        rows
    }

    fn encode(&self, rows: &[Row]) -> Bytes {
        let mut data =
            BytesMut::with_capacity(21 + rows.iter().map(|row| row.end - row.start).sum::<usize>());
        data.put_slice(b"PGCOPY\n\xff\r\n\0");
        data.put_i32(0);
        data.put_i32(0);
        for row in rows {
            data.put_slice(&self.encoded[row.start..row.end]);
        }
        data.put_i16(-1);
        data.freeze()
    }

    /// The key's bytes: those of the first field, after the field count and the field's length.
    fn key(&self, row: &Row) -> &[u8] {
        let field = &self.encoded[row.start + 2..row.end];
        match field.split_first_chunk() {
            Some((length, rest)) => {
                &rest[..usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0)]
            }
            None => &[],
        }
    }

    fn integer_key(&self, row: &Row) -> i64 {
        self.key(row)
            .first_chunk()
            .map_or(0, |bytes| i64::from_be_bytes(*bytes))
    }

    fn add(&mut self, record: &Record<'_>, order: Order) {
        let start = self.encoded.len();
        let out = &mut self.encoded;
        let fields = columns::columns(record.kind()).len() + 3;
        out.put_i16(i16::try_from(fields).unwrap_or(i16::MAX));
        match record {
            Record::Pin(pin) => put_pin(out, pin),
            Record::Geo(geo) => put_geo(out, geo),
            Record::User(user) => put_user(out, user),
        }
        put_time(out, Some(order.time.saturating_mul(1000)));
        put_int(out, Some(order.partition));
        put_bigint(out, Some(order.offset));
        self.entries.push(Row {
            order,
            start,
            end: self.encoded.len(),
        });
        self.records += 1;
    }
}

impl Batch for Rows {
    fn push(&mut self, record: Consumed<'_>) -> Result<(), Unstorable> {
        let Ok(cleaned) = record.cleaned else {
            return Ok(());
        };
        if self.mode == WriteMode::Upsert
            && let Record::Pin(pin) = &cleaned.record
            && pin.unique_id.len() > MAX_KEY
        {
            return Err(Unstorable::KeyTooLong {
                bytes: pin.unique_id.len(),
                limit: MAX_KEY,
            });
        }
        let order = match self.mode {
            WriteMode::Upsert => record.order,
            WriteMode::Append => record.position,
        };
        self.add(&cleaned.record, order);
        self.last = Some(record.after);
        Ok(())
    }

    fn close(&mut self) {
        self.copy_data = match self.mode {
            WriteMode::Upsert => self.encode(&self.latest()),
            WriteMode::Append => self.encode(&self.entries),
        };
        self.encoded = BytesMut::new();
        self.entries = Vec::new();
    }

    fn records(&self) -> usize {
        self.records
    }

    fn bytes(&self) -> usize {
        self.encoded.len() + self.entries.len() * size_of::<Row>() + self.copy_data.len()
    }

    fn last(&self) -> Option<Position> {
        self.last
    }

    fn split(&self) -> Option<(Self, Self)> {
        None
    }
}

fn put_pin(out: &mut BytesMut, pin: &Pin<'_>) {
    put_text(out, Some(&pin.unique_id));
    put_bigint(out, Some(pin.index_id));
    put_text(out, pin.title.as_deref());
    put_text(out, pin.category.as_deref());
    put_text(out, pin.description.as_deref());
    put_text(out, pin.poster_name.as_deref());
    put_bigint(out, pin.follower_count);
    put_text(out, pin.tag_list.as_deref());
    put_text(out, pin.is_image_or_video.as_deref());
    put_text(out, pin.image_src.as_deref());
    put_int(
        out,
        pin.downloaded.and_then(|flag| i32::try_from(flag).ok()),
    );
    put_text(out, pin.save_location.as_deref());
}

fn put_geo(out: &mut BytesMut, geo: &Geo<'_>) {
    put_bigint(out, Some(geo.ind));
    put_text(out, geo.country.as_deref());
    put_coordinates(out, geo.coordinates);
    put_time(out, geo.timestamp);
}

fn put_user(out: &mut BytesMut, user: &User<'_>) {
    put_bigint(out, Some(user.ind));
    put_text(out, user.user_name.as_deref());
    put_int(out, user.age.and_then(|age| i32::try_from(age).ok()));
    put_time(out, user.date_joined);
}

fn put_null(out: &mut BytesMut) {
    out.put_i32(-1);
}

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    // Records are far smaller than 2 GiB; a longer text would become null rather than break the
    // stream.
    match text.and_then(|text| Some((i32::try_from(text.len()).ok()?, text))) {
        Some((length, text)) => {
            out.put_i32(length);
            out.put_slice(text.as_bytes());
        }
        None => put_null(out),
    }
}

fn put_bigint(out: &mut BytesMut, value: Option<i64>) {
    match value {
        Some(value) => {
            out.put_i32(8);
            out.put_i64(value);
        }
        None => put_null(out),
    }
}

fn put_int(out: &mut BytesMut, value: Option<i32>) {
    match value {
        Some(value) => {
            out.put_i32(4);
            out.put_i32(value);
        }
        None => put_null(out),
    }
}

/// Microseconds since 1970 as a `timestamptz`.
fn put_time(out: &mut BytesMut, microseconds: Option<i64>) {
    put_bigint(
        out,
        microseconds.map(|time| time.saturating_sub(POSTGRES_EPOCH)),
    );
}

/// Latitude and longitude as a `double precision[]`: one dimension, no nulls, two elements counted
/// from 1.
fn put_coordinates(out: &mut BytesMut, coordinates: Option<[f64; 2]>) {
    let Some(coordinates) = coordinates else {
        return put_null(out);
    };
    out.put_i32(20 + 2 * 12);
    for number in [1, 0, FLOAT8, 2, 1] {
        out.put_i32(number);
    }
    for coordinate in coordinates {
        out.put_i32(8);
        out.put_f64(coordinate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(ind: i64, name: &str) -> Record<'_> {
        Record::User(User {
            ind,
            user_name: Some(name.into()),
            age: None,
            date_joined: None,
        })
    }

    fn order(time: i64, offset: i64) -> Order {
        Order {
            time,
            partition: 0,
            offset,
        }
    }

    /// The fields of each row of COPY data.
    fn fields(mut data: &[u8]) -> Vec<Vec<Option<Vec<u8>>>> {
        fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
            let (head, tail) = data.split_at(n);
            *data = tail;
            head
        }
        assert_eq!(take(&mut data, 11), b"PGCOPY\n\xff\r\n\0");
        take(&mut data, 8);
        let mut rows = Vec::new();
        loop {
            let count = i16::from_be_bytes(take(&mut data, 2).try_into().unwrap());
            if count == -1 {
                assert!(data.is_empty());
                return rows;
            }
            rows.push(
                (0..count)
                    .map(|_| {
                        let length = i32::from_be_bytes(take(&mut data, 4).try_into().unwrap());
                        usize::try_from(length)
                            .ok()
                            .map(|length| take(&mut data, length).to_vec())
                    })
                    .collect(),
            );
        }
    }

    #[test]
    fn only_the_latest_row_of_each_key_is_sent_and_integer_keys_are_sorted_as_numbers() {
        let mut rows = Rows::new(Kind::User, WriteMode::Upsert);
        for (ind, name, time, offset) in [
            (7, "old", 5, 0),
            (-3, "x", 5, 1),
            (7, "late clock", 9, 2),
            (7, "later offset, earlier clock", 8, 3),
            (7, "last", 9, 4),
        ] {
            rows.add(&user(ind, name), order(time, offset));
        }
        rows.close();
        let sent = fields(&rows.copy_data());
        let names: Vec<_> = sent
            .iter()
            .map(|row| {
                (
                    i64::from_be_bytes(row[0].clone().unwrap().try_into().unwrap()),
                    row[1].clone().unwrap(),
                )
            })
            .collect();
        assert_eq!(names, [(-3, b"x".to_vec()), (7, b"last".to_vec())]);
        assert_eq!(rows.records(), 5);
    }

    #[test]
    fn text_keys_are_sorted_by_bytes_and_every_column_is_encoded() {
        let mut rows = Rows::new(Kind::Pin, WriteMode::Upsert);
        for (offset, id) in ["b", "a", "Z", "ä"].into_iter().enumerate() {
            let raw = format!(
                "{{\"unique_id\":\"{id}\",\"index\":1,\"follower_count\":\"1k\",\
                 \"downloaded\":true}}"
            );
            let cleaned = pinpipe_core::clean(Kind::Pin, raw.as_bytes(), 1000);
            let position = order(1, i64::try_from(offset).unwrap());
            rows.push(Consumed {
                raw: raw.as_bytes(),
                position,
                after: Position::offset(position.offset + 1),
                order: position,
                cleaned: &cleaned,
            })
            .unwrap();
        }
        rows.close();
        let sent = fields(&rows.copy_data());
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
        let mut rows = Rows::new(Kind::Geo, WriteMode::Upsert);
        let cleaned = pinpipe_core::clean(Kind::Geo, b"{}", 1000);
        rows.push(Consumed {
            raw: b"{}",
            position: order(1, 1),
            after: Position::offset(2),
            order: order(1, 1),
            cleaned: &cleaned,
        })
        .unwrap();
        rows.close();
        assert_eq!(rows.records(), 0);
        assert!(fields(&rows.copy_data()).is_empty());
    }

    #[test]
    fn a_key_too_long_for_the_index_is_refused_where_it_is_indexed() {
        for (mode, length, stored) in [
            (WriteMode::Upsert, MAX_KEY, true),
            (WriteMode::Upsert, MAX_KEY + 1, false),
            (WriteMode::Append, MAX_KEY + 1, true),
        ] {
            let mut rows = Rows::new(Kind::Pin, mode);
            let raw = format!("{{\"unique_id\":\"{}\",\"index\":1}}", "k".repeat(length));
            let cleaned = pinpipe_core::clean(Kind::Pin, raw.as_bytes(), 10_000);
            let position = order(1, 1);
            let pushed = rows.push(Consumed {
                raw: raw.as_bytes(),
                position,
                after: Position::offset(position.offset + 1),
                order: position,
                cleaned: &cleaned,
            });
            assert_eq!(
                (pushed.is_ok(), rows.records()),
                (stored, usize::from(stored)),
                "{mode:?} {length}"
            );
        }
    }

    #[test]
    fn appended_rows_are_all_sent_in_the_log_s_order() {
        let mut rows = Rows::new(Kind::User, WriteMode::Append);
        for (offset, ind) in [7, -3, 7].into_iter().enumerate() {
            rows.add(
                &user(ind, "x"),
                order(9 - ind, i64::try_from(offset).unwrap()),
            );
        }
        rows.close();
        let keys: Vec<_> = fields(&rows.copy_data())
            .iter()
            .map(|row| i64::from_be_bytes(row[0].clone().unwrap().try_into().unwrap()))
            .collect();
        assert_eq!(keys, [7, -3, 7]);
    }
}
