//! Synthetic records with typical dirty values. Deterministic.

use std::fmt::Write as _;

use pinpipe_core::{Kind, clean};

/// Raw records with their kinds.
pub struct Sample(Vec<(Kind, Vec<u8>)>);

impl Sample {
    /// `count` records that cycle through `kinds`.
    pub fn of(kinds: &[Kind], count: usize) -> Self {
        let mut dice = Dice(7528);
        let record = |kind| {
            let json = match kind {
                Kind::Pin => dice.pin(),
                Kind::Geo => dice.geo(),
                Kind::User => dice.user(),
            };
            (kind, json.into_bytes())
        };
        Self(
            kinds
                .iter()
                .copied()
                .cycle()
                .take(count)
                .map(record)
                .collect(),
        )
    }

    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, raw)| raw.len() as u64).sum()
    }

    pub fn each(&self, mut f: impl FnMut(Kind, &[u8])) {
        for (kind, raw) in &self.0 {
            f(*kind, raw);
        }
    }

    /// Describes the sample, and asserts that both decoders accept every record: otherwise the
    /// comparison would be unfair.
    pub fn summary(&self) -> String {
        let (mut repaired, mut escaped) = (0, 0);
        self.each(|kind, raw| {
            assert!(
                crate::plain::decode(kind, raw).is_ok(),
                "sonic-rs reads {}",
                String::from_utf8_lossy(raw)
            );
            let cleaned = clean(kind, raw, raw.len());
            assert!(
                cleaned.is_ok(),
                "{cleaned:?} for {}",
                String::from_utf8_lossy(raw)
            );
            repaired += usize::from(cleaned.is_ok_and(|cleaned| !cleaned.repairs.is_empty()));
            escaped += usize::from(raw.contains(&b'\\'));
        });
        let (count, bytes) = (self.0.len(), self.bytes());
        format!(
            "{count} records, {} bytes each, {repaired} repaired, {escaped} with escapes",
            bytes / count as u64
        )
    }
}

/// A pseudo-random generator (`SplitMix64`) of field values.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap_or_default()
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.roll(choices.len())]
    }

    /// `text`, or in one of `of` records one of `dirty`.
    fn dirty<'a>(&mut self, of: usize, dirty: &[&'a str], text: &'a str) -> &'a str {
        if self.roll(of) == 0 {
            self.one_of(dirty)
        } else {
            text
        }
    }

    fn words(&mut self, count: usize, between: &str) -> String {
        const WORDS: &[&str] = &[
            "outfits",
            "summer",
            "DIY",
            "for",
            "small",
            "kitchen",
            "ideas",
            "vintage",
            "the",
            "best",
            "tattoo",
            "quotes",
            "recipes",
            "home",
            "and",
            "travel",
            "Bougainvillea",
            "minimalist",
            "how",
            "to",
            "make",
            "café",
            "easy",
            "20",
        ];
        let words: Vec<_> = (0..count).map(|_| self.one_of(WORDS)).collect();
        words.join(between)
    }

    fn time(&mut self) -> String {
        let (year, month, day) = (2015 + self.roll(8), 1 + self.roll(12), 1 + self.roll(28));
        format!(
            "{year}-{month:02}-{day:02} {:02}:{:02}:{:02}",
            self.roll(24),
            self.roll(60),
            self.roll(60)
        )
    }

    fn pin(&mut self) -> String {
        let category = self.one_of(&[
            "mens-fashion",
            "travel",
            "diy-and-crafts",
            "art",
            "christmas",
            "education",
        ]);
        let title = match self.roll(20) {
            0 => "No Title Data Available".to_owned(),
            1 => r#"The \"best\" of caf\u00e9s"#.to_owned(),
            _ => {
                let count = 5 + self.roll(8);
                self.words(count, " ")
            }
        };
        let description = match self.roll(20) {
            0 => "No description available".to_owned(),
            1 => "No description available Story format".to_owned(),
            2 => format!(" {}\\n{} ", self.words(12, " "), self.words(12, " ")),
            _ => {
                let count = 15 + self.roll(40);
                self.words(count, " ")
            }
        };
        let (poster, count) = (
            self.words(2, " "),
            format!(
                "{}{}",
                self.roll(1000),
                self.one_of(&["", "k", "k", "M", ".5k"])
            ),
        );
        let tags = self.words(8, " ,");
        let mut json = String::new();
        _ = write!(
            json,
            "{{\"index\": {}, \"unique_id\": \"{:08x}-3442-4773-b19e-{:012x}\", \
             \"title\": \"{title}\", \"description\": \"{description}\", \
             \"poster_name\": \"{}\", \"follower_count\": \"{}\", \"tag_list\": \"{}\", \
             \"is_image_or_video\": \"{}\", \"image_src\": \"{}\", \"downloaded\": {}, \
             \"save_location\": \"Local save in /data/{category}\", \"category\": \"{category}\"}}",
            self.roll(12_000),
            self.roll(1 << 32),
            self.roll(1 << 48),
            self.dirty(20, &["User Info Error"], &poster),
            self.dirty(20, &["User Info Error", "lots", "-5"], &count),
            self.dirty(20, &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"], &tags),
            self.one_of(&["image", "image", "video", "multi-video(story page format)"]),
            self.dirty(
                20,
                &["Image src error."],
                "https://i.pinimg.com/originals/2b/0e/83/2b0e83d3a5f6c8d9e0f1a2b3c4d5e6f7.jpg"
            ),
            self.dirty(50, &["0", "2", "null"], "1"),
        );
        json
    }

    fn geo(&mut self) -> String {
        let time = self.time();
        let latitude = format!("-{}.{:04}", self.roll(90), self.roll(10_000));
        let longitude = format!("{}.{:04}", self.roll(180), self.roll(10_000));
        format!(
            r#"{{"ind": {}, "timestamp": "{}", "latitude": {}, "longitude": {}, "country": "{}"}}"#,
            self.roll(12_000),
            self.dirty(50, &["yesterday", "2020-08-28", ""], &time),
            self.dirty(50, &["91.5", "null"], &latitude),
            self.dirty(50, &["-200", "null"], &longitude),
            self.one_of(&[
                "Albania",
                "Antarctica (the territory South of 60 deg S)",
                "Cocos (Keeling) Islands",
                "Côte d'Ivoire",
                ""
            ]),
        )
    }

    fn user(&mut self) -> String {
        let (time, age) = (self.time(), (18 + self.roll(50)).to_string());
        format!(
            "{{\"ind\": {}, \"first_name\": \"{}\", \"last_name\": \"{}\", \"age\": {}, \
             \"date_joined\": \"{}\"}}",
            self.roll(12_000),
            self.one_of(&["Abigail", "Christopher", " Zoë", "Aaron", ""]),
            self.one_of(&["Ali", "Alexander", "Bjorklund", "Christensen"]),
            self.dirty(50, &["200", "null", "-1"], &age),
            self.dirty(50, &["yesterday", "2020-08-28", ""], &time),
        )
    }
}
