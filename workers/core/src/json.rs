//! Strict, single-pass JSON parser for one record.
//!
//! Validates the whole text against RFC 8259 and keeps the values of known top-level fields as
//! undecoded slices. If a name is repeated, its last value counts. The parser does not recurse, so
//! deep nesting can't exhaust the stack.

#![expect(
    clippy::inline_always,
    reason = "measured: a call per string and name takes a third of the time"
)]

use crate::{Rejection, escape::unescape};

/// A field's undecoded value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    /// The object has no such field.
    #[default]
    Absent,
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as its JSON text.
    Number(&'a str),
    /// A string without escapes, without its quotes.
    Text(&'a str),
    /// A string with at least one escape, without its quotes. All escapes are well-formed.
    Escaped(&'a str),
    /// An object or an array.
    Composite,
}

/// Parses one JSON object. `slot` maps a field name to its index in the result, or to `None` if the
/// field is not needed.
pub(crate) fn read_object<const N: usize>(
    text: &str,
    slot: impl Fn(&str) -> Option<usize>,
) -> Result<[Raw<'_>; N], Rejection> {
    let mut found = [Raw::Absent; N];
    let json = Json(text);
    let start = json.space(0);
    let is_object = json.byte(start) == Some(b'{');
    let end = if is_object {
        json.object(start + 1, |name, value| {
            if let Some(entry) = slot(name).and_then(|slot| found.get_mut(slot)) {
                *entry = value;
            }
        })
    } else {
        json.value(start).map(|(_, end)| end)
    };
    match end {
        Some(end) if json.space(end) == text.len() && is_object => Ok(found),
        Some(end) if json.space(end) == text.len() => Err(Rejection::NotAnObject),
        _ => Err(Rejection::NotJson),
    }
}

/// A JSON text. Each method parses the token it is named after at byte position `at` and returns
/// the position after it, or `None` on a syntax error. Positions are passed by value so that they
/// stay in registers.
#[derive(Clone, Copy)]
struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    #[inline]
    fn byte(self, at: usize) -> Option<u8> {
        self.0.as_bytes().get(at).copied()
    }

    #[inline]
    fn expect(self, at: usize, byte: u8) -> Option<usize> {
        (self.byte(at) == Some(byte)).then_some(at + 1)
    }

    #[inline]
    fn space(self, mut at: usize) -> usize {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte(at) {
            at += 1;
        }
        at
    }

    /// Parses the rest of an object after its `{`.
    #[inline]
    fn object(self, at: usize, mut field: impl FnMut(&str, Raw<'a>)) -> Option<usize> {
        let mut at = self.space(at);
        if let Some(end) = self.expect(at, b'}') {
            return Some(end);
        }
        loop {
            let (name, after) = self.name(at)?;
            let (value, after) = self.value(after)?;
            match name {
                Raw::Text(name) => field(name, value),
                // A name with a lone surrogate can't be the name of a known field.
                Raw::Escaped(name) => {
                    if let Some(name) = unescape(name) {
                        field(&name, value);
                    }
                }
                _ => return None,
            }
            at = self.space(after);
            match self.expect(at, b',') {
                Some(after) => at = self.space(after),
                None => return self.expect(at, b'}'),
            }
        }
    }

    /// Parses a field name, the colon and the white space after it.
    #[inline(always)]
    fn name(self, at: usize) -> Option<(Raw<'a>, usize)> {
        let (name, at) = self.text(self.expect(at, b'"')?)?;
        let at = self.expect(self.space(at), b':')?;
        Some((name, self.space(at)))
    }

    #[inline(always)]
    fn value(self, at: usize) -> Option<(Raw<'a>, usize)> {
        match self.expect(at, b'"') {
            Some(at) => self.text(at),
            None => self.other_value(at),
        }
    }

    /// Parses any value but a string.
    fn other_value(self, at: usize) -> Option<(Raw<'a>, usize)> {
        match self.byte(at)? {
            b'-' | b'0'..=b'9' => {
                let end = self.number(at)?;
                Some((Raw::Number(self.0.get(at..end)?), end))
            }
            b'n' => Some((Raw::Null, self.literal(at, "null")?)),
            b't' => Some((Raw::Bool(true), self.literal(at, "true")?)),
            b'f' => Some((Raw::Bool(false), self.literal(at, "false")?)),
            b'{' | b'[' => Some((Raw::Composite, self.composite(at)?)),
            _ => None,
        }
    }

    fn literal(self, at: usize, literal: &str) -> Option<usize> {
        self.0
            .get(at..)?
            .starts_with(literal)
            .then_some(at + literal.len())
    }

    /// Parses the rest of a string after its opening quote.
    #[inline(always)]
    fn text(self, from: usize) -> Option<(Raw<'a>, usize)> {
        let end = from + plain_run(self.0.as_bytes().get(from..)?);
        match self.byte(end)? {
            b'"' => Some((Raw::Text(self.0.get(from..end)?), end + 1)),
            _ => self.escaped_text(from, end),
        }
    }

    /// Parses the rest of a string that begins at `from`, from the escape at `at` on.
    #[cold]
    fn escaped_text(self, from: usize, mut at: usize) -> Option<(Raw<'a>, usize)> {
        loop {
            if self.byte(at)? == b'"' {
                return Some((Raw::Escaped(self.0.get(from..at)?), at + 1));
            }
            at = self.expect(at, b'\\')?;
            at += escape_len(self.0.as_bytes().get(at..)?)?;
            at += plain_run(self.0.as_bytes().get(at..)?);
        }
    }

    #[inline]
    fn number(self, at: usize) -> Option<usize> {
        let at = self.expect(at, b'-').unwrap_or(at);
        let mut at = match self.expect(at, b'0') {
            Some(at) => at,
            None => self.digits(at)?,
        };
        if let Some(fraction) = self.expect(at, b'.') {
            at = self.digits(fraction)?;
        }
        if let Some(b'e' | b'E') = self.byte(at) {
            at += 1;
            if let Some(b'+' | b'-') = self.byte(at) {
                at += 1;
            }
            at = self.digits(at)?;
        }
        Some(at)
    }

    /// Parses one or more digits.
    #[inline]
    fn digits(self, from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(b'0'..=b'9') = self.byte(at) {
            at += 1;
        }
        (at > from).then_some(at)
    }

    /// Parses a nested object or array.
    fn composite(self, mut at: usize) -> Option<usize> {
        // The closing bracket of each open object or array, the innermost last.
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.byte(at)? {
                bracket @ (b'{' | b'[') => {
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    at = self.space(at + 1);
                    if let Some(end) = self.expect(at, close) {
                        at = end;
                    } else {
                        open.push(close);
                        if close == b'}' {
                            at = self.name(at)?.1;
                        }
                        continue;
                    }
                }
                _ => at = self.value(at)?.1,
            }
            // After a value: close the objects and arrays that end here, then parse the next value.
            loop {
                let Some(&close) = open.last() else {
                    return Some(at);
                };
                at = self.space(at);
                if let Some(after) = self.expect(at, b',') {
                    at = self.space(after);
                    if close == b'}' {
                        at = self.name(at)?.1;
                    }
                    break;
                }
                at = self.expect(at, close)?;
                open.pop();
            }
        }
    }
}

/// The length of an escape after its backslash, in bytes. `rest` starts after the backslash.
fn escape_len(rest: &[u8]) -> Option<usize> {
    match rest.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(1),
        b'u' => rest
            .get(1..5)?
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then_some(5),
        _ => None,
    }
}

