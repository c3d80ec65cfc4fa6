//! The clean columns, in the order every table and file has them.

use crate::Kind;

/// The names of a kind's clean columns, in the contract's order; the fields of the record types
/// stand in the same order.
#[must_use]
pub const fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pin => &[
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
        Kind::Geo => &["ind", "country", "coordinates", "timestamp"],
        Kind::User => &["ind", "user_name", "age", "date_joined"],
    }
}

/// The name of a kind's key column, always the first one.
#[must_use]
pub const fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::Pin => "unique_id",
        Kind::Geo | Kind::User => "ind",
    }
}
