//! Cleaning rules, as tables of raw values and expected results.

mod geo;
mod pin;
mod user;

use super::*;
use crate::{Geo, Pin, Record, RepairReason, User};

const LIMIT: usize = 1 << 20;

fn cleaned(kind: Kind, json: &str) -> Cleaned<'_> {
    clean(kind, json.as_bytes(), LIMIT).unwrap_or_else(|rejection| panic!("{json}: {rejection}"))
}

fn rejection(kind: Kind, json: &str) -> Option<Rejection> {
    let rejection = clean(kind, json.as_bytes(), LIMIT).err();
    assert_eq!(
        record_key(kind, json.as_bytes(), LIMIT).err(),
        rejection,
        "{json}: clean and record_key agree"
    );
    rejection
}

fn repairs(cleaned: &Cleaned<'_>) -> Vec<(&'static str, &'static str)> {
    let repairs: Vec<_> = cleaned
        .repairs
        .iter()
        .map(|repair| (repair.field, repair.reason.as_str()))
        .collect();
    assert_eq!(
        (cleaned.repairs.len(), cleaned.repairs.is_empty()),
        (repairs.len(), repairs.is_empty())
    );
    repairs
}

#[test]
fn typical_records_are_cleaned() {
    let pin = r#"{"index": 7528, "unique_id": "fbe53c66-3442-4773-b19e-d3ec6f54dddf",
        "title": "No Title Data Available",
        "description": "No description available Story format", "poster_name": "User Info Error",
        "follower_count": "User Info Error", "tag_list": "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e",
        "is_image_or_video": "multi-video(story page format)",
        "image_src": "Image src error.", "downloaded": 0,
        "save_location": "Local save in /data/mens-fashion", "category": "mens-fashion"}"#;
    let clean_pin = Pin {
        unique_id: "fbe53c66-3442-4773-b19e-d3ec6f54dddf".into(),
        index_id: 7528,
        title: None,
        category: Some("mens-fashion".into()),
        description: None,
        poster_name: None,
        follower_count: None,
        tag_list: None,
        is_image_or_video: Some("multi-video(story page format)".into()),
        image_src: None,
        downloaded: Some(0),
        save_location: Some("/data/mens-fashion".into()),
    };
    let geo = r#"{"ind": 7528, "timestamp": "2020-08-28 03:52:47",
        "latitude": -89.9787, "longitude": -173.293, "country": "Albania"}"#;
    let clean_geo = Geo {
        ind: 7528,
        country: Some("Albania".into()),
        coordinates: Some([-89.9787, -173.293]),
        timestamp: Some(1_598_586_767_000_000),
    };
    let user = r#"{"ind": 7528, "first_name": "Abigail", "last_name": "Ali", "age": 20,
        "date_joined": "2015-10-24 11:23:51"}"#;
    let clean_user = User {
        ind: 7528,
        user_name: Some("Abigail Ali".into()),
        age: Some(20),
        date_joined: Some(1_445_685_831_000_000),
    };
    for (kind, raw, clean, key) in [
        (
            Kind::Pin,
            pin,
            Record::Pin(clean_pin),
            "fbe53c66-3442-4773-b19e-d3ec6f54dddf",
        ),
        (Kind::Geo, geo, Record::Geo(clean_geo), "7528"),
        (Kind::User, user, Record::User(clean_user), "7528"),
    ] {
        let cleaned = cleaned(kind, raw);
        assert_eq!((&cleaned.record, repairs(&cleaned)), (&clean, vec![]));
        assert_eq!(
            (cleaned.record.kind(), cleaned.record.key().as_ref()),
            (kind, key)
        );
        assert_eq!(record_key(kind, raw.as_bytes(), LIMIT).as_deref(), Ok(key));
    }
}

