//! Clean columns, in the order used in every table and file.

use crate::Kind;

/// The names of a kind's clean columns. The fields of the record types have the same order.
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

/// The name of a kind's key column, which is always the first column.
#[must_use]
pub const fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::Pin => "unique_id",
        Kind::Geo | Kind::User => "ind",
    }
}
