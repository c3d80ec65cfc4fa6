//! Generates the three records of a user with typical dirty values: placeholder texts, numbers as
//! strings, follower counts in every format, dates in several formats, values out of range, and
//! fields that are absent, null or unknown.
//!
//! Every record has a readable key, so none is rejected.

use std::fmt::Write as _;

use pinpipe_core::Kind;

use crate::{
    draw::Draw,
    words::{CATEGORIES, COUNTRIES, FIRST_NAMES, LAST_NAMES, WORDS},
};

/// Generates users' records. The same seed produces the same records.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    seed: u64,
}

/// A user's records as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triple {
    /// The pin. Its `unique_id` is unique, its `index` nearly always the user's number.
    pub pin: String,
    /// The geo record. Its `ind` is the user's number.
    pub geo: String,
    /// The user record. Its `ind` is the user's number.
    pub user: String,
}

impl Triple {
    /// The record of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &str {
        match kind {
            Kind::Pin => &self.pin,
            Kind::Geo => &self.geo,
            Kind::User => &self.user,
        }
    }
}

impl Generator {
    /// A generator for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The records of the user with this number, counted from 0.
    #[must_use]
    pub fn user(&self, number: u64) -> Triple {
        let mut draw = Draw::new(self.seed, number);
        Triple {
            pin: pin(&mut draw, number),
            geo: geo(&mut draw, number),
            user: user(&mut draw, number),
        }
    }
}

