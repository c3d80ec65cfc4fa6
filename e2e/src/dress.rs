//! Clean values in the dress of a careless client: the forms of the contract that all mean the
//! same.
//!
//! Each function takes what a field shall mean and gives a JSON token for it. So what is expected
//! is known before the JSON is.

use chrono::{DateTime, TimeDelta};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// How a field stands in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dressed {
    /// It isn't there.
    Absent,
    /// It is there, as this JSON.
    Token(String),
    /// It is there and can't be read, or is out of range: the record counts as repaired.
    Broken(String),
}

/// The texts that mean "missing" whatever the field.
const MISSING: [&str; 3] = ["null", "\"\"", "\" \\t\\u00a0\""];

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

fn missing(rng: &mut StdRng) -> Dressed {
    if rng.random_bool(0.3) {
        Dressed::Absent
    } else {
        Dressed::Token(pick(rng, &MISSING).to_owned())
    }
}

/// One in five values that are not there is not there because it can't be read.
fn unreadable(rng: &mut StdRng, values: &[&str]) -> Option<Dressed> {
    rng.random_bool(0.2)
        .then(|| Dressed::Broken(pick(rng, values).to_owned()))
}

/// A text; `texts` mean "missing" in this field.
pub fn text(rng: &mut StdRng, value: Option<&str>, texts: &[&str]) -> Dressed {
    let Some(value) = value else {
        if let Some(broken) = unreadable(rng, &[r#"{"a": "b"}"#, r#"["a"]"#, r#""\ud83d alone""#]) {
            return broken;
        }
        return match texts.choose(rng) {
            Some(text) if rng.random_bool(0.6) => {
                let space = pick(rng, &["", "", " ", "\n"]);
                Dressed::Token(quoted(&format!("{space}{text}{space}")))
            }
            _ => missing(rng),
        };
    };
    let bare = serde_json::from_str::<serde_json::Value>(value)
        .is_ok_and(|v| v.is_number() || v.is_boolean());
    Dressed::Token(match rng.random_range(0..10) {
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

/// An integer that has to be there, such as a key.
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

/// An age, years.
pub fn age(rng: &mut StdRng, value: Option<i64>) -> Dressed {
    match value {
        Some(value) => Dressed::Token(key_integer(rng, value)),
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
pub fn downloaded(rng: &mut StdRng, value: Option<i64>) -> Dressed {
    match value {
        Some(value) if rng.random_bool(0.3) => Dressed::Token((value == 1).to_string()),
        Some(value) => Dressed::Token(key_integer(rng, value)),
        None => unreadable(rng, &["2", "-1", "\"yes\"", "{}"]).unwrap_or_else(|| missing(rng)),
    }
}

/// A follower count, not negative.
pub fn follower_count(rng: &mut StdRng, value: Option<i64>) -> Dressed {
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
            None if rng.random_bool(0.6) => Dressed::Token("\"User Info Error\"".to_owned()),
            None => missing(rng),
        };
    };
    let (unit, digits, letter) = match rng.random_range(0..9) {
        0 => return Dressed::Token(value.to_string()),
        1 => return Dressed::Token(format!("\"{value}\"")),
        2 => return Dressed::Token(format!("\" {} \"", grouped(value))),
        3..6 => (1_000, 3, ["k", "K"]),
        6..8 => (1_000_000, 6, ["M", "m"]),
        _ => (1_000_000_000, 9, ["B", "b"]),
    };
    let mut fraction = format!("{:0digits$}", value % unit);
    if rng.random_bool(0.3) {
        // Past the last digit that counts: cut off, never rounded.
        fraction.push(pick(rng, &["1", "5", "9"]).chars().next().unwrap_or('9'));
    } else {
        fraction.truncate(fraction.trim_end_matches('0').len());
    }
    let point = if fraction.is_empty() { "" } else { "." };
    Dressed::Token(format!(
        "\"{}{point}{fraction}{}\"",
        value / unit,
        pick(rng, &letter)
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
pub fn save_location(rng: &mut StdRng, value: Option<&str>) -> Dressed {
    match value {
        Some(value) => Dressed::Token(quoted(&format!(
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
            None if rng.random_bool(0.5) => Dressed::Token("\"Local save in  \"".to_owned()),
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

/// Latitude and longitude; none when one of them is missing or wrong.
pub fn coordinates(rng: &mut StdRng, value: Option<[f64; 2]>) -> [Dressed; 2] {
    if let Some([latitude, longitude]) = value {
        return [
            Dressed::Token(degrees(rng, latitude)),
            Dressed::Token(degrees(rng, longitude)),
        ];
    }
    let good = Dressed::Token(degrees(rng, 12.5));
    match rng.random_range(0..4) {
        0 => [missing(rng), good],
        1 => [good, missing(rng)],
        2 => [
            Dressed::Broken(pick(rng, &["90.0001", "-91", "\"north\"", "[1]"]).to_owned()),
            good,
        ],
        _ => [
            good,
            Dressed::Broken(pick(rng, &["180.5", "\"-181\"", "\"12°\"", "false"]).to_owned()),
        ],
    }
}

/// A time, microseconds since the epoch.
pub fn time(rng: &mut StdRng, micros: Option<i64>) -> Dressed {
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
    Dressed::Token(format!(
        "\"{}{separator}{}{fraction}{zone}\"",
        local.format("%Y-%m-%d"),
        local.format("%H:%M:%S")
    ))
}

/// An object written as a careless client would: fields in any order, some that nobody knows, some
/// given twice (the last one counts). `spread` puts every field on a line of its own.
pub fn object(rng: &mut StdRng, fields: Vec<(&str, Dressed)>, spread: bool) -> String {
    let mut written: Vec<(String, String)> = Vec::new();
    for (name, dressed) in fields {
        if let Dressed::Token(token) | Dressed::Broken(token) = dressed {
            let place = rng.random_range(0..=written.len());
            written.insert(place, (name.to_owned(), token));
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
        let place = rng.random_range(0..=written.len());
        written.insert(
            place,
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
