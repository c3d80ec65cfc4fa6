//! Records whose clean rows are known: the row is made first, then dressed.

use std::ops::Range;

use chrono::{NaiveDate, NaiveTime};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    Kind,
    dress::{self, Dressed},
    postgres::Row,
};

/// A record, and what it shall come out as.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its kind.
    pub kind: Kind,
    /// The canonical key, as in the broker's records and the tables.
    pub key: String,
    /// The record as posted.
    pub raw: String,
    /// The clean row: columns in the contract's order, timestamps in microseconds since the epoch.
    pub row: Row,
    /// Whether a value of it can't be read or is out of range.
    pub repaired: bool,
}

/// Makes samples; the same seed makes the same ones.
pub struct Samples {
    rng: StdRng,
}

const CATEGORIES: [&str; 8] = [
    "art",
    "beauty",
    "mens-fashion",
    "Travel",
    "éducation",
    "finance",
    "ärzte",
    "diy-and-crafts",
];
const COUNTRIES: [&str; 8] = [
    "Albania",
    "Zimbabwe",
    "Åland",
    "Côte d'Ivoire",
    "Peru",
    "India",
    "日本",
    "Viet Nam",
];
const NAMES: [&str; 8] = [
    "Abigail",
    "Zoë",
    "O'Brien",
    "Ali",
    "Nguyễn",
    "van der Berg",
    "李",
    "Müller",
];
const TITLES: [&str; 7] = [
    "Ten ideas",
    "Quote \" and \\ back",
    "emoji 🎉 party",
    "42",
    "true",
    "No title data available",
    "tab\there",
];

