//! Clean records, as sinks write them: one type per kind, fields in the order of the columns
//! ([`crate::columns`]).
//!
//! Strings borrow from the raw bytes where cleaning did not change them. `None` is null.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Repairs;

/// The three kinds of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A post.
    Pin,
    /// Where and when a pin was posted.
    Geo,
    /// The user who posted a pin.
    User,
}

impl Kind {
    /// All kinds, in the order used in tables and documentation.
    pub const ALL: [Self; 3] = [Self::Pin, Self::Geo, Self::User];

    /// The name in topic names and routes: `pin`, `geo` or `user`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Geo => "geo",
            Self::User => "user",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text does not name a [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of record: use pin, geo or user")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A clean pin, keyed by `unique_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin<'a> {
    /// The key. Never empty.
    pub unique_id: Cow<'a, str>,
    /// The number that joins the three kinds, `index` in raw records. Pins may share one.
    pub index_id: i64,
    /// The pin's title.
    pub title: Option<Cow<'a, str>>,
    /// The pin's category, such as `mens-fashion`.
    pub category: Option<Cow<'a, str>>,
    /// The pin's description.
    pub description: Option<Cow<'a, str>>,
    /// The poster's name.
    pub poster_name: Option<Cow<'a, str>>,
    /// The poster's followers, at least 0.
    pub follower_count: Option<i64>,
    /// The tags, comma-separated, as posted.
    pub tag_list: Option<Cow<'a, str>>,
    /// The media type, such as `image`, `video` or `multi-video(story page format)`.
    pub is_image_or_video: Option<Cow<'a, str>>,
    /// The image's URL.
    pub image_src: Option<Cow<'a, str>>,
    /// Whether the image was downloaded: 0 or 1.
    pub downloaded: Option<i64>,
    /// The path it was saved to, without the prefix `Local save in`.
    pub save_location: Option<Cow<'a, str>>,
}

/// A clean geo record, keyed by `ind`.
#[derive(Clone, Debug, PartialEq)]
pub struct Geo<'a> {
    /// The key: the `index_id` of its pins.
    pub ind: i64,
    /// The country's name.
    pub country: Option<Cow<'a, str>>,
    /// Latitude, degrees, −90…90, and longitude, degrees, −180…180.
    pub coordinates: Option<[f64; 2]>,
    /// When the pin was posted: microseconds since 1970-01-01T00:00:00Z.
    pub timestamp: Option<i64>,
}

/// A clean user, keyed by `ind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// The key: the `index_id` of the user's pins.
    pub ind: i64,
    /// First and last name joined by one space, or the only one present.
    pub user_name: Option<Cow<'a, str>>,
    /// Age, years, 0…150.
    pub age: Option<i64>,
    /// When the user joined: microseconds since 1970-01-01T00:00:00Z.
    pub date_joined: Option<i64>,
}

/// A clean record of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Record<'a> {
    /// A pin.
    Pin(Pin<'a>),
    /// A geo record.
    Geo(Geo<'a>),
    /// A user.
    User(User<'a>),
}

impl Record<'_> {
    /// The record's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Pin(_) => Kind::Pin,
            Self::Geo(_) => Kind::Geo,
            Self::User(_) => Kind::User,
        }
    }

    /// The Kafka message key: a pin's `unique_id`, or `ind` as a canonical decimal (`7528`).
    #[must_use]
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Pin(pin) => Cow::Borrowed(&pin.unique_id),
            Self::Geo(Geo { ind, .. }) | Self::User(User { ind, .. }) => {
                Cow::Owned(ind.to_string())
            }
        }
    }
}

/// A clean record and its repairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cleaned<'a> {
    /// The clean record.
    pub record: Record<'a>,
    /// Raw fields set to null because they were unreadable or out of range. Missing fields are not
    /// repairs.
    pub repairs: Repairs,
}

/// A record's position in the order that decides between records of one key: the later record
/// replaces the earlier one as a whole, nulls included.
///
/// Compared by Kafka's `LogAppendTime`, then partition, then offset. The result is the same after
/// duplicates, redrives and an increase of the partition count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// `LogAppendTime`, milliseconds since the epoch.
    pub time: i64,
    /// The partition's number.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_name_each_way() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(
                serde_json::to_string(&kind).unwrap_or_default(),
                format!("\"{kind}\"")
            );
        }
        assert_eq!("Pin".parse::<Kind>(), Err(UnknownKind("Pin".into())));
    }

    #[test]
    fn later_is_time_then_partition_then_offset() {
        let order = |time, partition, offset| Order {
            time,
            partition,
            offset,
        };
        let rising = [
            order(1, 2, 9),
            order(2, 0, 7),
            order(2, 0, 8),
            order(2, 1, 0),
            order(3, 0, 0),
        ];
        assert!(rising.is_sorted());
    }
}
