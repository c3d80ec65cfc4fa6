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

/// Why an array can't be split. It is unknown where its records end, so none of them is accepted.
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

/// Returns the raw records of a body in order, without surrounding white space. There are none if
/// the body is empty or an empty array.
pub fn records(body: &[u8], form: Form) -> Result<Vec<&[u8]>, BrokenArray> {
    let whole = body;
    let body = body.trim_ascii();
    match form {
        _ if body.is_empty() => Ok(Vec::new()),
        Form::Lines => Ok(lines(body)),
        Form::Json if body[0] == b'[' => {
            let skipped = whole.len() - whole.trim_ascii_start().len();
            array(body, |at| Position::of(whole, skipped + at))
        }
        Form::Json => match value_end(body) {
            Some(end) if end < body.len() => Ok(lines(body)),
            _ => Ok(vec![body]),
        },
    }
}

fn lines(body: &[u8]) -> Vec<&[u8]> {
    body.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Returns the elements of the array `body`. `position` converts an offset in `body`.
fn array(body: &[u8], position: impl Fn(usize) -> Position) -> Result<Vec<&[u8]>, BrokenArray> {
    let mut elements = Vec::new();
    let mut start = 1;
    let mut scan = Scan { text: body, at: 1 };
    let mut depth = 0_usize;
    while let Some((at, token)) = scan.next_token() {
        match token {
            b'{' | b'[' => depth += 1,
            b']' if depth == 0 => {
                let last = body[start..at].trim_ascii();
                if !(last.is_empty() && elements.is_empty()) {
                    elements.push(last);
                }
                let rest = body[scan.at..].trim_ascii_start();
                return if rest.is_empty() {
                    Ok(elements)
                } else {
                    Err(BrokenArray::Trailing(position(body.len() - rest.len())))
                };
            }
            b'}' | b']' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| BrokenArray::Unmatched(position(at)))?;
            }
            b',' if depth == 0 => {
                elements.push(body[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    Err(BrokenArray::Unclosed)
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

    fn split(body: &str, form: Form) -> Result<Vec<&str>, BrokenArray> {
        records(body.as_bytes(), form).map(|all| {
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
                Err(BrokenArray::Unclosed),
                "{body}"
            );
        }
        for (body, at) in [("[1] 2", 4), ("\n[1]]", 4)] {
            let position = Position::of(body.as_bytes(), at);
            let expected = Err(BrokenArray::Trailing(position));
            assert_eq!(split(body, Form::Json), expected, "{body}");
        }
        for (body, at) in [("[{]}]", 3), (r#"[{"a": 1}}]"#, 9)] {
            let position = Position::of(body.as_bytes(), at);
            let expected = Err(BrokenArray::Unmatched(position));
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
