//! Positions of JSON syntax errors, for messages to clients.

use std::fmt;

use serde::de::IgnoredAny;

/// Bytes of an excerpt before and after the error.
const CONTEXT: usize = 20;

/// A position in a text, with an excerpt around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    place: Place,
    /// The text around the position.
    excerpt: String,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place: Place { line, column },
            excerpt,
        } = self;
        write!(f, "line {line}, column {column}, near `{excerpt}`")
    }
}

impl Position {
    /// The position of the byte at offset `at`, or of the end if there is no such byte.
    #[must_use]
    pub fn of(text: &[u8], at: usize) -> Self {
        Self::within(text, at, START)
    }

    /// The position in a request of the byte at offset `at` of `text`, which begins at `start`.
    fn within(text: &[u8], at: usize, start: Place) -> Self {
        let at = at.min(text.len());
        let (before, after) = text.split_at(at);
        let place = start.after(before);
        Self {
            place,
            excerpt: excerpt(before, after),
        }
    }
}

/// A line and a column, both from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    line: usize,
    column: usize,
}

/// The beginning of a text.
pub const START: Place = Place { line: 1, column: 1 };

impl Place {
    /// The place after `text`, which begins here.
    fn after(self, text: &[u8]) -> Self {
        let newline = text.iter().rposition(|byte| *byte == b'\n');
        let (line, column, rest) = match newline {
            None => (self.line, self.column, text),
            Some(last) => {
                let newlines = memchr::memchr_iter(b'\n', text).count();
                (self.line + newlines, 1, &text[last + 1..])
            }
        };
        let characters = rest
            .utf8_chunks()
            .map(|chunk| chunk.valid().chars().count() + usize::from(!chunk.invalid().is_empty()));
        Self {
            line,
            column: column + characters.sum::<usize>(),
        }
    }
}

/// Finds the places of slices of a text, one after the other, in linear time.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    place: Place,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a text.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            place: START,
        }
    }

    /// Where a slice of the text begins. The beginning of the text for one before the last one, or
    /// of another text.
    pub fn place(&mut self, slice: &[u8]) -> Place {
        let offset = slice
            .as_ptr()
            .addr()
            .wrapping_sub(self.text.as_ptr().addr());
        let Some(between) = self.text.get(self.at..offset) else {
            return START;
        };
        self.place = self.place.after(between);
        self.at = offset;
        self.place
    }
}

/// Up to 40 bytes around a position. Whole characters; control characters, backslashes and invalid
/// UTF-8 are escaped, so no two texts look alike.
fn excerpt(before: &[u8], after: &[u8]) -> String {
    let is_inside_character = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let start = before.len().saturating_sub(CONTEXT);
    let before = &before[start..];
    let whole = before.iter().position(|byte| !is_inside_character(byte));
    let before = if start == 0 {
        before
    } else {
        &before[whole.unwrap_or(before.len())..]
    };
    let mut end = after.len().min(CONTEXT);
    while after.get(end).is_some_and(is_inside_character) && end > 0 {
        end -= 1;
    }
    let mut text = String::new();
    for chunk in [before, &after[..end]].concat().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\'' => text.push(character),
                _ => text.extend(character.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.extend(std::ascii::escape_default(*byte).map(char::from));
        }
    }
    text
}

/// Says where and why a text of a request, which begins at `start`, is not JSON. `None` if it is.
#[must_use]
pub fn describe(what: &str, text: &[u8], start: Place) -> Option<String> {
    if text.is_empty() {
        return Some(format!("{what} is empty: remove the comma before it"));
    }
    let error = serde_json::from_slice::<IgnoredAny>(text).err()?;
    let at = if error.is_eof() {
        text.len()
    } else {
        line_start(text, error.line()) + error.column().saturating_sub(1)
    };
    let position = Position::within(text, at, start);
    if is_python(text.get(at..).unwrap_or_default()) {
        return Some(format!(
            "{what} is not JSON but a Python value: send json.dumps(record, default=str), not \
             str(record); {position}"
        ));
    }
    if is_form(text) {
        return Some(format!(
            "{what} is not JSON but the fields of a form, as requests sends a dict with data=: \
             send it with json= in place of data=; {position}"
        ));
    }
    let message = error.to_string();
    let end = format!(" at line {} column {}", error.line(), error.column());
    let problem = message.strip_suffix(&end).unwrap_or(&message);
    Some(format!("{what} is not JSON: {problem} at {position}"))
}

