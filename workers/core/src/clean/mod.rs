//! From raw bytes to a clean record, by the contract's tables: one module per kind, the rules they
//! share in `draft`.

mod draft;
mod geo;
#[cfg(test)]
mod laws;
mod pin;
#[cfg(test)]
mod tests;
mod user;

use crate::{Cleaned, Kind, Rejection};

/// Cleans one raw record.
///
/// `max_bytes` is the pipeline's limit of a record's size. Texts that cleaning leaves as they stood
/// are borrowed from `raw`.
pub fn clean(kind: Kind, raw: &[u8], max_bytes: usize) -> Result<Cleaned<'_>, Rejection> {
    let json = json(raw, max_bytes)?;
    match kind {
        Kind::Pin => pin::clean(json),
        Kind::Geo => geo::clean(json),
        Kind::User => user::clean(json),
    }
}

/// The key of one raw record, as text (a pin's `unique_id`, the others' `ind` as `7528`): the
/// message key ingest sends.
///
/// Rejects exactly what [`clean`] rejects, and cleans nothing but the key.
pub fn record_key(kind: Kind, raw: &[u8], max_bytes: usize) -> Result<String, Rejection> {
    let json = json(raw, max_bytes)?;
    match kind {
        Kind::Pin => pin::key(json),
        Kind::Geo => geo::key(json),
        Kind::User => user::key(json),
    }
}

fn json(raw: &[u8], max_bytes: usize) -> Result<&str, Rejection> {
    if raw.len() > max_bytes {
        return Err(Rejection::TooLarge {
            bytes: raw.len(),
            limit: max_bytes,
        });
    }
    str::from_utf8(raw).map_err(|_| Rejection::NotUtf8)
}
