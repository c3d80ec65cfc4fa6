//! From raw bytes to a clean record.

use crate::{Cleaned, Kind, Rejection};

/// The raw fields of a kind.
pub(crate) const fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pin => &["unique_id"],
        Kind::Geo | Kind::User => &["ind"],
    }
}

/// Cleans one raw record.
///
/// `max_bytes` is the pipeline's limit of a record's size.
pub fn clean(_kind: Kind, raw: &[u8], max_bytes: usize) -> Result<Cleaned<'_>, Rejection> {
    if raw.len() > max_bytes {
        return Err(Rejection::TooLarge { bytes: raw.len(), limit: max_bytes });
    }
    Err(Rejection::NotJson)
}

/// The key of one raw record, as text: what ingest sends as the message's key.
pub fn record_key(kind: Kind, raw: &[u8], max_bytes: usize) -> Result<String, Rejection> {
    clean(kind, raw, max_bytes).map(|cleaned| cleaned.record.key().into_owned())
}
