//! One user's three records, dirty as domain data is: every text that means missing, numbers as
//! texts, follower counts in every form, dates in several formats, values out of range, fields that
//! are absent, null or unknown.
//!
//! Every record has a readable key, so none of them is refused.

use std::fmt::Write as _;

use pinpipe_core::Kind;

use crate::{
    draw::Draw,
    words::{CATEGORIES, COUNTRIES, FIRST_NAMES, LAST_NAMES, WORDS},
};

/// Makes users' records; the same seed makes the same ones.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    seed: u64,
}

/// One user's records, as JSON texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triple {
    /// The pin; its `unique_id` is its own, its `index` nearly always the user's number.
    pub pin: String,
    /// Where it was posted; its `ind` is the user's number.
    pub geo: String,
    /// Who posted it; its `ind` is the user's number.
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

    /// The records of the user with this number, from 0.
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

/// A JSON object while it is written: names and values, the values as JSON.
struct Object(Vec<(&'static str, String)>);

impl Object {
    fn put(&mut self, name: &'static str, value: impl Into<Option<String>>) {
        if let Some(value) = value.into() {
            self.0.push((name, value));
        }
    }

    /// The object's text: sometimes with a field nobody knows, in another order, or over several
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
    // A few pins belong to a user who has one already.
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
        or_missing(draw, &[], |draw| moment(draw, 2017, 2023)),
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
        or_missing(draw, &[], |draw| moment(draw, 2014, 2021)),
    );
    object.finish(draw)
}

/// A JSON text.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// Mostly the value; else one of the field's texts for missing, an empty or blank one, null, or
/// nothing at all (none).
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

/// An integer key in one of its forms, all canonical to the same text.
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

/// Degrees within ± `limit`, now and then beyond, as a number or a text, or missing.
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

/// A moment in one of the formats that can be read, and now and then in one that can't.
fn moment(draw: &mut Draw, first_year: i64, last_year: i64) -> String {
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
    let mut moment = String::new();
    // Writing to a String can't fail.
    let _ = match draw.below(60) {
        0 => write!(moment, "{date}T{time}"),
        1 => write!(moment, "{date}T{time}Z"),
        2 => write!(moment, "{date}T{time}+05:30"),
        3 => write!(moment, "{date} {time}.{:03}", draw.between(0, 999)),
        4 => write!(
            moment,
            "{date}T{time}.{:09}-0800",
            draw.between(0, 999_999_999)
        ),
        5 => write!(moment, " {date} {time} "),
        6 => write!(
            moment,
            "{}",
            draw.one_of(&[
                date.as_str(),
                "yesterday",
                "2020-02-30 10:00:00",
                "28/08/2020 03:52:47"
            ])
        ),
        _ => write!(moment, "{date} {time}"),
    };
    text(&moment)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use pinpipe_core::{Record, RepairReason, clean};

    use super::*;

    const USERS: u64 = 4000;

    #[test]
    fn a_seed_makes_the_same_users_in_any_order() {
        let generator = Generator::new(7);
        let later = generator.user(20);
        assert_eq!(generator.user(3), Generator::new(7).user(3));
        assert_eq!(later, Generator::new(7).user(20));
        assert_ne!(later, Generator::new(8).user(20));
    }

    #[test]
    fn every_record_has_a_key_of_its_own() {
        for kind in Kind::ALL {
            let mut keys = HashSet::new();
            for number in 0..USERS {
                let triple = Generator::new(1).user(number);
                let key = pinpipe_core::record_key(kind, triple.of(kind).as_bytes(), 4096);
                assert!(keys.insert(key.unwrap()), "{}", triple.of(kind));
            }
        }
    }

    /// Whatever cleaning has a rule for turns up: both reasons, in every field that has them.
    #[test]
    fn dirt_of_every_sort() {
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
