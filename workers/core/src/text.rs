//! String values without U+0000 and surrounding white space.

use std::borrow::Cow;

use crate::{RepairReason, escape::unescape, json::Raw};

/// A cleaned field: `Ok(None)` if it is missing, an error if it has to be reported as a repair.
pub(crate) type Value<T> = Result<Option<T>, RepairReason>;

/// Reads a value as text, the first step of cleaning any field: removes U+0000, then trims white
/// space (Unicode's `White_Space`). An empty result counts as missing.
///
/// Numbers and booleans yield their JSON text. Objects, arrays and strings with a lone surrogate
/// are unreadable.
#[inline]
pub(crate) fn text(raw: Raw<'_>) -> Value<Cow<'_, str>> {
    let text = match raw {
        Raw::Absent | Raw::Null => return Ok(None),
        Raw::Text(text) => Cow::Borrowed(trim(text)),
        Raw::Number(number) => Cow::Borrowed(number),
        Raw::Bool(true) => Cow::Borrowed("true"),
        Raw::Bool(false) => Cow::Borrowed("false"),
        Raw::Escaped(text) => {
            Cow::Owned(unescaped_and_trimmed(text).ok_or(RepairReason::Unreadable)?)
        }
        Raw::Composite => return Err(RepairReason::Unreadable),
    };
    Ok(if text.is_empty() { None } else { Some(text) })
}

/// `str::trim` with a fast path for strings that begin and end with a visible ASCII character,
/// which nearly all do.
#[inline]
fn trim(text: &str) -> &str {
    match text.as_bytes() {
        [b'!'..=b'~'] | [b'!'..=b'~', .., b'!'..=b'~'] => text,
        _ => text.trim(),
    }
}

/// Unescapes, removes U+0000 and trims. Only escapes can yield U+0000: JSON strings contain no raw
/// control characters.
fn unescaped_and_trimmed(text: &str) -> Option<String> {
    let mut text = unescape(text)?;
    if memchr::memchr(0, text.as_bytes()).is_some() {
        text.retain(|c| c != '\0');
    }
    text.truncate(text.trim_end().len());
    text.drain(..text.len() - text.trim_start().len());
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_trimmed_and_empty_ones_are_missing() {
        let unreadable = Err(RepairReason::Unreadable);
        for (raw, clean) in [
            (Raw::Absent, Ok(None)),
            (Raw::Null, Ok(None)),
            (Raw::Text(""), Ok(None)),
            (Raw::Text(" \u{3000}\u{a0}\u{2028} "), Ok(None)),
            (Raw::Text(" a  b\u{2003}"), Ok(Some("a  b"))),
            (
                Raw::Text("\u{200b}a\u{feff}"),
                Ok(Some("\u{200b}a\u{feff}")),
            ),
            (Raw::Escaped(r"\u0000"), Ok(None)),
            (
                Raw::Escaped(r" \u0000\t a\u0000\u0000b \n\u0000\u2003"),
                Ok(Some("ab")),
            ),
            (Raw::Escaped(r"a\ud800"), unreadable),
            (Raw::Number("1.50"), Ok(Some("1.50"))),
            (Raw::Bool(true), Ok(Some("true"))),
            (Raw::Bool(false), Ok(Some("false"))),
            (Raw::Composite, unreadable),
        ] {
            assert_eq!(
                text(raw).as_ref().map(Option::as_deref),
                clean.as_ref().copied(),
                "{raw:?}"
            );
        }
    }
}
