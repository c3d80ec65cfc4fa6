//! Checks a document against the schema, as the API server does with `fieldValidation: Strict`.
//!
//! Only the part of `OpenAPI` that our definition uses is implemented; a test fails on other
//! keywords. The `jsonschema` crate would not replace this: lists that are maps, integers or
//! strings and unknown fields would be custom keywords, and it has other messages than the API
//! server for the rest. A message begins with the API server's words, so that it can be looked up,
//! and ends with the field's description.

use regex::Regex;
use serde_json::{Number, Value};

use super::yaml::{Entry, Kind, Node};

/// Something the schema refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field, such as `spec.stream.sinks[0].name`.
    pub field: String,
    /// What is wrong, and what is expected.
    pub message: String,
    /// Whether rules can't be evaluated before this is fixed.
    pub blocks_rules: bool,
}

/// Checks a document against a schema.
#[must_use]
pub fn check(schema: &Value, root: &Node) -> Vec<Refusal> {
    let mut checker = Checker::default();
    checker.value(schema, root, "");
    checker.refusals
}

#[derive(Default)]
struct Checker {
    refusals: Vec<Refusal>,
}

impl Checker {
    fn refuse(&mut self, schema: &Value, field: &str, message: impl std::fmt::Display) {
        let message = match description(schema) {
            description if description.is_empty() => message.to_string(),
            description => format!("{message} ({description})"),
        };
        self.refusals.push(Refusal {
            field: field.to_owned(),
            message,
            blocks_rules: true,
        });
    }

    fn value(&mut self, schema: &Value, node: &Node, field: &str) {
        if schema["x-kubernetes-int-or-string"] == true {
            match &node.kind {
                Kind::Scalar(Value::String(text)) => self.text(schema, text, field),
                Kind::Scalar(Value::Number(number)) if !number.is_f64() => {}
                _ => self.refuse(
                    schema,
                    field,
                    format_args!("must be of type integer or string, not {}", described(node)),
                ),
            }
            return;
        }
        match (schema["type"].as_str().unwrap_or_default(), &node.kind) {
            ("object", Kind::Map(entries)) => self.object(schema, entries, field),
            ("array", Kind::List(items)) => self.list(schema, items, field),
            ("string", Kind::Scalar(Value::String(text))) => self.text(schema, text, field),
            ("boolean", Kind::Scalar(Value::Bool(_))) | ("", _) => {}
            ("integer", Kind::Scalar(Value::Number(number))) if is_whole(number) => {
                self.number(schema, number, field);
            }
            ("number", Kind::Scalar(Value::Number(number))) => self.number(schema, number, field),
            (wanted, _) => {
                let unquoted = matches!(node.kind, Kind::Scalar(Value::Number(_) | Value::Bool(_)));
                let hint = if unquoted && wanted == "string" {
                    ": put it in quotes"
                } else {
                    ""
                };
                self.refuse(
                    schema,
                    field,
                    format_args!("must be of type {wanted}, not {}{hint}", described(node)),
                );
            }
        }
    }

    fn object(&mut self, schema: &Value, entries: &[Entry], field: &str) {
        for required in names(&schema["required"]) {
            let entry = entries.iter().find(|entry| entry.key == required);
            if entry.is_none_or(|entry| entry.value.is_null()) {
                let message = "Required value: it is missing";
                self.refuse(
                    &schema["properties"][required],
                    &join(field, required),
                    message,
                );
            }
        }
        if let Some(most) = schema["maxProperties"].as_u64()
            && entries.len() as u64 > most
        {
            let message = format!(
                "Too many: {}: must have at most {most} items",
                entries.len()
            );
            self.refuse(schema, field, message);
        }
        let properties = schema["properties"].as_object();
        for Entry { key, value, .. } in entries {
            let (schema, field) = if let Some(property) = properties.and_then(|all| all.get(key)) {
                (property, join(field, key))
            } else if schema["additionalProperties"].is_object() {
                (&schema["additionalProperties"], format!("{field}[{key}]"))
            } else {
                if let Some(properties) = properties {
                    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                    self.unknown(key, &known, join(field, key));
                }
                continue;
            };
            // The API server drops a field that is null, since none of ours is nullable.
            if !value.is_null() {
                self.value(schema, value, &field);
            }
        }
    }

