//! The escapes of JSON strings.

/// Decodes a string whose escapes are well-formed. `None` if it contains a lone surrogate, which no
/// Rust string can hold.
pub(crate) fn unescape(mut rest: &str) -> Option<String> {
    let mut text = String::with_capacity(rest.len());
    while let Some((run, escape)) = split_at_escape(rest) {
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

/// Splits a string around its first backslash; `str::split_once` is several times as slow.
fn split_at_escape(text: &str) -> Option<(&str, &str)> {
    let at = memchr::memchr(b'\\', text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
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
}
