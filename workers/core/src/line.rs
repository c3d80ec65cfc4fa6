//! Raw records as single lines, the format of raw objects (NDJSON).

use std::borrow::Cow;

/// Removes line breaks from a JSON record.
///
/// `raw` must be valid JSON. Its line breaks are then insignificant white space between tokens
/// (inside strings they are escaped), so removing them does not change the value.
#[must_use]
pub fn single_line(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', raw).is_some() {
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