/// A JSON object being built: names and JSON values.
struct Object(Vec<(&'static str, String)>);

impl Object {
    fn put(&mut self, name: &'static str, value: impl Into<Option<String>>) {
        if let Some(value) = value.into() {
            self.0.push((name, value));
        }
    }

    /// Serializes the object, sometimes with an unknown field, in another order or on several
    /// lines.
    fn finish(mut self, draw: &mut Draw) -> String {
        if draw.chance(0.03) {
            self.put(
                "source",
                draw.one_of(&[
                    "\"app\"",
                    "7",
                    "null",
                    r#"{"device": {"os": "android", "tags": ["a", "b"]}}"#,
                ])
                .to_owned(),
            );
        }
        if draw.chance(0.1) {
            draw.shuffle(&mut self.0);
        }
        let gap = if draw.chance(0.01) { ",\n  " } else { ", " };
        let fields: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        format!("{{{}}}", fields.join(gap))
    }
}

fn pin(draw: &mut Draw, number: u64) -> String {
    let mut object = Object(Vec::with_capacity(13));
    let (category, tags) = draw.one_of(&CATEGORIES);
    // A few pins belong to a user who already has one.
    let index = if number > 0 && draw.chance(0.03) {
        draw.below(number)
    } else {
        number
    };
    object.put("index", key(draw, index));
    let id = unique_id(draw);
    object.put(
        "unique_id",
        if draw.chance(0.01) {
            text(&format!(" {id}\n"))
        } else {
            text(&id)
        },
    );
    object.put(
        "title",
        or_missing(draw, &["No Title Data Available"], |draw| {
            text(&words(draw, 3, 9))
        }),
    );
    let no_description = [
        "No description available",
        "No description available Story format",
    ];
    object.put(
        "description",
        or_missing(draw, &no_description, |draw| text(&words(draw, 5, 30))),
    );
    let poster = or_missing(draw, &["User Info Error"], |draw| {
        text(&format!(
            "{} {}",
            draw.one_of(&FIRST_NAMES),
            draw.one_of(&LAST_NAMES)
        ))
    });
    object.put("poster_name", poster);
    object.put(
        "follower_count",
        or_missing(draw, &["User Info Error"], follower_count),
    );
    object.put(
        "tag_list",
        or_missing(draw, &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"], |_| text(tags)),
    );
    let media = draw.one_of(&[
        "image",
        "image",
        "image",
        "video",
        "multi-video(story page format)",
    ]);
    object.put("is_image_or_video", text(media));
    let image = or_missing(draw, &["Image src error."], |draw| {
        text(&format!(
            "https://i.pinimg.com/originals/{:02x}/{:08x}.jpg",
            draw.below(256),
            draw.below(1 << 32)
        ))
    });
    object.put("image_src", image);
    object.put("downloaded", downloaded(draw));
    object.put("save_location", save_location(draw, category));
    object.put("category", or_missing(draw, &[], |_| text(category)));
    object.finish(draw)
}

fn geo(draw: &mut Draw, number: u64) -> String {
    let mut object = Object(Vec::with_capacity(6));
    object.put("ind", key(draw, number));
    object.put(
        "timestamp",
        or_missing(draw, &[], |draw| timestamp(draw, 2017, 2023)),
    );
    object.put("latitude", degrees(draw, 90));
    object.put("longitude", degrees(draw, 180));
    object.put(
        "country",
        or_missing(draw, &[], |draw| text(draw.one_of(&COUNTRIES))),
    );
    object.finish(draw)
}

fn user(draw: &mut Draw, number: u64) -> String {
    let mut object = Object(Vec::with_capacity(6));
    object.put("ind", key(draw, number));
    object.put(
        "first_name",
        or_missing(draw, &[], |draw| text(draw.one_of(&FIRST_NAMES))),
    );
    object.put(
        "last_name",
        or_missing(draw, &[], |draw| text(draw.one_of(&LAST_NAMES))),
    );
    object.put("age", or_missing(draw, &[], age));
    object.put(
        "date_joined",
        or_missing(draw, &[], |draw| timestamp(draw, 2014, 2021)),
    );
    object.finish(draw)
}

/// Serializes a JSON string.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// Mostly `value`; otherwise one of the field's placeholder texts, an empty or blank string, null,
/// or no field (`None`).
fn or_missing(
    draw: &mut Draw,
    texts: &[&str],
    value: impl FnOnce(&mut Draw) -> String,
) -> Option<String> {
    match draw.below(100) {
        0 => None,
        1 => Some("null".to_owned()),
        2 => Some(
            draw.one_of(&["\"\"", "\"  \"", "\"\\u00a0\\t\""])
                .to_owned(),
        ),
        3..10 if !texts.is_empty() => Some(text(draw.one_of(texts))),
        _ => Some(value(draw)),
    }
}

/// An integer key in one of its formats. All of them are read as the same key.
fn key(draw: &mut Draw, number: u64) -> String {
    match draw.below(40) {
        0 => format!("\"{number}\""),
        1 => format!("\" {number} \""),
        2 => format!("\"+{number}.0\""),
        3 => format!("{number}.0"),
        4 => format!("\"000{number}\""),
        _ => number.to_string(),
    }
}

fn unique_id(draw: &mut Draw) -> String {
    let (high, low) = (draw.below(u64::MAX), draw.below(u64::MAX));
    let variant = 0x8000 | (low >> 48 & 0x3fff);
    format!(
        "{:08x}-{:04x}-4{:03x}-{variant:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

fn words(draw: &mut Draw, low: i64, high: i64) -> String {
    let mut sentence = String::new();
    for i in 0..draw.between(low, high) {
        if i > 0 {
            sentence.push(' ');
        }
        sentence.push_str(draw.one_of(&WORDS));
    }
    match draw.below(50) {
        0 => format!("  {sentence}\u{3000}"),
        1 => format!("{sentence}\0"),
        _ => sentence,
    }
}

fn follower_count(draw: &mut Draw) -> String {
    let thousands = draw.between(1, 999);
    match draw.below(100) {
        0..40 => text(&format!("{thousands}k")),
        40..50 => text(&format!("{}M", draw.between(1, 20))),
        50 => text(&format!("{}B", draw.between(1, 3))),
        51..54 => text(&format!("{thousands}K")),
        54..60 => text(&format!("{}.{}M", draw.between(0, 9), draw.between(0, 9))),
        60..63 => text(&format!(
            "{}.{:04}k",
            draw.between(1, 99),
            draw.between(0, 9999)
        )),
        63..70 => text(&format!(
            "{},{:03}",
            draw.between(1, 99),
            draw.between(0, 999)
        )),
        70..78 => thousands.to_string(),
        78..98 => text(&thousands.to_string()),
        _ => draw
            .one_of(&[
                "\"lots\"",
                "-5",
                "\"1,23\"",
                "\"12 k\"",
                "[1]",
                "\"99999999999999999999\"",
            ])
            .to_owned(),
    }
}

fn downloaded(draw: &mut Draw) -> Option<String> {
    or_missing(draw, &[], |draw| {
        draw.one_of(&[
            "0", "1", "1", "1", "1", "\"1\"", "\" 0 \"", "true", "false", "2", "\"yes\"",
        ])
        .to_owned()
    })
}

fn save_location(draw: &mut Draw, category: &str) -> Option<String> {
    or_missing(draw, &[], |draw| match draw.below(40) {
        0 => text("Local save in "),
        1 => text(&format!("/data/{category}")),
        _ => text(&format!("Local save in /data/{category}")),
    })
}

/// Degrees, mostly within ±`limit`, as a number or a string, or missing.
fn degrees(draw: &mut Draw, limit: i64) -> Option<String> {
    or_missing(draw, &[], |draw| {
        let beyond = if draw.chance(0.01) { limit } else { 0 };
        let whole = draw.between(-limit + 1, limit - 1);
        let degrees = format!(
            "{}.{:04}",
            whole + whole.signum() * beyond,
            draw.between(0, 9999)
        );
        if draw.chance(0.05) {
            text(&format!(" {degrees} "))
        } else {
            degrees
        }
    })
}

fn age(draw: &mut Draw) -> String {
    match draw.below(60) {
        0 => draw
            .one_of(&["200", "-3", "\"151\"", "\"old\"", "20.5"])
            .to_owned(),
        1 => draw
            .one_of(&["0", "150", "17", "18", "25", "36", "50", "51"])
            .to_owned(),
        2 => format!("\"{}\"", draw.between(18, 60)),
        3 => format!("{}.0", draw.between(18, 60)),
        _ => draw.between(13, 75).to_string(),
    }
}

/// A timestamp, mostly in one of the readable formats.
fn timestamp(draw: &mut Draw, first_year: i64, last_year: i64) -> String {
    let date = format!(
        "{}-{:02}-{:02}",
        draw.between(first_year, last_year),
        draw.between(1, 12),
        draw.between(1, 28)
    );
    let time = format!(
        "{:02}:{:02}:{:02}",
        draw.between(0, 23),
        draw.between(0, 59),
        draw.between(0, 59)
    );
    let mut timestamp = String::new();
    // Writing to a String can't fail.
    let _ = match draw.below(60) {
        0 => write!(timestamp, "{date}T{time}"),
        1 => write!(timestamp, "{date}T{time}Z"),
        2 => write!(timestamp, "{date}T{time}+05:30"),
        3 => write!(timestamp, "{date} {time}.{:03}", draw.between(0, 999)),
        4 => write!(
            timestamp,
            "{date}T{time}.{:09}-0800",
            draw.between(0, 999_999_999)
        ),
        5 => write!(timestamp, " {date} {time} "),
        6 => write!(
            timestamp,
            "{}",
            draw.one_of(&[
                date.as_str(),
                "yesterday",
                "2020-02-30 10:00:00",
                "28/08/2020 03:52:47"
            ])
        ),
        _ => write!(timestamp, "{date} {time}"),
    };
    text(&timestamp)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use pinpipe_core::{Record, RepairReason, clean};

    use super::*;

    const USERS: u64 = 4000;

    #[test]
    fn a_seed_produces_the_same_users_in_any_order() {
        let generator = Generator::new(7);
        let later = generator.user(20);
        assert_eq!(generator.user(3), Generator::new(7).user(3));
        assert_eq!(later, Generator::new(7).user(20));
        assert_ne!(later, Generator::new(8).user(20));
    }

    #[test]
    fn every_record_has_a_unique_key() {
        for kind in Kind::ALL {
            let mut keys = HashSet::new();
            for number in 0..USERS {
                let triple = Generator::new(1).user(number);
                let key = pinpipe_core::record_key(kind, triple.of(kind).as_bytes(), 4096);
                assert!(keys.insert(key.unwrap()), "{}", triple.of(kind));
            }
        }
    }

    /// The records cause every kind of repair.
    #[test]
    fn every_kind_of_dirty_value_occurs() {
        let mut repairs: HashMap<(&str, RepairReason), u32> = HashMap::new();
        let (mut shared, mut followers) = (0, 0);
        for number in 0..USERS {
            let triple = Generator::new(1).user(number);
            for kind in Kind::ALL {
                let cleaned = clean(kind, triple.of(kind).as_bytes(), 4096).unwrap();
                for repair in cleaned.repairs.iter() {
                    *repairs.entry((repair.field, repair.reason)).or_default() += 1;
                }
                if let Record::Pin(pin) = &cleaned.record {
                    shared += u32::from(pin.index_id != i64::try_from(number).unwrap());
                    followers += u32::from(pin.follower_count.is_some());
                }
            }
        }
        for (field, reason) in [
            ("follower_count", RepairReason::Unreadable),
            ("follower_count", RepairReason::OutOfRange),
            ("downloaded", RepairReason::OutOfRange),
            ("timestamp", RepairReason::Unreadable),
            ("latitude", RepairReason::OutOfRange),
            ("longitude", RepairReason::OutOfRange),
            ("age", RepairReason::OutOfRange),
            ("age", RepairReason::Unreadable),
            ("date_joined", RepairReason::Unreadable),
        ] {
            assert!(
                repairs.contains_key(&(field, reason)),
                "{field} {reason:?}: {repairs:?}"
            );
        }
        assert!(
            shared > 0 && f64::from(followers) > 0.8 * USERS as f64,
            "{shared} {followers}"
        );
    }
}
