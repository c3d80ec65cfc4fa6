//! Expected answers, in which some values are known by their type alone.

use serde_json::{Value, json};

/// Stands for any integer from 0.
pub const NUMBER: &str = "<number>";
/// Stands for any text that isn't empty.
pub const TEXT: &str = "<text>";
/// Stands for a shard's id.
pub const SHARD: &str = "<shard>";
/// Stands for a sequence number.
pub const SEQUENCE: &str = "<sequence>";

/// The REST proxy's entry for a record that is stored.
pub fn entry() -> Value {
    json!({"partition": NUMBER, "offset": NUMBER, "error_code": null, "error": null})
}

/// The REST proxy's answer with these entries.
pub fn offsets(entries: &[Value]) -> Value {
    json!({"offsets": entries, "key_schema_id": null, "value_schema_id": null})
}

/// Whether an answer is as expected: it has the same fields, and no others.
pub fn matches(found: &Value, expected: &Value) -> bool {
    let text = found.as_str().unwrap_or_default();
    match expected {
        Value::String(name) if name == NUMBER => found.is_u64(),
        Value::String(name) if name == TEXT => !text.is_empty(),
        Value::String(name) if name == SHARD => {
            let digits = text.strip_prefix("shardId-").unwrap_or_default();
            digits.len() == 12 && digits.parse::<u64>().is_ok()
        }
        Value::String(name) if name == SEQUENCE => text.parse::<u64>().is_ok(),
        Value::Object(expected) => found.as_object().is_some_and(|found| {
            let all = expected.iter();
            found.len() == expected.len()
                && all
                    .clone()
                    .all(|(name, value)| found.get(name).is_some_and(|found| matches(found, value)))
        }),
        Value::Array(expected) => found.as_array().is_some_and(|found| {
            let mut pairs = found.iter().zip(expected);
            found.len() == expected.len() && pairs.all(|(found, expected)| matches(found, expected))
        }),
        other => found == other,
    }
}

/// Partition and offset of each stored record in an answer of any form, in its order.
pub fn places(answer: &Value) -> Vec<(i64, i64)> {
    let lists = ["records", "offsets", "Records"];
    let list = lists.iter().find_map(|list| answer[list].as_array());
    let alone = [answer.clone()];
    let entries = list.map_or(&alone[..], Vec::as_slice).iter();
    let place = |entry: &Value| {
        if let Some(shard) = entry["ShardId"].as_str() {
            let partition = shard.strip_prefix("shardId-")?.parse().ok()?;
            return Some((partition, entry["SequenceNumber"].as_str()?.parse().ok()?));
        }
        Some((entry["partition"].as_i64()?, entry["offset"].as_i64()?))
    };
    entries.filter_map(place).collect()
}
