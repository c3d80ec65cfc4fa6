//! Why a record can't be kept: nothing keys it.

/// Why a record is rejected. Checked in this order; the first that holds is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// The record is longer than the pipeline takes.
    #[error(
        "the record has {bytes} bytes, {limit} are allowed: shorten its texts or raise spec.ingest.maxRecordBytes"
    )]
    TooLarge {
        /// The record's size, bytes.
        bytes: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// The bytes are no UTF-8.
    #[error("the record is not UTF-8: JSON has to be sent in UTF-8")]
    NotUtf8,
    /// The text is no JSON, or has something behind its one value.
    #[error(
        "the record is not JSON: one complete JSON object was expected (NaN and Infinity are not JSON)"
    )]
    NotJson,
    /// The JSON value is a list, a text, a number, a boolean or null.
    #[error("the record is JSON but not an object: send its fields as {{\"name\": value, …}}")]
    NotAnObject,
    /// A field of the key is absent, null or empty.
    #[error(
        "the record has no `{field}`: it is part of the record's key and has to be there, not null and not empty"
    )]
    KeyMissing {
        /// The field's raw name.
        field: &'static str,
    },
    /// A field of the key is there and can't be read.
    #[error("the record's `{field}` can't be read: {}", expected(field))]
    KeyUnreadable {
        /// The field's raw name.
        field: &'static str,
    },
}

/// What a key field has to hold.
fn expected(field: &str) -> &'static str {
    if field == "unique_id" {
        "a text without lone surrogates was expected"
    } else {
        "a 64-bit integer was expected, such as 7528 or \"7528\""
    }
}

impl Rejection {
    /// The reason's name in dead-letter headers, metrics and responses.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::NotUtf8 => "not-utf8",
            Self::NotJson => "not-json",
            Self::NotAnObject => "not-an-object",
            Self::KeyMissing { .. } => "key-missing",
            Self::KeyUnreadable { .. } => "key-unreadable",
        }
    }

    /// The key field at fault, by its raw name.
    #[must_use]
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::KeyMissing { field } | Self::KeyUnreadable { field } => Some(field),
            _ => None,
        }
    }
}
