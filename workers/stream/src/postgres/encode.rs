//! The fields of clean rows in the binary format of PostgreSQL's COPY.
//!
//! The format is <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT>: a
//! row is a count of fields, then for each field its length and its bytes in the type's binary
//! format, all big-endian.

use bytes::{BufMut, BytesMut};
use pinpipe_core::{Geo, Order, Pin, Record, User, columns};

/// What COPY data begin with: the signature, no flags, no further header.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What COPY data end with: a count of fields of -1.
pub const TRAILER: &[u8] = &[0xff, 0xff];

/// Microseconds between 1970-01-01, the records' epoch, and 2000-01-01, PostgreSQL's.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The OID of `double precision` in `pg_type`.
const FLOAT8: i32 = 701;

/// Appends a row: the clean columns, then those of its order.
pub fn put_row(out: &mut BytesMut, record: &Record<'_>, order: Order) {
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
}

/// The bytes of a row's first field, behind the count of fields and the field's length.
pub fn first_field(row: &[u8]) -> &[u8] {
    let field = row.get(2..).unwrap_or_default();
    match field.split_first_chunk() {
        Some((length, rest)) => {
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            rest.get(..length).unwrap_or_default()
        }
        None => &[],
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
