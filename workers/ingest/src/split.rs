//! One request's body → its raw records, as slices of the body.
//!
//! Only the structure between records is looked at: what is wrong inside a record is found when its
//! key is read, and concerns that record alone. Nothing here recurses, so depth costs nothing.

/// How a body was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/json`: an object, an array of them, or (by its content) one object a line.
    Json,
    /// `application/x-ndjson`: one object a line.
    Lines,
}

impl Form {
    /// The form a `Content-Type` names; none when it is another type.
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

/// The array isn't closed, or something stands behind it: where it ends is unknown, so nothing of
/// it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenArray;

/// The raw records of a body, in order, without the white space around them. No record: the body is
/// empty, or an empty array.
pub fn records(body: &[u8], form: Form) -> Result<Vec<&[u8]>, BrokenArray> {
    let body = body.trim_ascii();
    match form {
        _ if body.is_empty() => Ok(Vec::new()),
        Form::Lines => Ok(lines(body)),
        Form::Json if body[0] == b'[' => array(body),
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

/// The elements of the array that `body` has to be.
fn array(body: &[u8]) -> Result<Vec<&[u8]>, BrokenArray> {
    let mut elements = Vec::new();
    let mut start = 1;
    let mut scan = Scan { text: body, at: 1 };
    let mut depth = 0_usize;
    while let Some((at, mark)) = scan.next_mark() {
        match mark {
            b'{' | b'[' => depth += 1,
            b']' if depth == 0 => {
                let last = body[start..at].trim_ascii();
                if !(last.is_empty() && elements.is_empty()) {
                    elements.push(last);
                }
                return if scan.at == body.len() {
                    Ok(elements)
                } else {
                    Err(BrokenArray)
                };
            }
            b'}' | b']' => depth = depth.checked_sub(1).ok_or(BrokenArray)?,
            b',' if depth == 0 => {
                elements.push(body[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    Err(BrokenArray)
}

/// Where the object that `body` starts with ends; none when it starts with another value, or never
/// ends.
fn value_end(body: &[u8]) -> Option<usize> {
    if body[0] != b'{' {
        return None;
    }
    let mut scan = Scan { text: body, at: 0 };
    let mut depth = 0_usize;
    while let Some((_, mark)) = scan.next_mark() {
        match mark {
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

/// Walks JSON's brackets and commas, passing over texts.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn next_mark(&mut self) -> Option<(usize, u8)> {
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
            self.pass_text()?;
        }
    }

    /// Moves behind the closing quotation mark; none when there is none.
    fn pass_text(&mut self) -> Option<()> {
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
    fn an_array_without_a_clear_end_is_not_taken_apart() {
        for body in [
            "[",
            "[1",
            "[1,",
            r#"["]"#,
            "[1] 2",
            "[{]}]",
            r#"[{"a": 1}}]"#,
            "[[1]",
            "[1]]",
        ] {
            assert_eq!(split(body, Form::Json), Err(BrokenArray), "{body}");
        }
    }

    #[test]
    fn lines_stand_for_themselves() {
        assert_eq!(
            split("[1]\n{\n\n {\"a\": 1}\t\r\n", Form::Lines),
            Ok(vec!["[1]", "{", r#"{"a": 1}"#])
        );
    }

    #[test]
    fn depth_costs_nothing() {
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