/// The number of bytes before the first quote, backslash or control character.
#[inline(always)]
fn plain_run(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + short_plain_run(rest)
}

/// [`plain_run`] for the last bytes of a record, fewer than eight.
#[cold]
fn short_plain_run(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
        .unwrap_or(bytes.len())
}

/// Sets the high bit of the lowest byte of `word` that is a quote, backslash or control character.
/// Bits of higher bytes may be set wrongly, those of lower bytes are not: a borrow in Mycroft's
/// zero-byte test only reaches bytes above a true match.
#[inline]
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let zero = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (zero | control) & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<[Raw<'_>; 2], Rejection> {
        read_object(json, |name| match name {
            "a" => Some(0),
            "b" => Some(1),
            _ => None,
        })
    }

    #[test]
    fn values_are_kept_undecoded() {
        for (value, raw) in [
            ("null", Raw::Null),
            ("true", Raw::Bool(true)),
            ("false", Raw::Bool(false)),
            ("-0.50e+7", Raw::Number("-0.50e+7")),
            ("0", Raw::Number("0")),
            (r#""""#, Raw::Text("")),
            (r#"" é\u00e9 ""#, Raw::Escaped(r" é\u00e9 ")),
            (
                r#""a text that is longer than a word, é""#,
                Raw::Text("a text that is longer than a word, é"),
            ),
            (r#"{"a": [1, {"b": {}}, []], "b": "]"}"#, Raw::Composite),
            ("[]", Raw::Composite),
        ] {
            assert_eq!(
                read(&format!("{{\"a\":{value}}}")),
                Ok([raw, Raw::Absent]),
                "{value}"
            );
            assert_eq!(
                read(&format!("\t{{ \"x\" : {value} , \"b\" :\r{value} }}\n")),
                Ok([Raw::Absent, raw]),
                "{value}"
            );
        }
    }

    #[test]
    fn the_last_value_of_a_name_counts_even_if_the_name_is_escaped() {
        assert_eq!(
            read(r#"{"a": 1, "\u0061": null, "b": 2, "a": 3}"#),
            Ok([Raw::Number("3"), Raw::Number("2")])
        );
        assert_eq!(
            read(r#"{"a": 1, "\u0061": [2]}"#),
            Ok([Raw::Composite, Raw::Absent])
        );
        assert_eq!(
            read(r#"{"a\u0000": 1, "a\ud800": 2, "A": 3, " a": 4}"#),
            Ok([Raw::Absent; 2])
        );
    }

    #[test]
    fn only_objects_are_records() {
        for json in [
            "[]",
            "[{}]",
            "\"{}\"",
            "1",
            "-1.5e3",
            "true",
            "null",
            " [ 1 , 2 ] ",
        ] {
            assert_eq!(read(json), Err(Rejection::NotAnObject), "{json}");
        }
    }

    #[test]
    fn invalid_json_is_rejected() {
        for json in [
            "",
            " ",
            "{",
            "}",
            "{}}",
            "{} {}",
            "{}x",
            "[",
            "[1,]",
            "[1 2]",
            "[}",
            "{]",
            "[,1]",
            "[1",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":'1'}",
            "{\"a\":NaN}",
            "{\"a\":Infinity}",
            "{\"a\":-Infinity}",
            "{\"a\":-}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":1e}",
            "{\"a\":1e+}",
            "{\"a\":0x1}",
            "{\"a\":tru}",
            "{\"a\":True}",
            "{\"a\":nul}",
            "{\"a\":\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"tab\there\"}",
            "{\"a\":\"line\nbreak\"}",
            "{\"a\":\"\u{0}\"}",
            "{\"a\":1}\u{0}",
            "\u{feff}{}",
            "{\"a\":1}\u{a0}",
            "{\"a\":[1}",
            "{\"a\":{\"b\":1]}",
            "{\"a\":{\"b\"}}",
            "{\"a\":{1:2}}",
            "{\"a\":{\"b\":1,}}",
            "// c\n{}",
            "{\"a\":/**/1}",
        ] {
            assert_eq!(read(json), Err(Rejection::NotJson), "{json:?}");
        }
    }

    #[test]
    fn nesting_has_no_limit() {
        let depth = 200_000;
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(read(&deep), Ok([Raw::Composite, Raw::Absent]));
        assert_eq!(read(&"[".repeat(depth)), Err(Rejection::NotJson));
    }

    #[test]
    fn special_bytes_are_found_at_every_position() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for len in 0..40 {
                for at in 0..len {
                    let mut bytes: Vec<u8> = (0..len)
                        .map(|n| {
                            [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff, 0xa2, 0xdc][n % 10]
                        })
                        .collect();
                    assert_eq!(plain_run(&bytes), len);
                    bytes[at] = special;
                    if at + 1 < len {
                        bytes[at + 1] = special.wrapping_add(1);
                    }
                    assert_eq!(plain_run(&bytes), at, "{special} at {at} of {len}");
                }
            }
        }
    }
}
