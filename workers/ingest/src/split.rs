//! Splits a request body into raw records, as slices of the body.
//!
//! Only the structure between records is checked. An error inside a record is found when its key is
//! read and affects that record only. Nothing here recurses, so deep nesting is harmless, and the
//! time is linear in the body's length.

use crate::syntax::Position;

/// U+FEFF in UTF-8, which some programs write at the beginning of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A body without a byte order mark.
#[must_use]
pub fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)
}

/// Why a body can't be split. None of its records is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsplit {
    /// It is unknown where the records of an array end.
    Broken(BrokenArray),
    /// There are more records than the limit.
    TooMany,
}

/// What is wrong with an array.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenArray {
    /// The body ends before the array does.
    #[error("the array isn't closed: a ']' is missing, or a '}}' or '\"' inside a record")]
    Unclosed,
    /// The array is followed by something else.
    #[error("the array is followed by something else at {0}")]
    Trailing(Position),
    /// A closing bracket has no opening one.
    #[error("the array has a closing bracket without an opening one at {0}")]
    Unmatched(Position),
}

/// The records found so far.
struct Records<'a> {
    found: Vec<&'a [u8]>,
    limit: usize,
}

impl<'a> Records<'a> {
    /// Adds a record without the white space around it.
    fn push(&mut self, record: &'a [u8]) -> Result<(), Unsplit> {
        if self.found.len() == self.limit {
            return Err(Unsplit::TooMany);
        }
        self.found.push(record.trim_ascii());
        Ok(())
    }
}

/// Returns the raw records of a body in order, without surrounding white space. There are none if
/// the body is empty or an empty array. Stops at the first record over `limit`. A byte order mark
/// at the beginning is skipped.
pub fn records(body: &[u8], limit: usize) -> Result<Vec<&[u8]>, Unsplit> {
    let whole = without_mark(body);
    let body = whole.trim_ascii();
    let mut records = Records {
        found: Vec::new(),
        limit,
    };
    if body.first() == Some(&b'[') {
        let skipped = whole.len() - whole.trim_ascii_start().len();
        array(body, &mut records, |at| Position::of(whole, skipped + at))?;
    } else {
        objects(body, &mut records)?;
    }
    Ok(records.found)
}

/// Adds the objects of `rest`, which stand one after the other, with or without line breaks. What
/// is not a closed object goes up to the next line that begins with one, as one record.
fn objects<'a>(body: &'a [u8], records: &mut Records<'a>) -> Result<(), Unsplit> {
    // Bytes that may be read twice. Once they are used up, an object has to end on its line.
    let mut twice = body.len();
    let (mut rest, mut end_of_line) = (body, 0);
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(());
        }
        let at = body.len() - rest.len();
        let within = if twice == 0 {
            // Many objects may be on a line.
            if end_of_line <= at {
                end_of_line = at + line_end(rest);
            }
            &body[at..end_of_line]
        } else {
            rest
        };
        let end = object_end(within).unwrap_or_else(|read| {
            let end = next_object(rest);
            twice = twice.saturating_sub(read.saturating_sub(end));
            end
        });
        let (record, after) = rest.split_at(end);
        records.push(record)?;
        rest = after;
    }
}

/// The offset of the first line break, or the end.
fn line_end(text: &[u8]) -> usize {
    memchr::memchr(b'\n', text).unwrap_or(text.len())
}

/// The offset of the next line that begins with an object, or the end.
fn next_object(text: &[u8]) -> usize {
    let mut at = line_end(text);
    while at < text.len() {
        let line = &text[at + 1..];
        // Not the line break, so that blank lines are not read again from each of them.
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\x0c');
        if line.iter().find(|byte| !is_space(byte)) == Some(&b'{') {
            return at + 1;
        }
        at += 1 + line_end(line);
    }
    text.len()
}

/// Adds the elements of the array `body`. `position` converts an offset in `body`.
fn array<'a>(
    body: &'a [u8],
    elements: &mut Records<'a>,
    position: impl Fn(usize) -> Position,
) -> Result<(), Unsplit> {
    let mut start = 1;
    let mut scan = Scan::of_array(body);
    let mut depth = 0_usize;
    while let Some((at, token)) = scan.next_token() {
        match token {
            b'{' | b'[' => depth += 1,
            b']' if depth == 0 => {
                let last = &body[start..at];
                if !(last.trim_ascii().is_empty() && elements.found.is_empty()) {
                    elements.push(last)?;
                }
                let rest = body[scan.at..].trim_ascii_start();
                return if rest.is_empty() {
                    Ok(())
                } else {
                    let at = position(body.len() - rest.len());
                    Err(Unsplit::Broken(BrokenArray::Trailing(at)))
                };
            }
            b'}' | b']' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| Unsplit::Broken(BrokenArray::Unmatched(position(at))))?;
            }
            b',' if depth == 0 => {
                elements.push(&body[start..at])?;
                start = at + 1;
            }
            _ => {}
        }
    }
    Err(Unsplit::Broken(BrokenArray::Unclosed))
}

