//! The clean records: what a sink writes, one type per kind, with the columns of the contract in
//! its order.
//!
//! Texts borrow from the raw bytes wherever cleaning leaves them as they stood. `None` is a null.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Repairs;

/// The three kinds of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A post: who pinned what, and where it was saved.
    Pin,
    /// Where and when a pin was posted.
    Geo,
    /// Who posted it.
    User,
}

impl Kind {
    /// All kinds, in the order of their names in the contract.
    pub const ALL: [Self; 3] = [Self::Pin, Self::Geo, Self::User];

    /// The name in topics, tables and routes: `pin`, `geo` or `user`.
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

/// A word that names no [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of record: pin, geo and user are")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// A clean pin, keyed by `unique_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin<'a> {
    /// The key; never empty.
    pub unique_id: Cow<'a, str>,
    /// The number that joins the three kinds; raw name `index`. Several pins may share one.
    pub index_id: i64,
    /// The pin's title.
    pub title: Option<Cow<'a, str>>,
    /// The pin's category, such as `mens-fashion`.
    pub category: Option<Cow<'a, str>>,
    /// The pin's description.
    pub description: Option<Cow<'a, str>>,
    /// Who posted it.
    pub poster_name: Option<Cow<'a, str>>,
    /// The poster's followers, 0 and more.
    pub follower_count: Option<i64>,
    /// The tags, comma-separated, as posted.
    pub tag_list: Option<Cow<'a, str>>,
    /// `image`, `video`, `multi-video(story page format)` and the like.
    pub is_image_or_video: Option<Cow<'a, str>>,
    /// The picture's URL.
    pub image_src: Option<Cow<'a, str>>,
    /// 0 or 1.
    pub downloaded: Option<i64>,
    /// The path it was saved at, without `Local save in`.
    pub save_location: Option<Cow<'a, str>>,
}

/// A clean geo record, keyed by `ind`.
#[derive(Clone, Debug, PartialEq)]
pub struct Geo<'a> {
    /// The key: the number of its pins.
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
    /// The key: the number of their pins.
    pub ind: i64,
    /// First and last name joined by one space, or the one there is.
    pub user_name: Option<Cow<'a, str>>,
    /// Years, 0…150.
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

    /// The key as text, the form of Kafka's message keys: a pin's `unique_id`, the others' `ind` in
    /// canonical form (`7528`).
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

/// A clean record and what had to be made null to get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cleaned<'a> {
    /// The clean record.
    pub record: Record<'a>,
    /// The raw fields that became null because they could not be read or were out of range; missing
    /// ones are not among them.
    pub repairs: Repairs,
}

/// Which of two records with one key counts: the later one, whole, nulls included.
///
/// Later by Kafka's `LogAppendTime`, then partition, then offset, so that repeats, re-drives and
/// raised partition counts agree.
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
