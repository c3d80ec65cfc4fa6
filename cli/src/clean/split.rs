//! Splits a file into raw records, as slices of it.

use serde_json::value::RawValue;

/// U+FEFF in UTF-8, which some programs write at the beginning of a file; ingest skips it, too.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The records of a file: JSON values one after the other, and the elements of arrays. A file with
/// something else in it has a record on each line, or is one record as a whole if its first line
/// ends within an object: so what isn't JSON is a record, too, and is rejected as the workers do.
pub(super) fn records(file: &[u8]) -> Vec<&[u8]> {
    let file = file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file);
    let values: Result<Vec<&RawValue>, _> = serde_json::Deserializer::from_slice(file)
        .into_iter()
        .collect();
    if let Ok(values) = values {
        return values.into_iter().flat_map(elements).collect();
    }
    let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.filter(|line| !line.is_empty()).peekable();
    let first = lines.peek();
    if first.is_some_and(|line| line.starts_with(b"{") && !line.ends_with(b"}")) {
        return vec![file.trim_ascii()];
    }
    lines.collect()
}

fn elements(value: &RawValue) -> Vec<&[u8]> {
    let elements: Result<Vec<&RawValue>, _> = serde_json::from_str(value.get());
    match elements {
        Ok(elements) => elements.iter().map(|one| one.get().as_bytes()).collect(),
        Err(_) => vec![value.get().as_bytes()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_by_line_in_arrays_and_as_one_document() {
        for (file, expected) in [
            ("", vec![]),
            (
                "\u{feff}{\"a\": 1.50}\n\n{\"b\": 2}\n",
                vec!["{\"a\": 1.50}", "{\"b\": 2}"],
            ),
            ("[{\"a\":1}, {\"b\":[2]}]", vec!["{\"a\":1}", "{\"b\":[2]}"]),
            ("{\n  \"a\": 1\n}\n", vec!["{\n  \"a\": 1\n}"]),
            (
                "{\"a\": 1}\n{\"b\": NaN}\nx",
                vec!["{\"a\": 1}", "{\"b\": NaN}", "x"],
            ),
            ("{\n\"a\": NaN\n}", vec!["{\n\"a\": NaN\n}"]),
            ("[]", vec![]),
            ("7", vec!["7"]),
        ] {
            let found = records(file.as_bytes());
            let expected: Vec<&[u8]> = expected.into_iter().map(str::as_bytes).collect();
            assert_eq!(found, expected, "{file}");
        }
        assert_eq!(records(b"{\"a\":\"\xff\"}\n"), [b"{\"a\":\"\xff\"}"]);
    }
}
