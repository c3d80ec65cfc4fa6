//! One pass over a record's JSON: strict, iterative, without a tree.
//!
//! The whole text is checked against RFC 8259; of the top-level object the values of known fields are kept, as slices of the
//! text and not yet decoded. The last value of a name counts. Nothing is recursive, so no depth of nesting can exhaust the stack.

use crate::{Rejection, text::unescape};

/// A field's value as it stands in the JSON text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    /// The object has no such field.
    #[default]
    Absent,
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number: its JSON text.
    Number(&'a str),
    /// A text without escapes: what stands between its quotes.
    Text(&'a str),
    /// A text with at least one escape, all of them well-formed: what stands between its quotes.
    Escaped(&'a str),
    /// An object or a list.
    Composite,
}

/// Reads one JSON object; `slot` tells where in the result the value of a name belongs, if anywhere.
pub(crate) fn read_object<const N: usize>(
    json: &str,
    slot: impl Fn(&str) -> Option<usize>,
) -> Result<[Raw<'_>; N], Rejection> {
    let mut found = [Raw::Absent; N];
    let mut scanner = Scanner { json, at: 0 };
    scanner.space();
    let is_object = scanner.eat(b'{');
    let read = if is_object {
        scanner.object(|name, value| {
            if let Some(place) = slot(name).and_then(|slot| found.get_mut(slot)) {
                *place = value;
            }
        })
    } else {
        scanner.value().map(|_| ())
    };
    scanner.space();
    match read {
        Some(()) if scanner.at == json.len() => {
            if is_object {
                Ok(found)
            } else {
                Err(Rejection::NotAnObject)
            }
        }
        _ => Err(Rejection::NotJson),
    }
}

/// A place in a JSON text. Its methods step over what they are named after and give `None` where something else stands.
struct Scanner<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// The rest of an object, behind its `{`.
    #[inline]
    fn object(&mut self, mut field: impl FnMut(&str, Raw<'a>)) -> Option<()> {
        self.space();
        if self.eat(b'}') {
            return Some(());
        }
        loop {
            let name = self.name()?;
            let value = self.value()?;
            match name {
                Raw::Text(name) => field(name, value),
                // A name that is no text (a lone surrogate) is the name of no field.
                Raw::Escaped(name) => {
                    if let Some(name) = unescape(name) {
                        field(&name, value);
                    }
                }
                _ => return None,
            }
            self.space();
            if self.eat(b',') {
                self.space();
            } else {
                return self.expect(b'}');
            }
        }
    }

    /// A field's name with the colon and the space behind it.
    #[inline]
    fn name(&mut self) -> Option<Raw<'a>> {
        self.expect(b'"')?;
        let name = self.text()?;
        self.space();
        self.expect(b':')?;
        self.space();
        Some(name)
    }

    #[inline]
    fn value(&mut self) -> Option<Raw<'a>> {
        match self.peek()? {
            b'"' => {
                self.at += 1;
                self.text()
            }
            b'-' | b'0'..=b'9' => self.number(),
            b'n' => self.word("null", Raw::Null),
            b't' => self.word("true", Raw::Bool(true)),
            b'f' => self.word("false", Raw::Bool(false)),
            b'{' | b'[' => self.composite().map(|()| Raw::Composite),
            _ => None,
        }
    }

    #[inline]
    fn word(&mut self, word: &str, meaning: Raw<'a>) -> Option<Raw<'a>> {
        self.json.as_bytes().get(self.at..)?.starts_with(word.as_bytes()).then(|| {
            self.at += word.len();
            meaning
        })
    }

    /// The rest of a text, behind its opening quote.
    #[inline]
    fn text(&mut self) -> Option<Raw<'a>> {
        let from = self.at;
        let mut escaped = false;
        loop {
            let rest = self.json.as_bytes().get(self.at..)?;
            let run = plain_run(rest);
            self.at += run;
            match rest.get(run)? {
                b'"' => {
                    let text = self.json.get(from..self.at)?;
                    self.at += 1;
                    return Some(if escaped { Raw::Escaped(text) } else { Raw::Text(text) });
                }
                b'\\' => {
                    escaped = true;
                    self.at += escape_len(rest.get(run + 1..)?)?;
                }
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Raw<'a>> {
        let from = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        self.json.get(from..self.at).map(Raw::Number)
    }

    /// One digit or more.
    #[inline]
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// An object or list with all it holds.
    fn composite(&mut self) -> Option<()> {
        // What closes each object or list that is open, the innermost last.
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    self.at += 1;
                    self.space();
                    if !self.eat(close) {
                        open.push(close);
                        if close == b'}' {
                            self.name()?;
                        }
                        continue;
                    }
                }
                _ => {
                    self.value()?;
                }
            }
            // Behind a value: close what ends here, then go on with the next one.
            loop {
                let Some(&close) = open.last() else { return Some(()) };
                self.space();
                if self.eat(b',') {
                    self.space();
                    if close == b'}' {
                        self.name()?;
                    }
                    break;
                }
                self.expect(close)?;
                open.pop();
            }
        }
    }
}

