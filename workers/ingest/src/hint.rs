//! What a client probably did, for records that are refused because of their shape.
//!
//! All sentences are bounded in length: a request may have as many as it has records.

use pinpipe_core::Rejection;

use crate::{
    json::{first_element, members},
    syntax::{self, Place},
};

/// How many names of fields a sentence has.
const NAMES: usize = 8;
/// How many characters of a name it has.
const NAME: usize = 24;

/// Says more about a rejected record than the rejection itself. `topic` is the topic it was for,
/// `what` its name in sentences, and `place` where it begins in the request.
#[must_use]
pub fn explain(
    topic: &str,
    rejection: Rejection,
    what: &str,
    record: &[u8],
    place: Place,
) -> Option<String> {
    match rejection {
        Rejection::NotJson => syntax::describe(what, record, place),
        Rejection::NotAnObject => encoded_twice(what, record),
        Rejection::TooLarge { .. } => other_form(topic, std::str::from_utf8(record).ok()?),
        Rejection::KeyMissing { field } => {
            let json = std::str::from_utf8(record).ok()?;
            let told = other_form(topic, json)
                .or_else(|| empty_key(what, field, json))
                .unwrap_or_else(|| format!("{rejection}; {}", names_seen(json)));
            Some(told)
        }
        Rejection::KeyUnreadable { .. } | Rejection::NotUtf8 => None,
    }
}

/// Says that a JSON text holds JSON, if it does.
#[must_use]
pub fn encoded_twice(what: &str, json: &[u8]) -> Option<String> {
    let text = json.trim_ascii().strip_prefix(b"\"")?;
    let holds = match text.trim_ascii_start().first()? {
        b'{' => "an object",
        b'[' => "an array",
        _ => return None,
    };
    Some(format!(
        "{what} is a JSON text that holds {holds}, so it was encoded twice: send it without the \
         second json.dumps, or with requests' data= in place of json="
    ))
}

/// Says which names an object has: `it has idx, title`.
#[must_use]
pub fn names_seen(json: &str) -> String {
    let (mut names, mut count) = (Vec::new(), 0_usize);
    // What was read until an error is fine, too.
    _ = members(json, |name, _| {
        count += 1;
        if names.len() < NAMES {
            let name: String = name.escape_debug().take(NAME).collect();
            names.push(format!("`{name}`"));
        }
    });
    match (names.as_slice(), count.saturating_sub(NAMES)) {
        ([], _) => "it is empty".to_owned(),
        (some, 0) => format!("it has {}", some.join(", ")),
        (some, more) => format!("it has {} and {more} more", some.join(", ")),
    }
}

/// Says that the key's field is there, but has no value.
fn empty_key(what: &str, field: &str, json: &str) -> Option<String> {
    // The numbers' names are taken for each other.
    let is_number = |name: &str| matches!(name, "index" | "ind");
    let mut found = None;
    _ = members(json, |name, _| {
        if name == field || is_number(name) && is_number(field) {
            found = Some(name.to_owned());
        }
    });
    let name = found?;
    Some(format!(
        "{what}'s `{name}` is null or empty: it is part of the record's key, so it needs a value"
    ))
}

/// Says that the record is a request of another form, if it looks like one.
fn other_form(topic: &str, json: &str) -> Option<String> {
    let (mut list, mut has_data) = (None, false);
    members(json, |name, value| match name {
        "records" | "Records" => list = Some(value.get()),
        "data" | "Data" => has_data = true,
        _ => {}
    })
    .ok()?;
    let stream = |call: &str| {
        format!(
            "the request has the form of a call to a Kinesis stream: PUT it to \
             /streams/{topic}/{call}, or send here what is in `Data` alone"
        )
    };
    if has_data {
        return Some(stream("record"));
    }
    let first = first_element(list?);
    let (mut has_value, mut has_data) = (false, false);
    members(first?.get(), |name, _| match name {
        "value" => has_value = true,
        "data" | "Data" => has_data = true,
        _ => {}
    })
    .ok()?;
    if has_data {
        return Some(stream("records"));
    }
    has_value.then(|| {
        format!(
            "the request has the form of the Kafka REST proxy, with records in records[].value: \
             POST it to /topics/{topic}, or send here what is in `value` alone"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_what_was_seen_and_what_is_wanted() {
        let missing = Rejection::KeyMissing { field: "index" };
        let too_large = Rejection::TooLarge { bytes: 2, limit: 1 };
        for (rejection, record, says) in [
            (
                missing,
                r#"{"idx": 1, "unique_id": "a"}"#,
                "`index` (or `ind`)",
            ),
            (
                missing,
                r#"{"idx": 1, "unique_id": "a"}"#,
                "it has `idx`, `unique_id`",
            ),
            (missing, "{}", "it is empty"),
            (missing, r#"{"ind": null}"#, "`ind` is null or empty"),
            (
                too_large,
                r#"{"records": [{"value": {}}]}"#,
                "POST it to /topics/t.pin",
            ),
            (
                missing,
                r#"{"records": [{"value": {}}]}"#,
                "POST it to /topics/t.pin",
            ),
            (
                missing,
                r#"{"records": [{"value": {}}, {}]}"#,
                "records[].value",
            ),
            (missing, r#"{"records": [{"key": 1}]}"#, "it has `records`"),
            (
                missing,
                r#"{"records": [{"data": "e30="}]}"#,
                "/streams/t.pin/records",
            ),
            (
                missing,
                r#"{"StreamName": "s", "Data": {}}"#,
                "/streams/t.pin/record,",
            ),
            (
                Rejection::NotAnObject,
                r#""{\"index\": 1}""#,
                "encoded twice",
            ),
            (Rejection::NotAnObject, r#"" [{}]""#, "holds an array"),
            (Rejection::NotJson, "{'ind': 1}", "line 1, column 2"),
            (Rejection::NotJson, "{'ind': 1}", "Python"),
            (
                Rejection::NotJson,
                "ind=1&user_name=A+B",
                "json= in place of data=",
            ),
            (Rejection::NotJson, "ind: 1", "expected value at line 1"),
        ] {
            let told = explain("t.pin", rejection, "it", record.as_bytes(), syntax::START);
            let told = told.unwrap_or_else(|| panic!("nothing about {record}"));
            assert!(told.contains(says), "{told}");
        }
        for record in ["7", "\"a\"", "[]"] {
            let told = explain(
                "t",
                Rejection::NotAnObject,
                "it",
                record.as_bytes(),
                syntax::START,
            );
            assert_eq!(told, None, "{record}");
        }
    }

    #[test]
    fn sentences_are_bounded() {
        let names: Vec<_> = (0..1000)
            .map(|n| format!("\"{n}{}\": 1", "\\n".repeat(100)))
            .collect();
        let json = format!("{{{}}}", names.join(","));
        let seen = names_seen(&json);
        assert!(
            seen.ends_with(" and 992 more") && seen.len() < 700,
            "{seen}"
        );
    }
}
