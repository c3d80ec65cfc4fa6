//! Rejections: reasons why a record has no readable key and can't be stored.

/// Why a record is rejected. Checks run in this order; the first failure is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// The record exceeds the pipeline's size limit.
    #[error(
        "the record has {bytes} bytes, {limit} are allowed: shorten its texts or raise \
         spec.ingest.maxRecordBytes"
    )]
    TooLarge {
        /// The record's size, bytes.
        bytes: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// The bytes are not UTF-8.
    #[error("the record is not UTF-8: JSON has to be sent in UTF-8")]
    NotUtf8,
    /// The text is not JSON, or has data after its value.
    #[error(
        "the record is not JSON: one complete JSON object was expected (NaN and Infinity are not \
         JSON)"
    )]
    NotJson,
    /// The JSON value is an array, a string, a number, a boolean or null.
    #[error("the record is JSON but not an object: send its fields as {{\"name\": value, …}}")]
    NotAnObject,
    /// A field of the key is absent, null or empty.
    #[error(
        "the record has no {}: it is part of the record's key and must be present, not null and \
         not empty",
        names(field)
    )]
    KeyMissing {
        /// The field's raw name.
        field: &'static str,
    },
    /// A field of the key is present but can't be read.
    #[error("the record's `{field}` can't be read: {}", expected(field))]
    KeyUnreadable {
        /// The field's raw name.
        field: &'static str,
    },
}

/// The names under which a key field is looked for, for people.
fn names(field: &str) -> &'static str {
    match field {
        "index" => "`index` (or `ind`)",
        "ind" => "`ind` (or `index`)",
        _ => "`unique_id`",
    }
}

/// The expected type of a key field, for people.
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

    /// The raw name of the invalid key field.
    #[must_use]
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::KeyMissing { field } | Self::KeyUnreadable { field } => Some(field),
            _ => None,
        }
    }
}
