//! The contract's tables, as tables.

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
        "{json}: both find the same"
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

fn pin(fields: &str) -> (Pin<'static>, Vec<(&'static str, &'static str)>) {
    let json = format!(r#"{{"unique_id": "u", "index": 1, {fields}}}"#).leak();
    let cleaned = cleaned(Kind::Pin, json);
    let repairs = repairs(&cleaned);
    let Record::Pin(pin) = cleaned.record else {
        panic!("{json} gave {cleaned:?}")
    };
    (pin, repairs)
}

fn geo(fields: &str) -> (Geo<'static>, Vec<(&'static str, &'static str)>) {
    let json = format!(r#"{{"ind": 1, {fields}}}"#).leak();
    let cleaned = cleaned(Kind::Geo, json);
    let repairs = repairs(&cleaned);
    let Record::Geo(geo) = cleaned.record else {
        panic!("{json} gave {cleaned:?}")
    };
    (geo, repairs)
}

fn user(fields: &str) -> (User<'static>, Vec<(&'static str, &'static str)>) {
    let json = format!(r#"{{"ind": 1, {fields}}}"#).leak();
    let cleaned = cleaned(Kind::User, json);
    let repairs = repairs(&cleaned);
    let Record::User(user) = cleaned.record else {
        panic!("{json} gave {cleaned:?}")
    };
    (user, repairs)
}

#[test]
fn the_contracts_examples_come_out_clean() {
    let pin = r#"{"index": 7528, "unique_id": "fbe53c66-3442-4773-b19e-d3ec6f54dddf", "title": "No Title Data Available",
        "description": "No description available Story format", "poster_name": "User Info Error",
        "follower_count": "User Info Error", "tag_list": "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e",
        "is_image_or_video": "multi-video(story page format)", "image_src": "Image src error.", "downloaded": 0,
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
    let geo = r#"{"ind": 7528, "timestamp": "2020-08-28 03:52:47", "latitude": -89.9787, "longitude": -173.293, "country": "Albania"}"#;
    let clean_geo = Geo {
        ind: 7528,
        country: Some("Albania".into()),
        coordinates: Some([-89.9787, -173.293]),
        timestamp: Some(1_598_586_767_000_000),
    };
    let user = r#"{"ind": 7528, "first_name": "Abigail", "last_name": "Ali", "age": 20, "date_joined": "2015-10-24 11:23:51"}"#;
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
fn some_texts_mean_missing_in_their_own_field_only() {
    type Text = fn(Pin<'static>) -> Option<std::borrow::Cow<'static, str>>;
    let fields: [(&str, Text, &[&str]); 6] = [
        ("title", |pin| pin.title, &["No Title Data Available"]),
        (
            "description",
            |pin| pin.description,
            &[
                "No description available",
                "No description available Story format",
            ],
        ),
        ("poster_name", |pin| pin.poster_name, &["User Info Error"]),
        (
            "tag_list",
            |pin| pin.tag_list,
            &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"],
        ),
        ("image_src", |pin| pin.image_src, &["Image src error."]),
        ("category", |pin| pin.category, &[]),
    ];
    let all: Vec<&str> = fields.iter().flat_map(|field| field.2).copied().collect();
    for (field, value, missing) in fields {
        for text in &all {
            let (pin, repairs) = pin(&format!(r#""{field}": " {text}\u0000\n""#));
            let kept = (!missing.contains(text)).then_some(*text);
            assert_eq!(
                (value(pin).as_deref(), repairs),
                (kept, vec![]),
                "{field}: {text}"
            );
        }
        for text in [
            "No title data available",
            "User info error",
            "N,o",
            "user info error",
        ] {
            assert_eq!(
                value(pin(&format!(r#""{field}": "{text}""#)).0).as_deref(),
                Some(text),
                "{field}: {text}"
            );
        }
        for missing in ["null", r#""""#, r#"" \t""#, r#""\u0000""#] {
            let (pin, repairs) = pin(&format!(r#""{field}": {missing}"#));
            assert_eq!((value(pin), repairs), (None, vec![]), "{field}: {missing}");
        }
    }
    assert_eq!(pin(r#""x": 0"#).1, []);
}

#[test]
fn texts_take_numbers_and_booleans_but_no_lists() {
    for (value, text, repair) in [
        ("12.50", Some("12.50"), None),
        ("1e3", Some("1e3"), None),
        ("true", Some("true"), None),
        (r#""a\u0000b\u00e9""#, Some("abé"), None),
        ("[]", None, Some("unreadable")),
        (r#"{"a": "b"}"#, None, Some("unreadable")),
        (r#""a\ud800""#, None, Some("unreadable")),
    ] {
        let (pin, repairs) = pin(&format!(r#""title": {value}"#));
        let expected: Vec<_> = repair.map(|reason| ("title", reason)).into_iter().collect();
        assert_eq!((pin.title.as_deref(), repairs), (text, expected), "{value}");
    }
}

#[test]
fn follower_counts() {
    for (value, count, repair) in [
        (r#""124k""#, Some(124_000), None),
        (r#"" 1.2M ""#, Some(1_200_000), None),
        (r#""1,234""#, Some(1_234), None),
        ("512", Some(512), None),
        ("512.9", Some(512), None),
        (r#""User Info Error""#, None, None),
        ("null", None, None),
        (r#""lots""#, None, Some("unreadable")),
        ("5.12e2", None, Some("unreadable")),
        ("true", None, Some("unreadable")),
        ("[1]", None, Some("unreadable")),
        ("-5", None, Some("out-of-range")),
        ("9223372036854775808", None, Some("out-of-range")),
    ] {
        let (pin, repairs) = pin(&format!(r#""follower_count": {value}"#));
        let expected: Vec<_> = repair
            .map(|reason| ("follower_count", reason))
            .into_iter()
            .collect();
        assert_eq!((pin.follower_count, repairs), (count, expected), "{value}");
    }
}

#[test]
fn downloaded_is_0_or_1() {
    for (value, downloaded, repair) in [
        ("0", Some(0), None),
        ("1", Some(1), None),
        ("1.0", Some(1), None),
        (r#"" 1 ""#, Some(1), None),
        ("true", Some(1), None),
        ("false", Some(0), None),
        ("null", None, None),
        (r#""""#, None, None),
        ("2", None, Some("out-of-range")),
        ("-1", None, Some("out-of-range")),
        ("99999999999999999999", None, Some("out-of-range")),
        ("1e0", None, Some("unreadable")),
        (r#""true""#, None, Some("unreadable")),
        (r#""yes""#, None, Some("unreadable")),
        ("[1]", None, Some("unreadable")),
    ] {
        let (pin, repairs) = pin(&format!(r#""downloaded": {value}"#));
        let expected: Vec<_> = repair
            .map(|reason| ("downloaded", reason))
            .into_iter()
            .collect();
        assert_eq!((pin.downloaded, repairs), (downloaded, expected), "{value}");
    }
}

#[test]
fn save_locations_lose_their_prefix() {
    for (text, path) in [
        (
            "Local save in /data/mens-fashion",
            Some("/data/mens-fashion"),
        ),
        (
            r" Local save in \t\u2003/data/mens fashion ",
            Some("/data/mens fashion"),
        ),
        ("Local save in/data", Some("/data")),
        ("Local save in", None),
        ("Local save in ", None),
        (r"Local save\u0020in \u0000", None),
        ("/data", Some("/data")),
        (r"\/data", Some("/data")),
        ("local save in /data", Some("local save in /data")),
        (
            "kept: Local save in /data",
            Some("kept: Local save in /data"),
        ),
    ] {
        let (pin, repairs) = pin(&format!(r#""save_location": "{text}""#));
        assert_eq!(
            (pin.save_location.as_deref(), repairs),
            (path, vec![]),
            "{text}"
        );
    }
}

#[test]
fn coordinates_are_both_or_none() {
    let lat = |reason| vec![("latitude", reason)];
    let lon = |reason| vec![("longitude", reason)];
    for (fields, coordinates, repaired) in [
        (
            r#""latitude": 90, "longitude": -180"#,
            Some([90.0, -180.0]),
            vec![],
        ),
        (
            r#""latitude": " -1.5 ", "longitude": "2e1""#,
            Some([-1.5, 20.0]),
            vec![],
        ),
        (r#""latitude": 1"#, None, vec![]),
        (r#""longitude": 1, "latitude": null"#, None, vec![]),
        (r#""longitude": 1, "latitude": """#, None, vec![]),
        (r#""x": 0"#, None, vec![]),
        (
            r#""latitude": 90.1, "longitude": 0"#,
            None,
            lat("out-of-range"),
        ),
        (
            r#""latitude": 0, "longitude": -180.1"#,
            None,
            lon("out-of-range"),
        ),
        (
            r#""latitude": null, "longitude": 200"#,
            None,
            lon("out-of-range"),
        ),
        (
            r#""latitude": 1e400, "longitude": 0"#,
            None,
            lat("out-of-range"),
        ),
        (
            r#""latitude": "north", "longitude": 0"#,
            None,
            lat("unreadable"),
        ),
        (
            r#""latitude": 0, "longitude": true"#,
            None,
            lon("unreadable"),
        ),
        (
            r#""latitude": [1], "longitude": 0"#,
            None,
            lat("unreadable"),
        ),
        (
            r#""latitude": 91, "longitude": "x""#,
            None,
            vec![("latitude", "out-of-range"), ("longitude", "unreadable")],
        ),
    ] {
        let (geo, repairs) = geo(fields);
        assert_eq!(
            (geo.coordinates, repairs),
            (coordinates, repaired),
            "{fields}"
        );
    }
}

#[test]
fn timestamps() {
    for (value, micros, repair) in [
        (
            r#""2020-08-28 03:52:47""#,
            Some(1_598_586_767_000_000),
            None,
        ),
        (
            r#"" 2020-08-28T09:22:47.5+05:30 ""#,
            Some(1_598_586_767_500_000),
            None,
        ),
        ("null", None, None),
        (r#""""#, None, None),
        (r#""yesterday""#, None, Some("unreadable")),
        (r#""2020-08-28""#, None, Some("unreadable")),
        ("1598586767", None, Some("unreadable")),
        ("{}", None, Some("unreadable")),
    ] {
        let expected = |field| {
            repair
                .map(|reason| (field, reason))
                .into_iter()
                .collect::<Vec<_>>()
        };
        let (geo, repairs) = geo(&format!(r#""timestamp": {value}"#));
        assert_eq!(
            (geo.timestamp, repairs),
            (micros, expected("timestamp")),
            "{value}"
        );
        let (user, repairs) = user(&format!(r#""date_joined": {value}"#));
        assert_eq!(
            (user.date_joined, repairs),
            (micros, expected("date_joined")),
            "{value}"
        );
    }
}

#[test]
fn user_names_join_what_is_there() {
    for (fields, name, repair) in [
        (
            r#""first_name": " Abigail ", "last_name": "Ali\u0000""#,
            Some("Abigail Ali"),
            None,
        ),
        (r#""first_name": "Abigail""#, Some("Abigail"), None),
        (
            r#""last_name": "Ali", "first_name": " ""#,
            Some("Ali"),
            None,
        ),
        (r#""last_name": null"#, None, None),
        (
            r#""first_name": 7, "last_name": true"#,
            Some("7 true"),
            None,
        ),
        (
            r#""first_name": {}, "last_name": "Ali""#,
            Some("Ali"),
            Some("first_name"),
        ),
        (
            r#""first_name": "Abigail", "last_name": "\udfff""#,
            Some("Abigail"),
            Some("last_name"),
        ),
    ] {
        let (user, repairs) = user(fields);
        let expected: Vec<_> = repair
            .map(|field| (field, "unreadable"))
            .into_iter()
            .collect();
        assert_eq!(
            (user.user_name.as_deref(), repairs),
            (name, expected),
            "{fields}"
        );
    }
}

#[test]
fn ages() {
    for (value, age, repair) in [
        ("0", Some(0), None),
        ("150", Some(150), None),
        (r#""20.0""#, Some(20), None),
        ("null", None, None),
        ("200", None, Some("out-of-range")),
        ("-1", None, Some("out-of-range")),
        ("20.5", None, Some("unreadable")),
        ("2e1", None, Some("unreadable")),
        ("true", None, Some("unreadable")),
        (r#""twenty""#, None, Some("unreadable")),
    ] {
        let (user, repairs) = user(&format!(r#""age": {value}"#));
        let expected: Vec<_> = repair.map(|reason| ("age", reason)).into_iter().collect();
        assert_eq!((user.age, repairs), (age, expected), "{value}");
    }
}

#[test]
fn keys_are_read_like_other_fields_and_must_be_there() {
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
            r#"{"unique_id": "a", "ind": 1}"#,
            missing("index"),
        ),
        (Kind::Geo, r#"{"ind": 1}"#, None),
        (Kind::Geo, r#"{"index": 1}"#, missing("ind")),
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
fn the_first_reason_to_reject_is_given() {
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
