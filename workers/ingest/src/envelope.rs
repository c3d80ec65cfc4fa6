//! Finds the records in bodies of the forms that wrap them, as slices of the body. Deep nesting is
//! harmless, and the time is linear in the body's length.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::value::RawValue;

use crate::{
    hint,
    json::{elements, members},
    problem::Problem,
    split::without_mark,
    syntax,
};

/// Base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a request holds in the place of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The record's own bytes.
    Record(&'a [u8]),
    /// A JSON text that holds the record, as it is or in base64.
    Text(&'a str),
    /// No record.
    None(NoRecord),
}

/// Why an entry of a request holds no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRecord {
    /// A null value is a tombstone in Kafka.
    #[error(
        "the entry has no `value`, or null: records are not deleted by tombstones, so send one"
    )]
    NoValue,
    /// Nothing to store.
    #[error("the entry has no `Data`, or null: send the record there")]
    NoData,
    /// The entry is not an object in which a value could be.
    #[error(
        "the entry is not an object: send {{\"value\": {{…}}}}, or {{\"Data\": {{…}}}} to a stream"
    )]
    NotAnEntry,
    /// The text is no record in any form.
    #[error(
        "`Data` is a text, but neither the JSON text of an object nor that in base64: send the \
         object itself"
    )]
    UnreadableText,
}

impl NoRecord {
    /// The error code in responses and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoValue | Self::NoData => "value-missing",
            Self::NotAnEntry => "not-an-entry",
            Self::UnreadableText => "data-unreadable",
        }
    }
}

/// The entries of `{"records": [{"value": …}]}`, at most `limit`.
pub fn topic(body: &[u8], limit: usize) -> Result<Vec<Entry<'_>>, Problem> {
    let body = text(body)?;
    let wanted = "send {\"records\": [{\"value\": {…}}]}";
    let records = records(body, limit, |name| name == "records", wanted)?;
    Ok(records
        .into_iter()
        .map(|entry| match member(entry.get(), |name| name == "value") {
            Err(_) => Entry::None(NoRecord::NotAnEntry),
            Ok(None) => Entry::None(NoRecord::NoValue),
            Ok(Some(value)) => Entry::Record(value.get().as_bytes()),
        })
        .collect())
}

/// The entries of `{"Records": [{"Data": …}]}`, at most `limit`.
pub fn put_records(body: &[u8], limit: usize) -> Result<Vec<Entry<'_>>, Problem> {
    let body = text(body)?;
    let wanted = "send {\"records\": [{\"data\": {…}, \"partition-key\": \"…\"}]}; one record \
                  alone goes to …/record";
    let is_records = |name: &str| name.eq_ignore_ascii_case("records");
    let records = records(body, limit, is_records, wanted)?;
    Ok(records
        .into_iter()
        .map(|entry| match member(entry.get(), is_data) {
            Err(_) => Entry::None(NoRecord::NotAnEntry),
            Ok(None) => Entry::None(NoRecord::NoData),
            Ok(Some(data)) => of_data(data),
        })
        .collect())
}

/// The entry of `{"StreamName": …, "Data": …, "PartitionKey": …}`.
pub fn put_record(body: &[u8]) -> Result<Vec<Entry<'_>>, Problem> {
    let body = text(body)?;
    let wanted = "send {\"StreamName\": \"…\", \"Data\": {…}, \"PartitionKey\": \"…\"}; several \
                  records go to …/records";
    let found = object(body, is_data, wanted)?;
    let data = found.ok_or_else(|| missing(body, "Data", wanted))?;
    Ok(vec![of_data(data)])
}

fn is_data(name: &str) -> bool {
    name.eq_ignore_ascii_case("data")
}

fn of_data(data: &RawValue) -> Entry<'_> {
    if data.get().starts_with('"') {
        Entry::Text(data.get())
    } else {
        Entry::Record(data.get().as_bytes())
    }
}

/// The record that a JSON text holds, as it is or in base64.
pub fn unwrap(text: &str) -> Result<Vec<u8>, NoRecord> {
    // Lone surrogates can't be in it, and are in no base64.
    let text: String = serde_json::from_str(text).map_err(|_| NoRecord::UnreadableText)?;
    let text = text.trim_start_matches('\u{feff}').trim_ascii();
    if text.is_empty() {
        return Err(NoRecord::NoData);
    }
    if text.starts_with(['{', '[', '"']) {
        return Ok(text.into());
    }
    let symbols = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let symbols: Vec<u8> = symbols
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    let decoded = BASE64
        .decode(symbols)
        .map_err(|_| NoRecord::UnreadableText)?;
    let record = without_mark(&decoded).trim_ascii();
    match record.first() {
        Some(b'{') => Ok(record.to_vec()),
        _ => Err(NoRecord::UnreadableText),
    }
}

