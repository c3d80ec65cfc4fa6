//! Splits a request body into raw records, as slices of the body.
//!
//! Only the structure between records is checked. An error inside a record is found when its key is
//! read and affects that record only. Nothing here recurses, so deep nesting is harmless.

use crate::syntax::Position;

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/json`: an object, an array of objects or, depending on the content, one object
    /// per line.
    Json,
    /// `application/x-ndjson`: one object per line.
    Lines,
}

impl Form {
    /// The format for a `Content-Type`. `None` if it is not supported.
    #[must_use]
    pub fn of(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match () {
            () if media_type.eq_ignore_ascii_case("application/json") => Some(Self::Json),
            () if media_type.eq_ignore_ascii_case("application/x-ndjson") => Some(Self::Lines),
            () => None,
        }
    }
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
/// the body is empty or an empty array. Stops at the first record over `limit`.
pub fn records(body: &[u8], form: Form, limit: usize) -> Result<Vec<&[u8]>, Unsplit> {
    let whole = body;
    let body = body.trim_ascii();
    let mut records = Records {
        found: Vec::new(),
        limit,
    };
    match form {
        _ if body.is_empty() => {}
        Form::Lines => lines(body, &mut records)?,
        Form::Json if body[0] == b'[' => {
            let skipped = whole.len() - whole.trim_ascii_start().len();
            array(body, &mut records, |at| Position::of(whole, skipped + at))?;
        }
        Form::Json => match value_end(body) {
            Some(end) if end < body.len() => lines(body, &mut records)?,
            _ => records.push(body)?,
        },
    }
    Ok(records.found)
}

fn lines<'a>(body: &'a [u8], records: &mut Records<'a>) -> Result<(), Unsplit> {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .try_for_each(|line| records.push(line))
}

/// Adds the elements of the array `body`. `position` converts an offset in `body`.
fn array<'a>(
    body: &'a [u8],
    elements: &mut Records<'a>,
    position: impl Fn(usize) -> Position,
) -> Result<(), Unsplit> {
    let mut start = 1;
    let mut scan = Scan { text: body, at: 1 };
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

/// The end of the object at the start of `body`. `None` if there is another value, or the object is
/// not closed.
fn value_end(body: &[u8]) -> Option<usize> {
    if body[0] != b'{' {
        return None;
    }
    let mut scan = Scan { text: body, at: 0 };
    let mut depth = 0_usize;
    while let Some((_, token)) = scan.next_token() {
        match token {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(scan.at);
        }
    }
    None
}

/// Scans for JSON's brackets and commas outside strings.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn next_token(&mut self) -> Option<(usize, u8)> {
        loop {
            let at = self.at
                + self
                    .text
                    .get(self.at..)?
                    .iter()
                    .position(|byte| b"\"{}[],".contains(byte))?;
            self.at = at + 1;
            if self.text[at] != b'"' {
                return Some((at, self.text[at]));
            }
            self.skip_string()?;
        }
    }

    /// Moves after the closing quote. `None` if there is none.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            self.at += self
                .text
                .get(self.at..)?
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\'))?
                + 1;
            match self.text[self.at - 1] {
                b'\\' => self.at += 1,
                _ => return Some(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 10;

    fn split(body: &str, form: Form) -> Result<Vec<&str>, Unsplit> {
        records(body.as_bytes(), form, LIMIT).map(|all| {
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
            assert_eq!(split(body, Form::Json), Ok(expected), "{body}");
        }
    }

    #[test]
    fn a_broken_array_is_not_split() {
        for body in ["[", "[1", "[1,", r#"["]"#, "[[1]"] {
            assert_eq!(
                split(body, Form::Json),
                Err(Unsplit::Broken(BrokenArray::Unclosed)),
                "{body}"
            );
        }
        for (body, at) in [("[1] 2", 4), ("\n[1]]", 4)] {
            let position = Position::of(body.as_bytes(), at);
            let expected = Err(Unsplit::Broken(BrokenArray::Trailing(position)));
            assert_eq!(split(body, Form::Json), expected, "{body}");
        }
        for (body, at) in [("[{]}]", 3), (r#"[{"a": 1}}]"#, 9)] {
            let position = Position::of(body.as_bytes(), at);
            let expected = Err(Unsplit::Broken(BrokenArray::Unmatched(position)));
            assert_eq!(split(body, Form::Json), expected, "{body}");
        }
    }

    #[test]
    fn each_line_is_a_record() {
        assert_eq!(
            split("[1]\n{\n\n {\"a\": 1}\t\r\n", Form::Lines),
            Ok(vec!["[1]", "{", r#"{"a": 1}"#])
        );
    }

    #[test]
    fn splitting_stops_at_the_limit() {
        for (separator, close, form) in [(",", "]", Form::Json), ("\n", "", Form::Lines)] {
            let open = if close.is_empty() { "" } else { "[" };
            let body = |count: usize| {
                let records = vec!["1"; count].join(separator);
                format!("{open}{records}{close}")
            };
            assert_eq!(split(&body(LIMIT), form).unwrap().len(), LIMIT);
            assert_eq!(split(&body(LIMIT + 1), form), Err(Unsplit::TooMany));
        }
        let nothing = format!("[{}", ",".repeat(1_000_000));
        assert_eq!(split(&nothing, Form::Json), Err(Unsplit::TooMany));
    }

    #[test]
    fn deep_nesting_is_harmless() {
        let deep = format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(split(&deep, Form::Json).unwrap().len(), 1);
    }

    #[test]
    fn content_types() {
        for (text, form) in [
            ("application/json", Some(Form::Json)),
            ("Application/JSON; charset=utf-8", Some(Form::Json)),
            ("application/x-ndjson", Some(Form::Lines)),
            ("text/plain", None),
            ("application/jsonp", None),
            ("", None),
        ] {
            assert_eq!(Form::of(text), form, "{text}");
        }
    }
}