    fn unknown(&mut self, key: &str, known: &[&str], field: String) {
        let instead = match nearest(key, known) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.refusals.push(Refusal {
            message: format!("unknown field \"{field}\": {instead}"),
            field,
            blocks_rules: false,
        });
    }

    fn list(&mut self, schema: &Value, items: &[Node], field: &str) {
        if let Some(most) = schema["maxItems"].as_u64()
            && items.len() as u64 > most
        {
            let message = format!("Too many: {}: must have at most {most} items", items.len());
            self.refuse(schema, field, message);
        }
        if let Some(least) = schema["minItems"].as_u64()
            && (items.len() as u64) < least
        {
            let message = format!("should have at least {least} items");
            self.refuse(schema, field, message);
        }
        let keys = names(&schema["x-kubernetes-list-map-keys"]);
        let mut seen = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let field = format!("{field}[{index}]");
            self.value(&schema["items"], item, &field);
            let values = keys.iter().filter_map(|key| item.entry(key));
            let values: Vec<Value> = values.map(|entry| entry.value.to_json()).collect();
            if keys.is_empty() || values.len() < keys.len() {
                continue;
            }
            if seen.contains(&values) {
                let pairs = keys.iter().zip(&values);
                let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key} {value}")).collect();
                let message = format!(
                    "Duplicate value: an earlier item has the same {}",
                    pairs.join(" and ")
                );
                self.refuse(&Value::Null, &field, message);
            } else {
                seen.push(values);
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, field: &str) {
        let values = names(&schema["enum"]);
        if !values.is_empty() && !values.contains(&text) {
            let quoted: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
            let meant = match nearest(text, &values) {
                Some(value) if values.len() > 1 => format!(": did you mean {value}?"),
                _ => String::new(),
            };
            let message = format!(
                "Unsupported value: \"{text}\": supported values: {}{meant}",
                quoted.join(", ")
            );
            self.refuse(schema, field, message);
        }
        let length = text.chars().count() as u64;
        if let Some(most) = schema["maxLength"].as_u64()
            && length > most
        {
            let message = format!("Too long: may not be more than {most} bytes");
            self.refuse(schema, field, message);
        }
        if let Some(least) = schema["minLength"].as_u64()
            && length < least
        {
            let message = format!("should be at least {least} chars long");
            self.refuse(schema, field, message);
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
        {
            let message = format!("\"{text}\" should match '{pattern}'");
            self.refuse(schema, field, message);
        }
    }

    fn number(&mut self, schema: &Value, number: &Number, field: &str) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        if let Some(least) = schema["minimum"].as_f64()
            && value < least
        {
            let message = format!("{number} should be greater than or equal to {least}");
            self.refuse(schema, field, message);
        }
        if let Some(most) = schema["maximum"].as_f64()
            && value > most
        {
            let message = format!("{number} should be less than or equal to {most}");
            self.refuse(schema, field, message);
        }
    }
}

/// A list of names in a schema; empty if it is absent.
fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).collect()
}

fn join(field: &str, key: &str) -> String {
    if field.is_empty() {
        key.to_owned()
    } else {
        format!("{field}.{key}")
    }
}

/// Whether the API server takes a number for an integer, which it also does with `2.0`.
fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

/// The first two sentences of a field's description.
fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let ends: Vec<usize> = text.match_indices(". ").map(|(at, _)| at).collect();
    text[..ends.get(1).copied().unwrap_or(text.len())]
        .trim_end_matches('.')
        .to_owned()
}

/// A value with its type.
fn described(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(Value::Null) => "null".to_owned(),
        Kind::Scalar(Value::Bool(value)) => format!("the boolean {value}"),
        Kind::Scalar(Value::Number(number)) => format!("the number {number}"),
        Kind::Scalar(text) => format!("the string {text}"),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "an object".to_owned(),
    }
}

/// The known name that is most similar, if no more than half of its letters differ.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let distances = known
        .iter()
        .map(|known| (strsim::levenshtein(&name, &known.to_lowercase()), *known));
    let (distance, known) = distances.min()?;
    (distance * 2 <= known.len()).then_some(known)
}

#[cfg(test)]
mod tests;