/// The body as text without a byte order mark.
fn text(body: &[u8]) -> Result<&str, Problem> {
    let body = without_mark(body);
    std::str::from_utf8(body).map_err(|error| {
        let position = syntax::Position::of(body, error.valid_up_to());
        Problem::NotJson(format!("the body is not UTF-8 at {position}"))
    })
}

/// The elements of the body's list, of which there must be some.
fn records<'a>(
    body: &'a str,
    limit: usize,
    is_list: impl Fn(&str) -> bool,
    wanted: &str,
) -> Result<Vec<&'a RawValue>, Problem> {
    let list = object(body, is_list, wanted)?.ok_or_else(|| missing(body, "records", wanted))?;
    if !list.get().starts_with('[') {
        let message = format!("`records` is not an array: {wanted}");
        return Err(Problem::WrongShape(message));
    }
    // The whole body is known to be JSON.
    let all = elements(list.get(), limit).map_err(|_| Problem::TooManyRecords { limit })?;
    if all.is_empty() {
        let message = format!("`records` is empty: {wanted}");
        return Err(Problem::WrongShape(message));
    }
    Ok(all)
}

/// The last member of the body with a name that is `wanted`, null being none.
fn object<'a>(
    body: &'a str,
    is_wanted: impl Fn(&str) -> bool,
    wanted: &str,
) -> Result<Option<&'a RawValue>, Problem> {
    member(body, is_wanted).map_err(|_| {
        if let Some(message) = syntax::describe("the body", body.as_bytes(), syntax::START) {
            return Problem::NotJson(message);
        }
        let twice = hint::encoded_twice("the body", body.as_bytes());
        let other = || format!("the body is JSON but not an object: {wanted}");
        Problem::WrongShape(twice.unwrap_or_else(other))
    })
}

fn missing(body: &str, name: &str, wanted: &str) -> Problem {
    let seen = hint::names_seen(body);
    let message = format!("the body has no `{name}`, or null; {seen}: {wanted}");
    Problem::WrongShape(message)
}

