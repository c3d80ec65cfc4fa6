//! Positions of JSON syntax errors, for messages to clients.

use std::fmt;

use serde::de::IgnoredAny;

/// Bytes of an excerpt before and after the error.
const CONTEXT: usize = 20;

/// A position in a text, with an excerpt around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    line: usize,
    /// Column in characters, from 1.
    column: usize,
    /// The text around the position.
    excerpt: String,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            excerpt,
        } = self;
        write!(f, "line {line}, column {column}, near `{excerpt}`")
    }
}

impl Position {
    /// The position of the byte at offset `at`, or of the end if there is no such byte.
    #[must_use]
    pub fn of(text: &[u8], at: usize) -> Self {
        let (before, after) = text.split_at(at.min(text.len()));
        let line_start = before.iter().rposition(|byte| *byte == b'\n');
        let line_start = line_start.map_or(0, |newline| newline + 1);
        let in_line = before[line_start..].utf8_chunks();
        let characters = in_line
            .map(|chunk| chunk.valid().chars().count() + usize::from(!chunk.invalid().is_empty()));
        Self {
            line: before.split(|byte| *byte == b'\n').count(),
            column: characters.sum::<usize>() + 1,
            excerpt: excerpt(before, after),
        }
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

/// Says where and why a record is not JSON. `None` if it is.
#[must_use]
pub fn describe(record: &[u8]) -> Option<String> {
    if record.is_empty() {
        return Some("the record is empty: remove the comma before it".to_owned());
    }
    let error = serde_json::from_slice::<IgnoredAny>(record).err()?;
    let at = if error.is_eof() {
        record.len()
    } else {
        line_start(record, error.line()) + error.column().saturating_sub(1)
    };
    let message = error.to_string();
    let end = format!(" at line {} column {}", error.line(), error.column());
    let problem = message.strip_suffix(&end).unwrap_or(&message);
    let position = Position::of(record, at);
    Some(format!("the record is not JSON: {problem} at {position}"))
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
            assert_eq!(describe(record.as_bytes()), expected);
        }
        assert_eq!(describe(br#"{"ind": 1}"#), None);
        assert!(describe(b"").unwrap().contains("empty"));
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
