//! Members of objects and elements of arrays, as slices of their JSON.
//!
//! Nothing here recurses or builds a value.

use std::{borrow::Cow, fmt};

use serde::de::{Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Calls `each` with the name and the value of each member of an object. Fails if `json` is not
/// JSON, or not an object.
pub fn members<'a>(
    json: &'a str,
    each: impl FnMut(&str, &'a RawValue),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Members(each))?;
    deserializer.end()
}

struct Members<F>(F);

impl<'a, F: FnMut(&str, &'a RawValue)> Visitor<'a> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let quoted = name.get();
            let name = if quoted.contains('\\') {
                // One with a lone surrogate is no name that anybody looks for.
                Cow::Owned(serde_json::from_str(quoted).unwrap_or_default())
            } else {
                Cow::Borrowed(quoted.trim_matches('"'))
            };
            (self.0)(&name, value);
        }
        Ok(())
    }
}

/// The first element of an array. None if there is none, or if `json` is no array.
#[must_use]
pub fn first_element(json: &str) -> Option<&RawValue> {
    let mut first = None;
    let each = Elements(|element| {
        first.get_or_insert(element);
        true
    });
    let read = serde_json::Deserializer::from_str(json).deserialize_seq(each);
    read.ok().and(first)
}

/// The elements of an array. Fails if `json` is not JSON or not an array, or if there are over
/// `limit`.
pub fn elements(json: &str, limit: usize) -> Result<Vec<&RawValue>, serde_json::Error> {
    let mut all = Vec::new();
    let each = Elements(|element| {
        let fits = all.len() < limit;
        if fits {
            all.push(element);
        }
        fits
    });
    serde_json::Deserializer::from_str(json).deserialize_seq(each)?;
    Ok(all)
}

/// Calls a function with each element, until it returns false.
struct Elements<F>(F);

impl<'a, F: FnMut(&'a RawValue) -> bool> Visitor<'a> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element()? {
            if !(self.0)(element) {
                return Err(A::Error::custom("too many elements"));
            }
        }
        Ok(())
    }
}
