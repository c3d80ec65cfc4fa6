//! What is traced: a kind and a key.

use anyhow::Result;
use pinpipe_core::{Kind, Record};

use crate::{cells::Cell, failure::Permanent};

/// The records with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Their kind.
    pub kind: Kind,
    /// The key: of geo records and users in its canonical form.
    pub text: String,
    /// The key as the number that joins the kinds, if it is one.
    pub number: Option<i64>,
}

impl Target {
    /// Fails for a key that no record of the kind can have.
    pub fn new(kind: Kind, key: &str) -> Result<Self> {
        let key = key.trim();
        let number: Option<i64> = key.parse().ok();
        let text = match (kind, number) {
            (Kind::Pin, _) if !key.is_empty() => key.to_owned(),
            (Kind::Geo | Kind::User, Some(number)) => number.to_string(),
            (Kind::Pin, _) => {
                return Err(Permanent(
                    "the key is empty: name a pin's unique_id or index".to_owned(),
                )
                .into());
            }
            (kind, None) => {
                return Err(Permanent(format!(
                    "`{key}` is no key of a {kind} record: its key is ind, a 64-bit integer such \
                     as 7528"
                ))
                .into());
            }
        };
        Ok(Self { kind, text, number })
    }

    /// Whether a record has the key.
    pub fn is(&self, record: &Record<'_>) -> bool {
        match record {
            Record::Pin(pin) => pin.unique_id == self.text || self.number == Some(pin.index_id),
            Record::Geo(geo) => self.number == Some(geo.ind),
            Record::User(user) => self.number == Some(user.ind),
        }
    }

    /// A clean key of the kind as a cell of its key column.
    pub fn cell<'k>(&self, key: &'k str) -> Cell<'k> {
        match (self.kind, key.parse()) {
            (Kind::Geo | Kind::User, Ok(number)) => Cell::BigInt(number),
            _ => Cell::Text(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::clean;

    use super::*;

    fn is(kind: Kind, key: &str, raw: &str) -> bool {
        let record = clean(kind, raw.as_bytes(), 1000).unwrap().record;
        Target::new(kind, key).unwrap().is(&record)
    }

    #[test]
    fn a_pin_is_traced_by_its_id_or_its_number() {
        let pin = r#"{"unique_id": "a-1", "index": 7}"#;
        assert!(is(Kind::Pin, "a-1", pin) && is(Kind::Pin, " 7 ", pin));
        assert!(!is(Kind::Pin, "a", pin) && !is(Kind::Pin, "1", pin));
        assert!(is(Kind::Geo, "+7", r#"{"ind": "7"}"#));
        assert!(!is(Kind::User, "8", r#"{"ind": 7}"#));
    }

    #[test]
    fn a_key_that_no_record_has_is_refused() {
        for (kind, key) in [(Kind::Geo, "x"), (Kind::User, "1e3"), (Kind::Pin, " ")] {
            let error = Target::new(kind, key).unwrap_err();
            assert!(error.is::<Permanent>(), "{error}");
        }
    }
}