/// The end of the object at the start of `text`; if it has none, how far `text` was read.
///
/// An object on a line of its own belongs to the one before only if it stands where JSON has a
/// value. A string doesn't go on over the end of a line.
fn object_end(text: &[u8]) -> Result<usize, usize> {
    if text.first() != Some(&b'{') {
        return Err(0);
    }
    let mut scan = Scan::of_lines(text);
    let mut depth = 0_usize;
    while let Some((at, token)) = scan.next_token() {
        match token {
            b'{' if depth > 0 && begins_record(&text[..at]) => return Err(at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(scan.at);
        }
    }
    Err(scan.at.min(text.len()))
}

/// Whether an object that stands behind `before` within another one must be the next record: it
/// begins a line, but not where JSON has a value.
fn begins_record(before: &[u8]) -> bool {
    let trimmed = before.trim_ascii_end();
    before[trimmed.len()..].contains(&b'\n') && !matches!(trimmed.last(), Some(b':' | b'[' | b','))
}

/// Scans for JSON's brackets and commas outside strings.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// Whether a line break in a string ends the scan.
    by_line: bool,
}

impl<'a> Scan<'a> {
    /// Scans an array behind its opening bracket.
    const fn of_array(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 1,
            by_line: false,
        }
    }

    const fn of_lines(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            by_line: true,
        }
    }

    fn next_token(&mut self) -> Option<(usize, u8)> {
        loop {
            let is_token = |rest: &[u8]| rest.iter().position(|byte| IS_TOKEN[usize::from(*byte)]);
            let found = self.skip_to(is_token)?;
            if found != b'"' {
                return Some((self.at - 1, found));
            }
            self.skip_string()?;
        }
    }

    /// Moves after the closing quote. `None` if there is none.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            match self.skip_to(|rest| memchr::memchr3(b'"', b'\\', b'\n', rest))? {
                b'\\' => self.at += 1,
                b'\n' if self.by_line => return None,
                b'\n' => {}
                _ => return Some(()),
            }
        }
    }

    /// Moves after the next byte that `find` finds, and returns it. Moves to the end if there is
    /// none.
    fn skip_to(&mut self, find: impl Fn(&[u8]) -> Option<usize>) -> Option<u8> {
        let rest = self.text.get(self.at..)?;
        let found = find(rest);
        self.at += found.map_or(rest.len(), |at| at + 1);
        found.map(|at| rest[at])
    }
}

