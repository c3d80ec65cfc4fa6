//! The three kinds of records, and their names in each store.

use std::fmt;

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A post.
    Pin,
    /// The location of a post.
    Geo,
    /// The author of a post.
    User,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Pin, Self::Geo, Self::User];

    /// The last part of the topic's name, and the path of ingest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Geo => "geo",
            Self::User => "user",
        }
    }

    /// The name of the live table in PostgreSQL.
    #[must_use]
    pub const fn live_table(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Geo => "geo",
            Self::User => "user_profile",
        }
    }

    /// The name of the batch table in Cassandra.
    #[must_use]
    pub const fn batch_table(self) -> &'static str {
        match self {
            Self::Pin => "pinterest_batch",
            Self::Geo => "geo_batch",
            Self::User => "user_batch",
        }
    }

    /// The clean columns in the contract's order, the key first.
    #[must_use]
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Pin => &[
                "unique_id",
                "index_id",
                "title",
                "category",
                "description",
                "poster_name",
                "follower_count",
                "tag_list",
                "is_image_or_video",
                "image_src",
                "downloaded",
                "save_location",
            ],
            Self::Geo => &["ind", "country", "coordinates", "timestamp"],
            Self::User => &["ind", "user_name", "age", "date_joined"],
        }
    }

    /// The index of the timestamp in [`Kind::columns`], if the kind has one.
    #[must_use]
    pub const fn time_column(self) -> Option<usize> {
        match self {
            Self::Pin => None,
            Self::Geo | Self::User => Some(3),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