/// Whether a text begins with what Python writes where JSON has something else.
fn is_python(text: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 6] = [b"'", b"None", b"True", b"False", b"datetime", b"Decimal("];
    BEGINNINGS
        .iter()
        .any(|beginning| text.starts_with(beginning))
}

/// Whether a text looks like `name=value&name=value`.
fn is_form(text: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.%+".contains(byte);
    let name = text.iter().take_while(|byte| is_name(byte)).count();
    name > 0 && text.get(name) == Some(&b'=')
}

/// The offset of the first byte of a line, which is counted from 1.
fn line_start(text: &[u8], line: usize) -> usize {
    let newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let previous = line.checked_sub(2);
    previous
        .and_then(|previous| newlines.map(|(at, _)| at + 1).nth(previous))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_has_its_cause_position_and_an_excerpt() {
        for (record, message) in [
            (
                r#"{"ind": 7, "age": NaN}"#,
                r#"expected value at line 1, column 19, near `{"ind": 7, "age": NaN}`"#,
            ),
            (
                "{\"ind\": 1,\n \"é\": 2,}",
                r#"key must be a string at line 2, column 9, near `{"ind": 1,\n "é": 2,}`"#,
            ),
            (
                r#"{"ind": 1"#,
                r#"EOF while parsing an object at line 1, column 10, near `{"ind": 1`"#,
            ),
            (
                "{} x",
                "trailing characters at line 1, column 4, near `{} x`",
            ),
            ("hello", "expected value at line 1, column 1, near `hello`"),
        ] {
            let expected = Some(format!("the record is not JSON: {message}"));
            assert_eq!(describe("the record", record.as_bytes(), START), expected);
        }
        assert_eq!(describe("the record", br#"{"ind": 1}"#, START), None);
        let empty = describe("the record", b"", START).unwrap();
        assert!(empty.contains("empty"), "{empty}");
    }

    #[test]
    fn values_of_python_are_named() {
        for (record, column) in [
            ("{'ind': 1}", 2),
            ("{\"ind\": 'a'}", 9),
            ("{\"ind\": None}", 9),
            ("{\"a\": True}", 7),
            ("{\"a\": datetime.datetime(2020, 8, 28)}", 7),
        ] {
            let message = describe("the record", record.as_bytes(), START).unwrap();
            let at = format!("line 1, column {column},");
            assert!(
                message.contains("Python") && message.contains(&at),
                "{message}"
            );
        }
    }

    #[test]
    fn positions_are_those_in_the_request() {
        let body = "[{\"é\": 1}, {\"a\": x},\n {},\n {\"a\":\n y}, {b}]".as_bytes();
        let mut cursor = Cursor::new(body);
        let mut message = |range: std::ops::Range<usize>| {
            let record = &body[range];
            describe("the record", record, cursor.place(record)).unwrap()
        };
        let begin = |text: &str| {
            let body = std::str::from_utf8(body).unwrap();
            body.find(text).unwrap()
        };
        for (record, expected) in [
            ("{\"a\": x}", "line 1, column 18,"),
            ("{\"a\":\n y}", "line 4, column 2,"),
            ("{b}", "line 4, column 7,"),
        ] {
            let start = begin(record);
            let message = message(start..start + record.len());
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(Cursor::new(body).place(b"elsewhere"), START);
    }

    #[test]
    fn an_excerpt_is_bounded_and_escaped() {
        let excerpt = |text: &[u8], at| Position::of(text, at).excerpt;
        assert_eq!(excerpt(&[b'x'; 100], 50), "x".repeat(40));
        assert_eq!(excerpt("é".repeat(100).as_bytes(), 101), "é".repeat(19));
        assert_eq!(excerpt(b"a\\n\n\x01\xff\"", 3), r#"a\\n\n\u{1}\xff""#);
        assert_eq!(excerpt(b"", 0), "");
        assert_eq!(excerpt(b"abc", 9), "abc");
    }
}
