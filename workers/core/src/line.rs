//! One raw record a line: the form of the raw zone's objects.

use std::borrow::Cow;

/// A JSON record on one line: its line breaks are removed where it has any.
///
/// `raw` has to be valid JSON. Its line breaks then stand between tokens only (inside a text they
/// are escaped) and separate nothing that punctuation doesn't separate as well, so that the value
/// stays the same.
#[must_use]
pub fn single_line(raw: &[u8]) -> Cow<'_, [u8]> {
    if raw.contains(&b'\n') || raw.contains(&b'\r') {
        Cow::Owned(
            raw.iter()
                .copied()
                .filter(|byte| !matches!(byte, b'\n' | b'\r'))
                .collect(),
        )
    } else {
        Cow::Borrowed(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_with_line_breaks_is_copied() {
        let one = br#"{"title": "a\nb"}"#;
        assert!(matches!(single_line(one), Cow::Borrowed(line) if line == one));
        assert_eq!(
            *single_line(b"{\r\n  \"ind\": 1,\n  \"a\": \"x\\ny\"\n}\n"),
            *br#"{  "ind": 1,  "a": "x\ny"}"#
        );
    }
}
