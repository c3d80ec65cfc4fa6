//! Cleaning rules: one module per kind, shared rules in `draft`. docs/reference/data-contract.md
//! describes them.

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
/// `max_bytes` limits the record's size. Strings that cleaning does not change are borrowed from
/// `raw`.
pub fn clean(kind: Kind, raw: &[u8], max_bytes: usize) -> Result<Cleaned<'_>, Rejection> {
    let json = json(raw, max_bytes)?;
    match kind {
        Kind::Pin => pin::clean(json),
        Kind::Geo => geo::clean(json),
        Kind::User => user::clean(json),
    }
}

/// Extracts the Kafka message key of one raw record: a pin's `unique_id`, or `ind` as a canonical
/// decimal (`7528`).
///
/// Rejects exactly the records that [`clean`] rejects, but cleans only the key fields.
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
    simdutf8::basic::from_utf8(raw).map_err(|_| Rejection::NotUtf8)
}