/// The last member of an object with a name that is wanted. None if there is none or it is null.
fn member(
    json: &str,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Option<&RawValue>, serde_json::Error> {
    let mut last = None;
    members(json, |name, value| {
        if is_wanted(name) {
            last = Some(value).filter(|value| value.get() != "null");
        }
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 3;

    fn record(text: &str) -> Entry<'_> {
        Entry::Record(text.as_bytes())
    }

    #[test]
    fn values_of_topics_are_the_bytes_that_were_sent() {
        let no_value = Entry::None(NoRecord::NoValue);
        for (body, entries) in [
            (
                r#"{"records":[{"value":{"a" : 1.0}}]}"#,
                vec![record(r#"{"a" : 1.0}"#)],
            ),
            (
                "\u{feff} {\"key_schema\": null,\n\"records\": [{\"key\": 1, \"value\": {}}, \
                 {\"value\": 7}]}\n",
                vec![record("{}"), record("7")],
            ),
            (
                r#"{"records":[{"key":"a"},{"value":null}]}"#,
                vec![no_value, no_value],
            ),
            (
                r#"{"records":[{"\u0076alue":{"\ud800":1}}, {"\ud800":1}, 7]}"#,
                vec![
                    record(r#"{"\ud800":1}"#),
                    no_value,
                    Entry::None(NoRecord::NotAnEntry),
                ],
            ),
            // The last one counts.
            (
                r#"{"records":[],"records":[{"value":1,"value":2}]}"#,
                vec![record("2")],
            ),
        ] {
            assert_eq!(topic(body.as_bytes(), LIMIT), Ok(entries), "{body}");
        }
    }

    #[test]
    fn data_of_streams_are_objects_and_texts() {
        for (body, entries) in [
            (
                r#"{"records":[{"data":{},"partition-key":"p"}]}"#,
                vec![record("{}")],
            ),
            (
                r#"{"Records":[{"Data":"{}"},{"DATA":[]},{"PartitionKey":1},1]}"#,
                vec![],
            ),
            (
                r#"{"Records":[{"Data":"{}"},{"PartitionKey":1},1]}"#,
                vec![
                    Entry::Text("\"{}\""),
                    Entry::None(NoRecord::NoData),
                    Entry::None(NoRecord::NotAnEntry),
                ],
            ),
        ] {
            let found = put_records(body.as_bytes(), LIMIT);
            if entries.is_empty() {
                assert_eq!(
                    found,
                    Err(Problem::TooManyRecords { limit: LIMIT }),
                    "{body}"
                );
            } else {
                assert_eq!(found, Ok(entries), "{body}");
            }
        }
        let one = put_record(br#"{"streamname":"s","data":{"ind":1},"PartitionKey":7}"#);
        assert_eq!(one, Ok(vec![record(r#"{"ind":1}"#)]));
    }

    #[test]
    fn texts_are_unwrapped() {
        for (text, record) in [
            (r#""{\"ind\": 1}""#, Ok(r#"{"ind": 1}"#)),
            (r#"" {}\n""#, Ok("{}")),
            (r#""{'ind': 1}""#, Ok("{'ind': 1}")),
            (r#""eyJpbmQiOiAxfQ==""#, Ok(r#"{"ind": 1}"#)),
            (r#""eyJpbmQiOiAxfQ""#, Ok(r#"{"ind": 1}"#)),
            (r#""eyJpbm\nQiOiAxfQ==\n""#, Ok(r#"{"ind": 1}"#)),
            (r#""eyJhIjoiw7_Dvz8_In0=""#, Ok(r#"{"a":"ÿÿ??"}"#)),
            (r#""hello""#, Err(NoRecord::UnreadableText)),
            (r#""aGVsbG8=""#, Err(NoRecord::UnreadableText)),
            (r#""\ud800""#, Err(NoRecord::UnreadableText)),
            (r#"" ""#, Err(NoRecord::NoData)),
            ("\"\u{feff}{}\"", Ok("{}")),
        ] {
            let record = record.map(|record| record.as_bytes().to_vec());
            assert_eq!(unwrap(text), record, "{text}");
        }
    }

    #[test]
    fn what_has_another_shape_is_said() {
        let shape = |body: &str, says: &[&str]| {
            for (form, found) in [
                ("topic", topic(body.as_bytes(), LIMIT)),
                ("records", put_records(body.as_bytes(), LIMIT)),
                ("record", put_record(body.as_bytes())),
            ] {
                let Err(Problem::WrongShape(message)) = found else {
                    panic!("{form}, {body}: {found:?}");
                };
                for says in says {
                    assert!(message.contains(says), "{form}: {message}");
                }
            }
        };
        shape(r#""{\"records\": []}""#, &["encoded twice"]);
        shape("[{}]", &["not an object"]);
        shape("7", &["not an object"]);
        shape(r#"{"index": 1, "title": "a"}"#, &["`index`, `title`"]);
        for body in [r#"{"records": {}}"#, r#"{"records": []}"#, "{}"] {
            let found = topic(body.as_bytes(), LIMIT);
            assert!(
                matches!(found, Err(Problem::WrongShape(_))),
                "{body}: {found:?}"
            );
        }
    }

    #[test]
    fn broken_json_has_its_position_in_the_request() {
        for (body, says) in [
            ("{\"records\": [\n{'value': 1}]}", "line 2, column 2"),
            ("{\"records\": [", "line 1, column 14"),
        ] {
            let found = topic(body.as_bytes(), LIMIT);
            let Err(Problem::NotJson(message)) = found else {
                panic!("{body}: {found:?}");
            };
            assert!(message.contains(says), "{message}");
        }
        let found = topic(b"{\"records\": [{\"value\": \"\xff\"}]}", LIMIT);
        assert!(matches!(found, Err(Problem::NotJson(message)) if message.contains("column 25")));
    }

    #[test]
    fn splitting_stops_at_the_limit_and_deep_nesting_is_harmless() {
        let many = |count: usize| {
            let entries = vec![r#"{"value":{}}"#; count].join(",");
            topic(format!("{{\"records\":[{entries}]}}").as_bytes(), LIMIT).map(|all| all.len())
        };
        assert_eq!(many(LIMIT), Ok(LIMIT));
        assert_eq!(
            many(LIMIT + 1),
            Err(Problem::TooManyRecords { limit: LIMIT })
        );
        let (open, close) = ("[".repeat(1_000_000), "]".repeat(1_000_000));
        let deep = format!("{{\"records\":[{{\"value\":{open}{close}}}]}}");
        assert_eq!(topic(deep.as_bytes(), LIMIT).unwrap().len(), 1);
        let commas = format!("{{\"records\":[{}", ",".repeat(1_000_000));
        assert!(matches!(
            topic(commas.as_bytes(), LIMIT),
            Err(Problem::NotJson(_))
        ));
    }
}