/// What dresses a record: collects fields and whether one of them is broken.
struct Fields(Vec<(&'static str, Dressed)>);

impl Fields {
    fn add(&mut self, name: &'static str, dressed: Dressed) {
        self.0.push((name, dressed));
    }

    fn repaired(&self) -> bool {
        self.0
            .iter()
            .any(|(_, dressed)| matches!(dressed, Dressed::Broken(_)))
    }
}

impl Samples {
    /// Samples of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A record of a kind and number; again the same number, another record of the same key. Pins
    /// have the indexes of `0..people`.
    pub fn make(&mut self, kind: Kind, number: i64, people: i64) -> Sample {
        match kind {
            Kind::Pin => self.pin(number, people),
            Kind::Geo => self.geo(number),
            Kind::User => self.user(number),
        }
    }

    /// `0..count` once, and `repeats` of them once more at the end.
    pub fn batch(&mut self, kind: Kind, numbers: Range<i64>, repeats: usize) -> Vec<Sample> {
        let people = numbers.end;
        let mut samples: Vec<Sample> = numbers
            .clone()
            .map(|number| self.make(kind, number, people))
            .collect();
        for _ in 0..repeats {
            let number = self.rng.random_range(numbers.clone());
            samples.push(self.make(kind, number, people));
        }
        samples
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        self.rng.random_bool(0.85).then(|| value(&mut self.rng))
    }

    fn one_of(&mut self, of: &[&'static str]) -> Option<&'static str> {
        self.maybe(|rng| of.choose(rng).copied()).flatten()
    }

    fn finish(&mut self, kind: Kind, key: String, fields: Fields, row: Row) -> Sample {
        let repaired = fields.repaired();
        let spread = self.rng.random_bool(0.05);
        Sample {
            kind,
            key,
            raw: dress::object(&mut self.rng, fields.0, spread),
            row,
            repaired,
        }
    }

    fn pin(&mut self, number: i64, people: i64) -> Sample {
        let unique_id = format!("{number:08x}-3442-4773-b19e-d3ec6f54dddf");
        // Two pins in three share their person with another one.
        let index = if number % 3 == 0 {
            number
        } else {
            self.rng.random_range(0..people)
        };
        let title = self.one_of(&TITLES);
        let category = self.one_of(&CATEGORIES);
        let description = self.maybe(|rng| format!("about {}", rng.random_range(0..1_000_000)));
        let poster = self.maybe(|rng| format!("poster {}", rng.random_range(0..200)));
        let followers = self.maybe(|rng| match rng.random_range(0..5) {
            0 => rng.random_range(0..1_000),
            1 => rng.random_range(0..1_000) * 1_000,
            2 => rng.random_range(1_000..5_000_000),
            3 => rng.random_range(0..10) * 1_000_000,
            _ => rng.random_range(0..5_000_000_000),
        });
        let tags = self.maybe(|rng| {
            format!(
                "tag{},tag{}",
                rng.random_range(0..50),
                rng.random_range(0..50)
            )
        });
        let media = self.one_of(&["image", "video", "multi-video(story page format)"]);
        let image = self.maybe(|rng| format!("https://i.example/{}.jpg", rng.random::<u32>()));
        let downloaded = self.maybe(|rng| i64::from(rng.random_bool(0.5)));
        let location = category
            .filter(|_| self.rng.random_bool(0.9))
            .map(|category| format!("/data/{category}"));
        let row = vec![
            json!(unique_id),
            json!(index),
            json!(title),
            json!(category),
            json!(description),
            json!(poster),
            json!(followers),
            json!(tags),
            json!(media),
            json!(image),
            json!(downloaded),
            json!(location),
        ];
        let rng = &mut self.rng;
        let mut fields = Fields(Vec::new());
        let id = if rng.random_bool(0.05) {
            format!("\" {unique_id}\\n\"")
        } else {
            format!("\"{unique_id}\"")
        };
        fields.add("unique_id", Dressed::Token(id));
        fields.add("index", Dressed::Token(dress::key_integer(rng, index)));
        fields.add(
            "title",
            dress::text(rng, title, &["No Title Data Available"]),
        );
        fields.add("category", dress::text(rng, category, &[]));
        let no_description = [
            "No description available",
            "No description available Story format",
        ];
        fields.add(
            "description",
            dress::text(rng, description.as_deref(), &no_description),
        );
        fields.add(
            "poster_name",
            dress::text(rng, poster.as_deref(), &["User Info Error"]),
        );
        fields.add("follower_count", dress::follower_count(rng, followers));
        fields.add(
            "tag_list",
            dress::text(rng, tags.as_deref(), &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"]),
        );
        fields.add("is_image_or_video", dress::text(rng, media, &[]));
        fields.add(
            "image_src",
            dress::text(rng, image.as_deref(), &["Image src error."]),
        );
        fields.add("downloaded", dress::downloaded(rng, downloaded));
        fields.add(
            "save_location",
            dress::save_location(rng, location.as_deref()),
        );
        self.finish(Kind::Pin, unique_id, fields, row)
    }

    fn geo(&mut self, ind: i64) -> Sample {
        let country = self.one_of(&COUNTRIES);
        let coordinates = self.maybe(|rng| {
            let [lat, lon] = [
                rng.random_range(-900_000..=900_000),
                rng.random_range(-1_800_000..=1_800_000),
            ];
            // Minus zero is not something a client means.
            [
                f64::from(lat) / 10_000.0 + 0.0,
                f64::from(lon) / 10_000.0 + 0.0,
            ]
        });
        let timestamp = self.time(2016..2025);
        let row = vec![
            json!(ind),
            json!(country),
            json!(coordinates),
            json!(timestamp),
        ];
        let rng = &mut self.rng;
        let mut fields = Fields(vec![("ind", Dressed::Token(dress::key_integer(rng, ind)))]);
        fields.add("country", dress::text(rng, country, &[]));
        let [latitude, longitude] = dress::coordinates(rng, coordinates);
        fields.add("latitude", latitude);
        fields.add("longitude", longitude);
        fields.add("timestamp", dress::time(rng, timestamp));
        self.finish(Kind::Geo, ind.to_string(), fields, row)
    }

    fn user(&mut self, ind: i64) -> Sample {
        let (first, last) = (self.one_of(&NAMES), self.one_of(&NAMES));
        let name = match (first, last) {
            (Some(first), Some(last)) => Some(format!("{first} {last}")),
            (one, other) => one.or(other).map(str::to_owned),
        };
        let age = self.maybe(|rng| {
            if rng.random_bool(0.05) {
                rng.random_range(0..=150)
            } else {
                rng.random_range(12..70)
            }
        });
        let joined = self.time(2013..2023);
        let row = vec![json!(ind), json!(name), json!(age), json!(joined)];
        let rng = &mut self.rng;
        let mut fields = Fields(vec![("ind", Dressed::Token(dress::key_integer(rng, ind)))]);
        fields.add("first_name", dress::text(rng, first, &[]));
        fields.add("last_name", dress::text(rng, last, &[]));
        fields.add("age", dress::age(rng, age));
        fields.add("date_joined", dress::time(rng, joined));
        self.finish(Kind::User, ind.to_string(), fields, row)
    }

    /// A time in these years: whole seconds, milliseconds or microseconds, and now and then the
    /// very edge of a year.
    fn time(&mut self, years: Range<i32>) -> Option<i64> {
        self.maybe(|rng| {
            let start = |year| {
                NaiveDate::from_ymd_opt(year, 1, 1)
                    .map(|day| day.and_time(NaiveTime::MIN).and_utc())
            };
            let year = rng.random_range(years);
            let (from, to) = (
                start(year)?.timestamp_micros(),
                start(year + 1)?.timestamp_micros(),
            );
            Some(match rng.random_range(0..6) {
                0 => from,
                1 => to - 1,
                2 => rng.random_range(from..to),
                3 => rng.random_range(from / 1_000..to / 1_000) * 1_000,
                _ => rng.random_range(from / 1_000_000..to / 1_000_000) * 1_000_000,
            })
        })
        .flatten()
    }
}

/// A row as Cassandra keeps it: timestamps in milliseconds.
#[must_use]
pub fn in_milliseconds(kind: Kind, mut row: Row) -> Row {
    if let Some(value) = kind.time_column().and_then(|n| row.get_mut(n)) {
        *value = value
            .as_i64()
            .map_or(Value::Null, |micros| json!(micros.div_euclid(1_000)));
    }
    row
}