#[test]
fn keys_are_cleaned_like_other_fields_and_are_required() {
    let missing = |field| Some(Rejection::KeyMissing { field });
    let unreadable = |field| Some(Rejection::KeyUnreadable { field });
    for (kind, json, rejected) in [
        (
            Kind::Pin,
            r#"{"unique_id": " a ", "index": " 7528 "}"#,
            None,
        ),
        (Kind::Pin, r#"{"unique_id": 12, "index": "7528.0"}"#, None),
        (Kind::Pin, "{}", missing("unique_id")),
        (Kind::Pin, r#"{"index": 1}"#, missing("unique_id")),
        (
            Kind::Pin,
            r#"{"unique_id": " \u0000", "index": 1}"#,
            missing("unique_id"),
        ),
        (
            Kind::Pin,
            r#"{"unique_id": ["a"], "index": 1}"#,
            unreadable("unique_id"),
        ),
        (
            Kind::Pin,
            r#"{"unique_id": "\ud800", "index": 1}"#,
            unreadable("unique_id"),
        ),
        (Kind::Pin, r#"{"unique_id": "a"}"#, missing("index")),
        (
            Kind::Pin,
            r#"{"unique_id": "a", "index": null}"#,
            missing("index"),
        ),
        (
            Kind::Pin,
            r#"{"unique_id": "a", "index": 7.528e3}"#,
            unreadable("index"),
        ),
        (
            Kind::Pin,
            r#"{"unique_id": "a", "index": 9223372036854775808}"#,
            unreadable("index"),
        ),
        (
            Kind::Pin,
            r#"{"unique_id": "a", "index": "\ud800"}"#,
            unreadable("index"),
        ),
        (Kind::Geo, r#"{"ind": 1}"#, None),
        (Kind::Geo, r#"{"idx": 1}"#, missing("ind")),
        (Kind::Geo, r#"{"ind": 1, "ind": "x"}"#, unreadable("ind")),
        (Kind::User, r#"{"ind": "x", "\u0069nd": 1}"#, None),
        (Kind::User, r#"{"ind": true}"#, unreadable("ind")),
        (Kind::User, r#"{"ind": ""}"#, missing("ind")),
    ] {
        assert_eq!(rejection(kind, json), rejected, "{json}");
    }
    for (ind, key) in [
        ("\" +007528.0 \"", "7528"),
        ("-0", "0"),
        ("-12.0", "-12"),
        ("9223372036854775807", "9223372036854775807"),
    ] {
        assert_eq!(
            cleaned(Kind::Geo, &format!(r#"{{"ind": {ind}}}"#))
                .record
                .key(),
            key
        );
    }
    assert_eq!(
        cleaned(Kind::Pin, r#"{"unique_id": " a\u0000 ", "index": 1}"#)
            .record
            .key(),
        "a"
    );
}

#[test]
fn the_shared_number_has_either_name() {
    let key = |kind, fields: &str| {
        let json = match kind {
            Kind::Pin => format!(r#"{{"unique_id": "u", {fields}}}"#),
            Kind::Geo | Kind::User => format!("{{{fields}}}"),
        };
        let rejection = rejection(kind, &json);
        let cleaned = clean(kind, json.as_bytes(), LIMIT);
        let number = cleaned.map(|cleaned| match cleaned.record {
            Record::Pin(pin) => pin.index_id,
            Record::Geo(geo) => geo.ind,
            Record::User(user) => user.ind,
        });
        assert_eq!(number.err(), rejection);
        number
    };
    for (kind, own, other) in [
        (Kind::Pin, "index", "ind"),
        (Kind::Geo, "ind", "index"),
        (Kind::User, "ind", "index"),
    ] {
        let missing = Err(Rejection::KeyMissing { field: own });
        let unreadable = |field| Err(Rejection::KeyUnreadable { field });
        for (of_own, of_other, number) in [
            (None, Some("7528"), Ok(7528)),
            (None, Some("\" +7528.0 \""), Ok(7528)),
            (Some("1"), Some("2"), Ok(1)),
            (Some("1"), Some("\"x\""), Ok(1)),
            (Some("\"x\""), Some("2"), unreadable(own)),
            // A value that is missing isn't there.
            (Some("null"), Some("2"), Ok(2)),
            (Some("\" \""), Some("2"), Ok(2)),
            (None, Some("\"x\""), unreadable(other)),
            (None, Some("[7528]"), unreadable(other)),
            (None, Some("null"), missing),
            (Some("null"), Some("null"), missing),
        ] {
            let field =
                |name, value: Option<&str>| value.map(|value| format!(r#""{name}": {value}"#));
            let mut fields: Vec<_> = [field(own, of_own), field(other, of_other)]
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(key(kind, &fields.join(",")), number, "{kind}: {fields:?}");
            fields.reverse();
            assert_eq!(key(kind, &fields.join(",")), number, "{kind}: {fields:?}");
        }
        let message = Rejection::KeyMissing { field: own }.to_string();
        assert!(
            message.contains("`index`") && message.contains("`ind`"),
            "{message}"
        );
    }
}

#[test]
fn the_first_failed_check_is_reported() {
    for (raw, limit, rejected, reason) in [
        (
            &b"\xff\xff"[..],
            1,
            Rejection::TooLarge { bytes: 2, limit: 1 },
            "too-large",
        ),
        (b"\xff", 1, Rejection::NotUtf8, "not-utf8"),
        (
            b"{\"ind\": \"\xed\xa0\x80\"}",
            99,
            Rejection::NotUtf8,
            "not-utf8",
        ),
        (b"[", 99, Rejection::NotJson, "not-json"),
        (b"[]", 99, Rejection::NotAnObject, "not-an-object"),
        (
            b"{}",
            2,
            Rejection::KeyMissing { field: "ind" },
            "key-missing",
        ),
        (
            b"{\"ind\":[]}",
            99,
            Rejection::KeyUnreadable { field: "ind" },
            "key-unreadable",
        ),
    ] {
        assert_eq!(clean(Kind::Geo, raw, limit), Err(rejected));
        assert_eq!(record_key(Kind::Geo, raw, limit), Err(rejected));
        assert_eq!(rejected.reason(), reason);
        assert_eq!(rejected.field(), reason.starts_with("key").then_some("ind"));
    }
}

#[test]
fn reasons_have_names() {
    assert_eq!(
        [RepairReason::Unreadable, RepairReason::OutOfRange].map(RepairReason::as_str),
        ["unreadable", "out-of-range"]
    );
}