/// How many bytes an escape has with its backslash; `rest` begins behind that.
fn escape_len(rest: &[u8]) -> Option<usize> {
    match rest.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => rest.get(1..5)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        _ => None,
    }
}

/// How many bytes stand before the first quote, backslash or control character, or in all of `bytes` when there is none.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    // Long texts go by in blocks, which the compiler turns into vector instructions; the place within one is found by words.
    let blocks =
        bytes.as_chunks::<32>().0.iter().take_while(|block| !block.iter().fold(false, |any, &b| any | is_special(b)));
    let from = blocks.count() * 32;
    let (words, rest) = bytes[from..].as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return from + at * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let end = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
    from + words.len() * 8 + end
}

/// Whether a byte ends a run of plain text.
#[inline]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// Sets the high bit of the lowest byte of `word` that is a quote, a backslash or a control character, perhaps of bytes above
/// it too, and of none below it. Bit twiddling after Mycroft: a borrow can only reach bytes above a true match.
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
    fn values_are_kept_as_they_stand() {
        for (value, raw) in [
            ("null", Raw::Null),
            ("true", Raw::Bool(true)),
            ("false", Raw::Bool(false)),
            ("-0.50e+7", Raw::Number("-0.50e+7")),
            ("0", Raw::Number("0")),
            (r#""""#, Raw::Text("")),
            (r#"" é\u00e9 ""#, Raw::Escaped(r" é\u00e9 ")),
            (r#""a text that is longer than a word, é""#, Raw::Text("a text that is longer than a word, é")),
            (r#"{"a": [1, {"b": {}}, []], "b": "]"}"#, Raw::Composite),
            ("[]", Raw::Composite),
        ] {
            assert_eq!(read(&format!("{{\"a\":{value}}}")), Ok([raw, Raw::Absent]), "{value}");
            assert_eq!(
                read(&format!("\t{{ \"x\" : {value} , \"b\" :\r{value} }}\n")),
                Ok([Raw::Absent, raw]),
                "{value}"
            );
        }
    }

    #[test]
    fn the_last_value_of_a_name_counts_however_it_is_written() {
        assert_eq!(read(r#"{"a": 1, "\u0061": null, "b": 2, "a": 3}"#), Ok([Raw::Number("3"), Raw::Number("2")]));
        assert_eq!(read(r#"{"a": 1, "\u0061": [2]}"#), Ok([Raw::Composite, Raw::Absent]));
        assert_eq!(read(r#"{"a\u0000": 1, "a\ud800": 2, "A": 3, " a": 4}"#), Ok([Raw::Absent; 2]));
    }

    #[test]
    fn only_objects_are_records() {
        for json in ["[]", "[{}]", "\"{}\"", "1", "-1.5e3", "true", "null", " [ 1 , 2 ] "] {
            assert_eq!(read(json), Err(Rejection::NotAnObject), "{json}");
        }
    }

    #[test]
    fn what_is_not_strictly_json_is_refused() {
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
    fn special_bytes_are_found_at_every_place() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for len in 0..40 {
                for at in 0..len {
                    let mut bytes: Vec<u8> = (0..len)
                        .map(|n| [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff, 0xa2, 0xdc][n % 10])
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
