//! Property tests of cleaning.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Record;

const LIMIT: usize = 1 << 20;

/// The raw record with the values of a clean record.
fn raw(record: &Record<'_>) -> String {
    let time = |micros: &Option<i64>| micros.map(iso);
    match record {
        Record::Pin(pin) => json!({
            "unique_id": pin.unique_id, "index": pin.index_id, "title": pin.title,
            "category": pin.category, "description": pin.description,
            "poster_name": pin.poster_name, "follower_count": pin.follower_count,
            "tag_list": pin.tag_list, "is_image_or_video": pin.is_image_or_video,
            "image_src": pin.image_src, "downloaded": pin.downloaded,
            "save_location": pin.save_location,
        }),
        Record::Geo(geo) => json!({
            "ind": geo.ind, "country": geo.country, "timestamp": time(&geo.timestamp),
            "latitude": geo.coordinates.map(|at| at[0]),
            "longitude": geo.coordinates.map(|at| at[1]),
        }),
        Record::User(user) => json!({
            "ind": user.ind, "first_name": user.user_name, "age": user.age,
            "date_joined": time(&user.date_joined),
        }),
    }
    .to_string()
}

/// Microseconds since the epoch as ISO 8601, by counting years and months: an independent
/// implementation to compare with.
fn iso(micros: i64) -> String {
    let (mut days, rest) = (
        micros.div_euclid(86_400_000_000),
        micros.rem_euclid(86_400_000_000),
    );
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += if leap(year) { 366 } else { 365 };
    }
    while days >= if leap(year) { 366 } else { 365 } {
        days -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    for len in [
        31,
        if leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    let (second, micro) = (rest / 1_000_000, rest % 1_000_000);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{h:02}:{m:02}:{s:02}.{micro:06}Z",
        days + 1
    )
}

/// Field values: clean, dirty, or of another type.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "null", "true", "0", "1", "2", "-1", "7528", "7528.0", "1e3", "91.5", "-180", "1e999",
            "-0.0", "[]", "{\"a\":[1,{}]}", "\"\"", "\" \"", "\"7528\"", "\" 20 \"", "\"1.2M\"",
            "\"1,234\"", "\"lots\"", "\"User Info Error\"", "\"No Title Data Available\"",
            "\"Local save in /data\"", "\"Local save in\"", "\"Local save in Local save in /x\"",
            "\"2020-08-28 03:52:47\"", "\"2020-08-28T03:52:47.1234567+05:30\"", "\"yesterday\"",
            "\"caf\\u00e9\\u0000 \"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\"\\u2003a\\/b\\n\"",
            "\"Zoë\"",
        ]).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| json!(text).to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| json!(number).to_string()),
        1 => (-2_000_000_000_000_000i64..2_000_000_000_000_000)
            .prop_map(|micros| json!(iso(micros)).to_string()),
    ]
}

/// A kind and fields in any order, with unknown and repeated ones; half of the time with keys.
fn fields() -> impl Strategy<Value = (Kind, Vec<(&'static str, String)>)> {
    let fields = |kind: Kind| {
        let names: &'static [&'static str] = match kind {
            Kind::Pin => pin::FIELDS,
            Kind::Geo => geo::FIELDS,
            Kind::User => user::FIELDS,
        };
        let name = prop_oneof![9 => prop::sample::select(names), 1 => Just("extra")];
        (
            Just(kind),
            prop::collection::vec((name, value()), 0..20),
            any::<bool>(),
        )
    };
    prop::sample::select(&Kind::ALL[..])
        .prop_flat_map(fields)
        .prop_map(|(kind, mut fields, keyed)| {
            if keyed {
                let keys = [
                    ("unique_id", "\"fbe53c66\""),
                    ("index", "7528"),
                    ("ind", "\"7528\""),
                ];
                fields.extend(keys.map(|(name, value)| (name, value.to_owned())));
            }
            (kind, fields)
        })
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn record() -> impl Strategy<Value = (Kind, String)> {
    fields().prop_map(|(kind, fields)| (kind, object(&fields)))
}

/// Bytes close to JSON: a record with some bytes replaced, removed or inserted.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        prop::sample::select(&b"{}[]\",:\\u0123eE+-. \n\ttruefalsn\x00\x1f\x7f\x80\xff"[..]),
        any::<u8>()
    ];
    let edit = (any::<prop::sample::Index>(), 0..3, byte);
    (record(), prop::collection::vec(edit, 0..4)).prop_map(|((_, json), edits)| {
        let mut bytes = json.into_bytes();
        for (at, edit, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

fn agrees_with_serde_json(bytes: &[u8]) {
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
        && str::from_utf8(bytes).is_ok();
    for kind in Kind::ALL {
        let cleaned = clean(kind, bytes, LIMIT);
        let refused = matches!(cleaned, Err(Rejection::NotJson | Rejection::NotUtf8));
        assert_eq!(
            refused,
            !is_json,
            "{:?} gave {cleaned:?}",
            String::from_utf8_lossy(bytes)
        );
        assert_eq!(
            record_key(kind, bytes, LIMIT),
            cleaned.map(|cleaned| cleaned.record.key().into_owned())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    #[test]
    fn any_bytes_are_json_or_rejected(bytes: Vec<u8>) {
        agrees_with_serde_json(&bytes);
    }

    #[test]
    fn what_serde_json_rejects_is_rejected(bytes in mutated()) {
        agrees_with_serde_json(&bytes);
    }

    /// Cleaning is idempotent, except for `save_location`: each cleaning removes one prefix.
    #[test]
    fn cleaning_a_clean_record_changes_nothing((kind, json) in record()) {
        let Ok(first) = clean(kind, json.as_bytes(), LIMIT) else { return Ok(()) };
        let again = raw(&first.record);
        let mut second = clean(kind, again.as_bytes(), LIMIT)
            .map_err(|rejection| TestCaseError::fail(rejection.to_string()))?;
        if let (Record::Pin(first), Record::Pin(second)) = (&first.record, &mut second.record)
            && first.save_location.as_ref().is_some_and(|path| path.starts_with("Local save in"))
        {
            second.save_location.clone_from(&first.save_location);
        }
        prop_assert_eq!(&second.record, &first.record);
        prop_assert!(second.repairs.is_empty());
    }

    #[test]
    fn the_last_value_of_a_repeated_name_counts((kind, fields) in fields()) {
        let last: Vec<_> = fields.iter().enumerate()
            .filter(|(at, (name, _))| fields[at + 1..].iter().all(|(later, _)| later != name))
            .map(|(_, field)| field.clone())
            .collect();
        let (all, last) = (object(&fields), object(&last));
        prop_assert_eq!(clean(kind, all.as_bytes(), LIMIT), clean(kind, last.as_bytes(), LIMIT));
    }

    #[test]
    fn removing_line_breaks_keeps_the_record((kind, json) in record()) {
        let spread = json.replace(',', "\r\n,\n").replace('}', "\n}");
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(&spread) {
            let line = crate::single_line(spread.as_bytes());
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            let read = serde_json::from_slice::<serde_json::Value>(&line);
            prop_assert_eq!(read.ok(), Some(value));
            let of_several_lines = clean(kind, spread.as_bytes(), LIMIT);
            prop_assert_eq!(clean(kind, &line, LIMIT), of_several_lines);
        }
    }

    #[test]
    fn timestamps_are_parsed_as_they_are_written(
        micros in -62_135_596_800_000_000i64..253_402_300_800_000_000,
    ) {
        prop_assert_eq!(crate::time::timestamp(&iso(micros)), Some(micros));
    }
}
