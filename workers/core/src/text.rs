//! String values: JSON escapes, U+0000 and surrounding white space.

use std::borrow::Cow;

use crate::{RepairReason, json::Raw};

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
    text.retain(|c| c != '\0');
    text.truncate(text.trim_end().len());
    text.drain(..text.len() - text.trim_start().len());
    Some(text)
}

/// Decodes a string whose escapes are well-formed. `None` if it contains a lone surrogate, which no
/// Rust string can hold.
pub(crate) fn unescape(mut rest: &str) -> Option<String> {
    let mut text = String::with_capacity(rest.len());
    while let Some((run, escape)) = rest.split_once('\\') {
        text.push_str(run);
        let mut chars = escape.chars();
        let c = match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (c, after) = unicode_escape(escape)?;
                text.push(c);
                rest = after;
                continue;
            }
            itself => itself,
        };
        text.push(c);
        rest = chars.as_str();
    }
    text.push_str(rest);
    Some(text)
}

/// Decodes `uXXXX`, or a surrogate pair of two, and returns the character and the rest.
fn unicode_escape(escape: &str) -> Option<(char, &str)> {
    let (first, after) = code_unit(escape)?;
    if let Some(c) = char::from_u32(first) {
        return Some((c, after));
    }
    let (second, after) = code_unit(after.strip_prefix('\\')?)?;
    let is_pair = first < 0xdc00 && (0xdc00..0xe000).contains(&second);
    let c = is_pair
        .then(|| char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)))??;
    Some((c, after))
}

fn code_unit(escape: &str) -> Option<(u32, &str)> {
    let (digits, after) = escape.strip_prefix('u')?.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded() {
        for (escaped, decoded) in [
            (r#"\"\\\/\b\f\n\r\t"#, Some("\"\\/\u{8}\u{c}\n\r\t")),
            (r"caf\u00e9 \u20AC!", Some("café €!")),
            (r"\ud83d\ude00\uD83D\uDE00.", Some("😀😀.")),
            (r"\u0000", Some("\0")),
            (r"\\u0041", Some(r"\u0041")),
            (r"\ud83d", None),
            (r"\ude00", None),
            (r"\ud83d!", None),
            (r"\ud83d\n", None),
            (r"\ud83d\u0041", None),
            (r"\ud83d\ud83d", None),
            (r"\ude00\ud83d", None),
        ] {
            assert_eq!(unescape(escaped).as_deref(), decoded, "{escaped}");
        }
    }

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
