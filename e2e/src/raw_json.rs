//! Raw JSON as careless clients write it: the many notations of a clean value that the contract
//! accepts.
//!
//! Each function takes the clean value of a field and returns a JSON token for it. For a missing
//! value it may return one that can't be read.

use chrono::{DateTime, TimeDelta};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// The notation of a field in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawField {
    /// The record lacks the field.
    Absent,
    /// A JSON token.
    Token(String),
    /// A JSON token that can't be read or is out of range, so that the record counts as repaired.
    Unreadable(String),
}

/// The tokens that mean "missing" in every field.
const MISSING: [&str; 3] = ["null", "\"\"", "\" \\t\\u00a0\""];

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

fn missing(rng: &mut StdRng) -> RawField {
    if rng.random_bool(0.3) {
        RawField::Absent
    } else {
        RawField::Token(pick(rng, &MISSING).to_owned())
    }
}

/// For one of five missing values, one of `values`, which can't be read.
fn unreadable(rng: &mut StdRng, values: &[&str]) -> Option<RawField> {
    rng.random_bool(0.2)
        .then(|| RawField::Unreadable(pick(rng, values).to_owned()))
}

/// A text; `texts` are those that mean "missing" in this field.
pub fn text(rng: &mut StdRng, value: Option<&str>, texts: &[&str]) -> RawField {
    let Some(value) = value else {
        if let Some(broken) = unreadable(rng, &[r#"{"a": "b"}"#, r#"["a"]"#, r#""\ud83d alone""#]) {
            return broken;
        }
        return match texts.choose(rng) {
            Some(text) if rng.random_bool(0.6) => {
                let space = pick(rng, &["", "", " ", "\n"]);
                RawField::Token(quoted(&format!("{space}{text}{space}")))
            }
            _ => missing(rng),
        };
    };
    let bare = serde_json::from_str::<serde_json::Value>(value)
        .is_ok_and(|v| v.is_number() || v.is_boolean());
    RawField::Token(match rng.random_range(0..10) {
        0..3 if bare => value.to_owned(),
        0 => quoted(&format!(" \u{3000}{value}\t\u{2003}")),
        1 => quoted(&format!("\0{value}\0 ")),
        2 => {
            let units: Vec<String> = value
                .encode_utf16()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect();
            format!("\"{}\"", units.concat())
        }
        _ => quoted(value),
    })
}

/// An integer that is always present, such as a key.
pub fn key_integer(rng: &mut StdRng, value: i64) -> String {
    match rng.random_range(0..10) {
        0 => format!("\"{value}\""),
        1 => format!("\" {value}\\t\""),
        2 => format!("\"+{value}\""),
        3 => format!("\"{value}.0\""),
        4 => format!("\"00{value}\""),
        5 => format!("{value}.00"),
        _ => value.to_string(),
    }
}

/// The number that joins the kinds, under its kind's own name, under that of the other kinds, or
/// under both: then the own name counts.
pub fn shared_number(
    rng: &mut StdRng,
    [own, other]: [&'static str; 2],
    value: i64,
) -> Vec<(&'static str, RawField)> {
    let number = RawField::Token(key_integer(rng, value));
    let any = pick(rng, &["null", "-1", "\"seven\"", "[1]"]).to_owned();
    match rng.random_range(0..10) {
        0 => vec![(other, number)],
        1 => vec![(own, RawField::Token("null".to_owned())), (other, number)],
        2 => vec![(own, number), (other, RawField::Token(any))],
        _ => vec![(own, number)],
    }
}

/// An age, years.
pub fn age(rng: &mut StdRng, value: Option<i64>) -> RawField {
    match value {
        Some(value) => RawField::Token(key_integer(rng, value)),
        None => unreadable(
            rng,
            &[
                "200", "151", "-1", "\"old\"", "\"3e1\"", "20.5", "[20]", "true",
            ],
        )
        .unwrap_or_else(|| missing(rng)),
    }
}

/// Whether the image was downloaded: 0 or 1.
pub fn downloaded(rng: &mut StdRng, value: Option<i64>) -> RawField {
    match value {
        Some(value) if rng.random_bool(0.3) => RawField::Token((value == 1).to_string()),
        Some(value) => RawField::Token(key_integer(rng, value)),
        None => unreadable(rng, &["2", "-1", "\"yes\"", "{}"]).unwrap_or_else(|| missing(rng)),
    }
}

/// A follower count, not negative.
pub fn follower_count(rng: &mut StdRng, value: Option<i64>) -> RawField {
    let Some(value) = value else {
        let values = [
            "\"lots\"",
            "\"-5\"",
            "-5",
            "\"1,23\"",
            "\"12 k\"",
            "\"k\"",
            "\"99999999999B\"",
            "\"1e3\"",
            "[1]",
        ];
        return match unreadable(rng, &values) {
            Some(broken) => broken,
            None if rng.random_bool(0.6) => RawField::Token("\"User Info Error\"".to_owned()),
            None => missing(rng),
        };
    };
    let (unit, digits, suffixes) = match rng.random_range(0..9) {
        0 => return RawField::Token(value.to_string()),
        1 => return RawField::Token(format!("\"{value}\"")),
        2 => return RawField::Token(format!("\" {} \"", grouped(value))),
        3..6 => (1_000, 3, ["k", "K"]),
        6..8 => (1_000_000, 6, ["M", "m"]),
        _ => (1_000_000_000, 9, ["B", "b"]),
    };
    let mut fraction = format!("{:0digits$}", value % unit);
    if rng.random_bool(0.3) {
        // A digit below 1 is cut off, not rounded.
        fraction.push(pick(rng, &["1", "5", "9"]).chars().next().unwrap_or('9'));
    } else {
        fraction.truncate(fraction.trim_end_matches('0').len());
    }
    let point = if fraction.is_empty() { "" } else { "." };
    RawField::Token(format!(
        "\"{}{point}{fraction}{}\"",
        value / unit,
        pick(rng, &suffixes)
    ))
}

/// `1234567` as `1,234,567`.
fn grouped(value: i64) -> String {
    let digits = value.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|g| std::str::from_utf8(g).unwrap_or(""))
        .collect();
    groups.join(",")
}

/// Where the image was saved.
pub fn save_location(rng: &mut StdRng, value: Option<&str>) -> RawField {
    match value {
        Some(value) => RawField::Token(quoted(&format!(
            "{}{value}",
            pick(
                rng,
                &[
                    "Local save in ",
                    "Local save in ",
                    " Local save in \t ",
                    "Local save in",
                    ""
                ]
            )
        ))),
        None => match unreadable(rng, &[r#"{"path": "/data"}"#]) {
            Some(broken) => broken,
            None if rng.random_bool(0.5) => RawField::Token("\"Local save in  \"".to_owned()),
            None => missing(rng),
        },
    }
}

/// A coordinate, degrees.
fn degrees(rng: &mut StdRng, value: f64) -> String {
    match rng.random_range(0..5) {
        0 => format!("\"{value}\""),
        1 => format!("\" {value} \""),
        _ => format!("{value}"),
    }
}

/// Latitude and longitude. For a missing value, one of them is missing or can't be read.
pub fn coordinates(rng: &mut StdRng, value: Option<[f64; 2]>) -> [RawField; 2] {
    if let Some([latitude, longitude]) = value {
        return [
            RawField::Token(degrees(rng, latitude)),
            RawField::Token(degrees(rng, longitude)),
        ];
    }
    let good = RawField::Token(degrees(rng, 12.5));
    match rng.random_range(0..4) {
        0 => [missing(rng), good],
        1 => [good, missing(rng)],
        2 => [
            RawField::Unreadable(pick(rng, &["90.0001", "-91", "\"north\"", "[1]"]).to_owned()),
            good,
        ],
        _ => [
            good,
            RawField::Unreadable(pick(rng, &["180.5", "\"-181\"", "\"12°\"", "false"]).to_owned()),
        ],
    }
}

/// A time, microseconds since the epoch.
pub fn time(rng: &mut StdRng, micros: Option<i64>) -> RawField {
    let Some(time) = micros.and_then(DateTime::from_timestamp_micros) else {
        let values = [
            "\"yesterday\"",
            "\"2020-08-28\"",
            "\"2020-02-30 10:00:00\"",
            "\"2020-08-28 25:00:00\"",
            "1598586767",
            "{}",
        ];
        return unreadable(rng, &values).unwrap_or_else(|| missing(rng));
    };
    let (minutes, zone) = [
        (0, ""),
        (0, ""),
        (0, "Z"),
        (330, "+05:30"),
        (-480, "-0800"),
        (0, "+00:00"),
    ]
    .choose(rng)
    .copied()
    .unwrap_or_default();
    let local = time + TimeDelta::minutes(minutes);
    let separator = if zone.is_empty() {
        pick(rng, &[" ", "T"])
    } else {
        "T"
    };
    let fraction = match time.timestamp_subsec_micros() {
        0 => pick(rng, &["", "", ".000", ".0000009"]).to_owned(),
        micros if micros % 1000 == 0 => format!(".{:03}", micros / 1000),
        micros => format!(".{micros:06}{}", pick(rng, &["", "789"])),
    };
    RawField::Token(format!(
        "\"{}{separator}{}{fraction}{zone}\"",
        local.format("%Y-%m-%d"),
        local.format("%H:%M:%S")
    ))
}

/// An object with its fields in any order, sometimes with an unknown field, sometimes with a field
/// given twice (the last one counts). `spread` puts every field on a line of its own.
pub fn object(rng: &mut StdRng, fields: Vec<(&str, RawField)>, spread: bool) -> String {
    let mut written: Vec<(String, String)> = Vec::new();
    for (name, field) in fields {
        if let RawField::Token(token) | RawField::Unreadable(token) = field {
            let position = rng.random_range(0..=written.len());
            written.insert(position, (name.to_owned(), token));
        }
    }
    if rng.random_bool(0.1) {
        let (name, _) = written[rng.random_range(0..written.len())].clone();
        written.insert(
            0,
            (
                name,
                pick(rng, &["1", "\"first\"", "null", "{\"not\": \"this\"}"]).to_owned(),
            ),
        );
    }
    if rng.random_bool(0.2) {
        let position = rng.random_range(0..=written.len());
        written.insert(
            position,
            (
                "client_version".to_owned(),
                r#"{"name": "web", "tags": ["a\"b", 1.5e3]}"#.to_owned(),
            ),
        );
    }
    let (open, comma, close) = if spread {
        ("{\n  ", ",\n  ", "\n}")
    } else {
        ("{", ", ", "}")
    };
    let fields: Vec<String> = written
        .iter()
        .map(|(name, token)| format!("\"{name}\": {token}"))
        .collect();
    format!("{open}{}{close}", fields.join(comma))
}
