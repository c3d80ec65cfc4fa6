//! Splits the text of an imported object into raw records.
//!
//! Records are objects one after the other, with or without line breaks, or the elements of an
//! array; they may be indented over several lines. A record that is broken ends with its line, or,
//! if it has several, before the next line that begins like a record; so it takes no good one with
//! it. An object that begins a line inside of a record must be indented more than the record,
//! unless that is an element. What is between records and no record counts as one, up to the end of
//! its line.

use std::mem;

use anyhow::Result;

/// The most levels of objects and lists. Deeper ones can't be read anyway.
const MAX_DEPTH: usize = 256;
/// A byte order mark.
const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Splitter of a text that comes in pieces of any size. Holds one byte more of a record than it may
/// have, which shows that it is too large.
pub struct Splitter {
    max_bytes: usize,
    /// The record that has begun.
    record: Vec<u8>,
    state: State,
    /// Whether records are elements of an array.
    in_array: bool,
    /// The number of bytes before this one in its line.
    column: usize,
    /// Whether these are white space.
    is_indented: bool,
}

enum State {
    Between,
    /// This many bytes of a byte order mark.
    Mark(usize),
    Value(Value),
    /// No object or list: up to the end of the line, or of the element.
    Other(Other),
    /// Behind a bracket in a broken element, which may be that of the array.
    Closing(Other),
    /// Behind a broken record that began in this column.
    Skipping(usize),
}

/// A string in a text, or what is around it.
#[derive(Default)]
struct Text {
    in_string: bool,
    is_escaped: bool,
}

impl Text {
    /// Takes a byte; returns whether it is part of a string.
    const fn take(&mut self, byte: u8) -> bool {
        if !self.in_string {
            self.in_string = byte == b'"';
            return self.in_string;
        }
        if self.is_escaped {
            self.is_escaped = false;
        } else if byte == b'\\' {
            self.is_escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
        }
        true
    }
}

/// A text that is no object or list.
#[derive(Default)]
struct Other {
    text: Text,
    /// Whether it began as one.
    is_broken: bool,
}

/// An object, or a list that is an element of an array.
struct Value {
    /// The column of its first byte.
    column: usize,
    /// Whether it is an element of an array.
    is_element: bool,
    /// Whether nothing but white space is before it in its line.
    is_first: bool,
    /// Whether it has several lines.
    has_lines: bool,
    text: Text,
    /// The brackets that are open.
    open: Vec<u8>,
    /// The last byte that is no white space.
    last: u8,
}

/// What a byte does to a value.
enum Step {
    Continues,
    Ends,
    /// The value can't be JSON. This byte is no part of it.
    Broken,
    /// The value isn't an element, but another array, whose first element begins with this byte.
    IsArray,
}

impl Value {
    const fn new(column: usize, is_element: bool, is_first: bool) -> Self {
        Self {
            column,
            is_element,
            is_first,
            has_lines: false,
            text: Text {
                in_string: false,
                is_escaped: false,
            },
            open: Vec::new(),
            last: 0,
        }
    }

    /// Takes the next byte, which stands in `column` behind nothing but white space if
    /// `is_indented`.
    fn take(&mut self, byte: u8, column: usize, is_indented: bool) -> Step {
        if byte == b'\n' {
            if self.text.in_string {
                return Step::Broken;
            }
            self.has_lines = true;
        }
        if byte.is_ascii_whitespace() && !self.text.in_string {
            return Step::Continues;
        }
        if !self.text.take(byte) {
            match byte {
                b'{' if self.is_first && self.open == b"[" && self.last == b'[' => {
                    return Step::IsArray;
                }
                b'{' | b'[' => {
                    let is_new =
                        byte == b'{' && self.has_lines && is_indented && !self.may_open(column);
                    if is_new || self.open.len() == MAX_DEPTH {
                        return Step::Broken;
                    }
                    self.open.push(byte);
                }
                b'}' | b']' => {
                    // The codes of two brackets that match differ by two.
                    if self.open.pop() != Some(byte - 2) {
                        return Step::Broken;
                    }
                    if self.open.is_empty() {
                        return Step::Ends;
                    }
                }
                _ => {}
            }
        }
        self.last = byte;
        Step::Continues
    }

    /// Whether an object may begin here. If the value is no element, one that is indented no more
    /// than the value is the next record.
    fn may_open(&self, column: usize) -> bool {
        if self.open.last() == Some(&b'{') {
            return self.last == b':' && column > 0;
        }
        let is_inside = self.is_element || column > self.column;
        is_inside && matches!(self.last, b'[' | b',')
    }
}

