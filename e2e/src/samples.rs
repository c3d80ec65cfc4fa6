//! Records whose clean rows are known: the row is drawn first, then written as raw JSON.

use std::ops::Range;

use chrono::{NaiveDate, NaiveTime};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    Kind,
    postgres::Row,
    raw_json::{self, RawField},
};

/// A record, and the clean row expected of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its kind.
    pub kind: Kind,
    /// The canonical key, as in Kafka records and tables.
    pub key: String,
    /// The record as posted.
    pub raw: String,
    /// The clean row.
    pub row: Row,
    /// Whether a value can't be read or is out of range, so that the record counts as repaired.
    pub repaired: bool,
}

/// A generator of samples; the same seed gives the same samples.
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

/// The fields of a record by name.
struct Fields(Vec<(&'static str, RawField)>);

impl Fields {
    fn add(&mut self, name: &'static str, field: RawField) {
        self.0.push((name, field));
    }

    fn repaired(&self) -> bool {
        self.0
            .iter()
            .any(|(_, field)| matches!(field, RawField::Unreadable(_)))
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

    /// A record whose key is determined by kind and number; its other values are random. Pins have
    /// an index in `0..people`.
    pub fn make(&mut self, kind: Kind, number: i64, people: i64) -> Sample {
        match kind {
            Kind::Pin => self.pin(number, people),
            Kind::Geo => self.geo(number),
            Kind::User => self.user(number),
        }
    }

    /// A record for each number, followed by `repeats` more for random numbers among them.
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
            raw: raw_json::object(&mut self.rng, fields.0, spread),
            row,
            repaired,
        }
    }

    fn pin(&mut self, number: i64, people: i64) -> Sample {
        let unique_id = format!("{number:08x}-3442-4773-b19e-d3ec6f54dddf");
        // Two of three pins have a random person, whom others may have, too.
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
        fields.add("unique_id", RawField::Token(id));
        let names = ["index", "ind"];
        fields.0.extend(raw_json::shared_number(rng, names, index));
        fields.add(
            "title",
            raw_json::text(rng, title, &["No Title Data Available"]),
        );
        fields.add("category", raw_json::text(rng, category, &[]));
        let no_description = [
            "No description available",
            "No description available Story format",
        ];
        fields.add(
            "description",
            raw_json::text(rng, description.as_deref(), &no_description),
        );
        fields.add(
            "poster_name",
            raw_json::text(rng, poster.as_deref(), &["User Info Error"]),
        );
        fields.add("follower_count", raw_json::follower_count(rng, followers));
        fields.add(
            "tag_list",
            raw_json::text(rng, tags.as_deref(), &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"]),
        );
        fields.add("is_image_or_video", raw_json::text(rng, media, &[]));
        fields.add(
            "image_src",
            raw_json::text(rng, image.as_deref(), &["Image src error."]),
        );
        fields.add("downloaded", raw_json::downloaded(rng, downloaded));
        fields.add(
            "save_location",
            raw_json::save_location(rng, location.as_deref()),
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
            // Adding 0.0 turns -0.0 into 0.0.
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
        let mut fields = Fields(raw_json::shared_number(rng, ["ind", "index"], ind));
        fields.add("country", raw_json::text(rng, country, &[]));
        let [latitude, longitude] = raw_json::coordinates(rng, coordinates);
        fields.add("latitude", latitude);
        fields.add("longitude", longitude);
        fields.add("timestamp", raw_json::time(rng, timestamp));
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
        let mut fields = Fields(raw_json::shared_number(rng, ["ind", "index"], ind));
        fields.add("first_name", raw_json::text(rng, first, &[]));
        fields.add("last_name", raw_json::text(rng, last, &[]));
        fields.add("age", raw_json::age(rng, age));
        fields.add("date_joined", raw_json::time(rng, joined));
        self.finish(Kind::User, ind.to_string(), fields, row)
    }

    /// A time in these years, in whole seconds, milliseconds or microseconds; sometimes the first
    /// or last microsecond of a year.
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

/// A row as Cassandra stores it: timestamps in milliseconds since the epoch.
#[must_use]
pub fn in_milliseconds(kind: Kind, mut row: Row) -> Row {
    if let Some(value) = kind.time_column().and_then(|n| row.get_mut(n)) {
        *value = value
            .as_i64()
            .map_or(Value::Null, |micros| json!(micros.div_euclid(1_000)));
    }
    row
}
