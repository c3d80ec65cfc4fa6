//! The baseline: the same fields, typed and borrowed, decoded by sonic-rs through serde.
//!
//! It expects one JSON type per field, does not read numbers from strings and refuses repeated
//! names. The samples contain neither.

#![expect(dead_code, reason = "decoded for measurement only")]

use std::borrow::Cow;

use pinpipe_core::Kind;
use serde::Deserialize;

/// Needed since serde borrows a `Cow` only if it is the field's own type, not inside an `Option`.
#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
pub struct Pin<'a> {
    #[serde(borrow)]
    unique_id: Text<'a>,
    index: i64,
    #[serde(borrow)]
    title: Option<Text<'a>>,
    #[serde(borrow)]
    category: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    poster_name: Option<Text<'a>>,
    #[serde(borrow)]
    follower_count: Option<Text<'a>>,
    #[serde(borrow)]
    tag_list: Option<Text<'a>>,
    #[serde(borrow)]
    is_image_or_video: Option<Text<'a>>,
    #[serde(borrow)]
    image_src: Option<Text<'a>>,
    downloaded: Option<i64>,
    #[serde(borrow)]
    save_location: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub struct Geo<'a> {
    ind: i64,
    #[serde(borrow)]
    timestamp: Option<Text<'a>>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    #[serde(borrow)]
    country: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub struct User<'a> {
    ind: i64,
    #[serde(borrow)]
    first_name: Option<Text<'a>>,
    #[serde(borrow)]
    last_name: Option<Text<'a>>,
    age: Option<i64>,
    #[serde(borrow)]
    date_joined: Option<Text<'a>>,
}

/// A decoded record.
pub enum Record<'a> {
    Pin(Pin<'a>),
    Geo(Geo<'a>),
    User(User<'a>),
}

/// Decodes one record.
pub fn decode(kind: Kind, raw: &[u8]) -> sonic_rs::Result<Record<'_>> {
    match kind {
        Kind::Pin => sonic_rs::from_slice(raw).map(Record::Pin),
        Kind::Geo => sonic_rs::from_slice(raw).map(Record::Geo),
        Kind::User => sonic_rs::from_slice(raw).map(Record::User),
    }
}
