//! Texts: escapes, U+0000, white space at the ends.

use std::borrow::Cow;

use crate::{RepairReason, json::Raw};

/// What a field's value comes to: `Ok(None)` is missing, an error is to be reported.
pub(crate) type Value<T> = Result<Option<T>, RepairReason>;

/// Reads a value as text, the first step of cleaning any field: U+0000 is removed, then white space
/// (Unicode's `White_Space`) at both ends; nothing left is missing.
///
/// A number or a boolean is its JSON text. An object, a list, or a text with a lone surrogate can't
/// be read.
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

/// `str::trim`, at once for a text that both begins and ends with a visible ASCII character, as
/// nearly all do.
#[inline]
fn trim(text: &str) -> &str {
    match text.as_bytes() {
        [b'!'..=b'~'] | [b'!'..=b'~', .., b'!'..=b'~'] => text,
        _ => text.trim(),
    }
}

/// U+0000 can only come from an escape: JSON has no raw control characters.
fn unescaped_and_trimmed(text: &str) -> Option<String> {
    let mut text = unescape(text)?;
    text.retain(|c| c != '\0');
    text.truncate(text.trim_end().len());
    text.drain(..text.len() - text.trim_start().len());
    Some(text)
}

/// Decodes a text whose escapes are well-formed; `None` when it holds a lone surrogate, which is no
/// character.
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
                let (c, behind) = unicode_escape(escape)?;
                text.push(c);
                rest = behind;
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

/// The character that one `uXXXX`, or two as a surrogate pair, stand for, and what comes behind.
fn unicode_escape(escape: &str) -> Option<(char, &str)> {
    let (first, behind) = code_unit(escape)?;
    if let Some(c) = char::from_u32(first) {
        return Some((c, behind));
    }
    let (second, behind) = code_unit(behind.strip_prefix('\\')?)?;
    let is_pair = first < 0xdc00 && (0xdc00..0xe000).contains(&second);
    let c = is_pair
        .then(|| char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)))??;
    Some((c, behind))
}

fn code_unit(escape: &str) -> Option<(u32, &str)> {
    let (digits, behind) = escape.strip_prefix('u')?.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, behind))
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
    fn values_become_clean_texts() {
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