/// The bytes that [`Scan`] stops at.
const IS_TOKEN: [bool; 256] = {
    let mut is_token = [false; 256];
    let tokens = b"\"{}[],";
    let mut at = 0;
    while at < tokens.len() {
        is_token[tokens[at] as usize] = true;
        at += 1;
    }
    is_token
};

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 10;

    fn split(body: &str) -> Result<Vec<&str>, Unsplit> {
        records(body.as_bytes(), LIMIT).map(|all| {
            all.into_iter()
                .map(|one| std::str::from_utf8(one).unwrap())
                .collect()
        })
    }

    #[test]
    fn json_bodies() {
        for (body, expected) in [
            ("", vec![]),
            (" \r\n ", vec![]),
            ("[]", vec![]),
            ("[ \n ]", vec![]),
            (r#" {"a": 1} "#, vec![r#"{"a": 1}"#]),
            ("{\n \"a\": [1,\n2]\n}\n", vec!["{\n \"a\": [1,\n2]\n}"]),
            (r#"[{"a": 1}]"#, vec![r#"{"a": 1}"#]),
            (
                r#"[ {"a": [1, {"b": 2}]} , {"c": "],\"}[\\"},3 ]"#,
                vec![r#"{"a": [1, {"b": 2}]}"#, r#"{"c": "],\"}[\\"}"#, "3"],
            ),
            ("[1,,2]", vec!["1", "", "2"]),
            ("[1,]", vec!["1", ""]),
            (
                "{\"a\": 1}\n{\"b\": 2}\n",
                vec![r#"{"a": 1}"#, r#"{"b": 2}"#],
            ),
            (
                "{\"a\": 1}\r\n\r\nnonsense\n{\"b\": 2}",
                vec![r#"{"a": 1}"#, "nonsense", r#"{"b": 2}"#],
            ),
            ("not json", vec!["not json"]),
            (r#"{"a": "unclosed"#, vec![r#"{"a": "unclosed"#]),
            (r#"{"a": "\"#, vec![r#"{"a": "\"#]),
            ("\"a\"", vec!["\"a\""]),
        ] {
            assert_eq!(split(body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn a_broken_array_is_not_split() {
        for body in ["[", "[1", "[1,", r#"["]"#, "[[1]"] {
            assert_eq!(
                split(body),
                Err(Unsplit::Broken(BrokenArray::Unclosed)),
                "{body}"
            );
        }
        for (body, at) in [("[1] 2", 4), ("\n[1]]", 4)] {
            let position = Position::of(body.as_bytes(), at);
            let expected = Err(Unsplit::Broken(BrokenArray::Trailing(position)));
            assert_eq!(split(body), expected, "{body}");
        }
        for (body, at) in [("[{]}]", 3), (r#"[{"a": 1}}]"#, 9)] {
            let position = Position::of(body.as_bytes(), at);
            let expected = Err(Unsplit::Broken(BrokenArray::Unmatched(position)));
            assert_eq!(split(body), expected, "{body}");
        }
    }

    #[test]
    fn objects_stand_one_after_the_other() {
        for (body, expected) in [
            (
                r#"{"a": 1}{"b": 2} {"c": 3}"#,
                vec![r#"{"a": 1}"#, r#"{"b": 2}"#, r#"{"c": 3}"#],
            ),
            ("\u{feff}{}", vec!["{}"]),
            ("\u{feff}[{}]", vec!["{}"]),
            (
                "{\n  \"a\": [\n {\"b\":\n{}}\n,\n{}]\n}\n{\n  \"a\": 2\n}",
                vec![
                    "{\n  \"a\": [\n {\"b\":\n{}}\n,\n{}]\n}",
                    "{\n  \"a\": 2\n}",
                ],
            ),
            // What is broken takes no other record with it.
            ("{\"a\": \"1\n{\"b\": 2}", vec!["{\"a\": \"1", "{\"b\": 2}"]),
            (
                "{\"a\": {\n{\"b\": 2}\n{}",
                vec!["{\"a\": {", "{\"b\": 2}", "{}"],
            ),
            ("{\"a\": {}\n{\"b\": 2}", vec!["{\"a\": {}", "{\"b\": 2}"]),
            (
                "{\"a\": 1,\n{\"b\": 2}\n{}",
                vec!["{\"a\": 1,", "{\"b\": 2}", "{}"],
            ),
            ("{\"a\": 1,\n{\"b\": 2}", vec!["{\"a\": 1,", "{\"b\": 2}"]),
            ("{\"a\": [\n{\"b\": 2}", vec!["{\"a\": [", "{\"b\": 2}"]),
            ("{}} \n {}", vec!["{}", "}", "{}"]),
            ("{\n \"a\": 1,\n \"b\"", vec!["{\n \"a\": 1,\n \"b\""]),
            ("x\ny\n{}\nz", vec!["x\ny", "{}", "z"]),
        ] {
            assert_eq!(split(body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn the_time_is_linear_in_the_length() {
        for line in ["{\"a\":[\n", "{\"a\":[\"\n", "{\"a\":\n"] {
            let body = [line.repeat(200_000).as_bytes(), b"\"\n}"].concat();
            assert_eq!(records(&body, usize::MAX).unwrap().len(), 200_000, "{line}");
        }
        let blank = "\n".repeat(1_000_000);
        for (before, after, count) in [("x", "x", 1), ("{\"a", "x", 1), ("x", "{}", 2)] {
            let body = [before, &blank, after].concat();
            assert_eq!(records(body.as_bytes(), usize::MAX).unwrap().len(), count);
        }
        // Once nothing may be read twice, many objects on one line.
        let body = "{\"a\":[\n".repeat(100_000) + &"{}".repeat(500_000);
        let all = records(body.as_bytes(), usize::MAX);
        assert!(all.unwrap().len() > 500_000);
    }

    #[test]
    fn splitting_stops_at_the_limit() {
        for (open, separator, close) in [("[", ",", "]"), ("", "\n", ""), ("", "", "")] {
            let body = |count: usize| {
                let records = vec!["{}"; count].join(separator);
                format!("{open}{records}{close}")
            };
            assert_eq!(split(&body(LIMIT)).unwrap().len(), LIMIT);
            assert_eq!(split(&body(LIMIT + 1)), Err(Unsplit::TooMany));
        }
        let nothing = format!("[{}", ",".repeat(1_000_000));
        assert_eq!(split(&nothing), Err(Unsplit::TooMany));
    }

    #[test]
    fn deep_nesting_is_harmless() {
        let deep = format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(split(&deep).unwrap().len(), 1);
    }
}