impl Splitter {
    /// A splitter for records that may have `max_bytes`.
    pub const fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            record: Vec::new(),
            state: State::Between,
            in_array: false,
            column: 0,
            is_indented: true,
        }
    }

    /// Takes the next bytes, and passes records that are complete to `take`.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            // Most of a record are strings.
            let plain = self.plain(rest);
            if plain > 0 {
                self.keep(&rest[..plain]);
                self.column += plain;
                rest = &rest[plain..];
                continue;
            }
            self.byte(byte, &mut take)?;
            if byte == b'\n' {
                (self.column, self.is_indented) = (0, true);
            } else {
                self.column += 1;
                self.is_indented &= byte.is_ascii_whitespace();
            }
            rest = behind;
        }
        Ok(())
    }

    /// The number of bytes at the front that are within a string of a value and don't end it.
    fn plain(&self, bytes: &[u8]) -> usize {
        let State::Value(Value { text, .. }) = &self.state else {
            return 0;
        };
        if !text.in_string || text.is_escaped {
            return 0;
        }
        let end = bytes
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\' | b'\n'));
        end.unwrap_or(bytes.len())
    }

    /// Ends the text.
    pub fn finish(mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.state {
            State::Mark(bytes) => take(&MARK[..bytes]),
            State::Value(_) | State::Other(_) | State::Closing(_) => self.end(&mut take),
            // What the array lacks can't be known.
            State::Between if self.in_array => take(b"["),
            State::Between | State::Skipping(_) => Ok(()),
        }
    }

    fn byte(&mut self, byte: u8, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match &mut self.state {
            State::Between => self.between(byte),
            State::Mark(bytes) => {
                let bytes = *bytes;
                if byte != MARK[bytes] {
                    self.state = State::Other(Other::default());
                    self.keep(&MARK[..bytes]);
                    return self.byte(byte, take);
                }
                self.state = if bytes + 1 == MARK.len() {
                    State::Between
                } else {
                    State::Mark(bytes + 1)
                };
            }
            State::Value(value) => match value.take(byte, self.column, self.is_indented) {
                Step::Continues => self.keep(&[byte]),
                Step::Ends => {
                    self.keep(&[byte]);
                    return self.end(take);
                }
                Step::Broken if value.has_lines => {
                    let column = value.column;
                    self.end(take)?;
                    self.state = State::Skipping(column);
                    return self.byte(byte, take);
                }
                Step::Broken => {
                    self.state = State::Other(Other {
                        text: Text::default(),
                        is_broken: true,
                    });
                    return self.byte(byte, take);
                }
                Step::IsArray => {
                    self.end(take)?;
                    return self.byte(byte, take);
                }
            },
            State::Other(other) => {
                let in_string = other.text.take(byte);
                let is_next = self.in_array && !in_string && matches!(byte, b',' | b']');
                if byte == b']' && is_next && other.is_broken {
                    self.state = State::Closing(mem::take(other));
                    return Ok(());
                }
                if byte == b'\n' || is_next {
                    self.end(take)?;
                    return self.byte(byte, take);
                }
                self.keep(&[byte]);
            }
            State::Closing(other) => match byte {
                b'}' | b',' => {
                    self.state = State::Other(mem::take(other));
                    self.keep(b"]");
                    return self.byte(byte, take);
                }
                b' ' | b'\t' | b'\r' => {}
                _ => {
                    self.end(take)?;
                    self.in_array = false;
                    return self.byte(byte, take);
                }
            },
            State::Skipping(column) => {
                if self.is_indented && self.column <= *column && matches!(byte, b'{' | b'[' | b']')
                {
                    self.state = State::Between;
                    return self.byte(byte, take);
                }
            }
        }
        Ok(())
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b',' => {}
            _ if byte.is_ascii_whitespace() => {}
            b'[' if !self.in_array => self.in_array = true,
            b']' if self.in_array => self.in_array = false,
            b'{' | b'[' => {
                let mut value = Value::new(self.column, self.in_array, self.is_indented);
                value.take(byte, self.column, self.is_indented);
                self.state = State::Value(value);
                self.keep(&[byte]);
            }
            _ if byte == MARK[0] => self.state = State::Mark(1),
            _ => {
                let mut other = Other::default();
                other.text.take(byte);
                self.state = State::Other(other);
                self.keep(&[byte]);
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.max_bytes.saturating_add(1) - self.record.len();
        self.record
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.state = State::Between;
        take(self.record.trim_ascii_end())?;
        self.record.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a text that comes in pieces of this size.
    fn split(text: &[u8], size: usize, max_bytes: usize) -> Vec<String> {
        let (mut splitter, mut records) = (Splitter::new(max_bytes), Vec::new());
        let mut take = |record: &[u8]| {
            records.push(String::from_utf8_lossy(record).into_owned());
            Ok(())
        };
        for piece in text.chunks(size) {
            splitter.push(piece, &mut take).unwrap();
        }
        splitter.finish(&mut take).unwrap();
        records
    }

    fn assert_records(text: &str, records: &[&str]) {
        for size in [1, 2, 7, 1000] {
            assert_eq!(split(text.as_bytes(), size, 100), records, "{text} {size}");
        }
    }

    #[test]
    fn objects_follow_each_other_in_any_form() {
        let (a, b, c) = (r#"{"a":"}\"{"}"#, r#"{"b":[{}, {"c":[]}]}"#, r#"{"d":1}"#);
        for separator in ["", "\n", "\r\n", " ", "\n\n", ",\n", "\n\u{feff}"] {
            assert_records(&[a, b, c].join(separator), &[a, b, c]);
            let text = format!("\u{feff}{}\n", [a, b, c].join(separator));
            assert_records(&text, &[a, b, c]);
        }
        for text in [
            format!("[{a},{b},{c}]"),
            format!("\u{feff} [\n  {a},\n  {b},\n  {c}\n]\n"),
            format!("[{a}]\n[{b},{c}]\n[]\n"),
            format!("[{a},{b}]{c}"),
        ] {
            assert_records(&text, &[a, b, c]);
        }
        assert_records("", &[]);
        assert_records("\u{feff}\n", &[]);
    }

    #[test]
    fn indented_objects_are_whole() {
        let indented = "{\n    \"a\": [\n        {\n            \"b\": 1\n        },\n        \
                        {}\n    ],\n    \"c\":\n    {\n    }\n}";
        assert_records(indented, &[indented]);
        assert_records(
            &format!("{indented}\n{indented}\n{{}}"),
            &[indented, indented, "{}"],
        );
        let list = format!("[\n{indented},\n{indented}\n]");
        assert_records(&list, &[indented, indented]);
    }

    #[test]
    fn a_broken_record_takes_no_good_one_with_it() {
        for broken in [
            "not json",
            r#"{"a": "cut o"#,
            r#"{"a": "#,
            r#"{"a"#,
            r#"{"a": 1]"#,
            "{'a': 1]}",
            r#"{"a": [1, {"b": 2}"#,
            "12",
            r#""{}""#,
            "}",
            "null",
        ] {
            assert_records(
                &format!("{{\"n\":1}}\n{broken}\n{{\"n\":2}}\n{{\"n\":3}}\n"),
                &[r#"{"n":1}"#, broken.trim_end(), r#"{"n":2}"#, r#"{"n":3}"#],
            );
        }
        let good = "{\n  \"n\": 1\n}";
        let cut = "{\n  \"n\": \"a";
        assert_records(&format!("{cut}\n  \"m\": 2\n}}\n{good}\n"), &[cut, good]);
    }

    #[test]
    fn a_bracket_too_many_or_too_few_takes_no_good_record_with_it() {
        let [one, two, three, four] = [1, 2, 3, 4].map(|n| format!("{{\"n\":{n}}}"));
        for (text, records) in [
            (
                format!("[{one},{{\"n\":2]}},{three},{four}]\n{one}"),
                [&*one, r#"{"n":2]}"#, &*three, &*four, &*one],
            ),
            (
                format!("[{one},{two},{{\"n\":]\n[{three}]\n{four}"),
                [&*one, &*two, r#"{"n":"#, &*three, &*four],
            ),
            (
                format!("[{one},{two}\n[{three},{four}]\n"),
                [&*one, &*two, "[", &*three, &*four],
            ),
            (
                format!("{one}\n{{\"tags\":[\"a\",\n{two}\n{three}\n{four}\n"),
                [&*one, r#"{"tags":["a","#, &*two, &*three, &*four],
            ),
        ] {
            assert_records(&text, &records);
        }
    }

    #[test]
    fn elements_that_are_no_objects_are_records_of_their_own() {
        assert_records(
            r#"[1, "a,]", [2], {"n":1}, null]"#,
            &["1", r#""a,]""#, "[2]", r#"{"n":1}"#, "null"],
        );
        assert_records(r#"[{"n":1},"#, &[r#"{"n":1}"#, "["]);
        assert_records(r#"[{"n":1}, {"n""#, &[r#"{"n":1}"#, r#"{"n""#]);
    }

    #[test]
    fn of_a_large_record_one_byte_more_than_allowed_is_held() {
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
        let text = format!("{large}\n{}\n{{\"n\":1}}", "y".repeat(1 << 20));
        for size in [7, 1 << 16] {
            let records = split(text.as_bytes(), size, 10);
            let lengths: Vec<usize> = records.iter().map(String::len).collect();
            assert_eq!(lengths, [11, 11, 7]);
        }
        let deep = "[".repeat(1 << 20);
        let mut splitter = Splitter::new(10);
        splitter.push(b"[", |_| Ok(())).unwrap();
        splitter.push(deep.as_bytes(), |_| Ok(())).unwrap();
        assert!(splitter.record.capacity() < 100);
        splitter.push(b"\n{}]", |_| Ok(())).unwrap();
        splitter.finish(|record| panic!("{record:?}")).unwrap();
    }
}
