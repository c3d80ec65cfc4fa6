//! What of a document the schema refuses, as the API server would with `fieldValidation: Strict`.
//!
//! Of `OpenAPI` just what a structural schema of ours uses: types, bounds, `enum`, `pattern`,
//! `required`, maps, lists that are maps. The first words of a message are the API server's, so
//! that they can be looked up; what the field is for follows, from its description.

use regex::Regex;
use serde_json::Value;

use super::yaml::{Kind, Node};

/// Something the schema refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `spec.stream.sinks[0].name`.
    pub field: String,
    /// What is wrong, and what it should be.
    pub message: String,
    /// Whether rules can't be tried before this is mended, since they count on it.
    pub blocks_rules: bool,
}

/// Checks what stands at `field` against its schema.
pub fn check(schema: &Value, node: &Node, field: &str, refusals: &mut Vec<Refusal>) {
    let mut checker = Checker { refusals };
    checker.value(schema, node, field);
}

struct Checker<'a> {
    refusals: &'a mut Vec<Refusal>,
}

impl Checker<'_> {
    fn refuse(&mut self, schema: &Value, field: &str, message: impl std::fmt::Display) {
        let description = description(schema);
        let message = if description.is_empty() {
            message.to_string()
        } else {
            format!("{message} ({description})")
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
                    format_args!("must be of type integer or string, not {}", told(node)),
                ),
            }
            return;
        }
        match (schema["type"].as_str().unwrap_or_default(), &node.kind) {
            ("object", Kind::Map(_)) => self.object(schema, node, field),
            ("array", Kind::List(items)) => self.list(schema, items, field),
            ("string", Kind::Scalar(Value::String(text))) => self.text(schema, text, field),
            ("boolean", Kind::Scalar(Value::Bool(_))) | ("", _) => {}
            ("integer", Kind::Scalar(Value::Number(number))) if is_whole(number) => {
                self.number(schema, number, field)
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
                    format_args!("must be of type {wanted}, not {}{hint}", told(node)),
                );
            }
        }
    }

    fn object(&mut self, schema: &Value, node: &Node, field: &str) {
        let Kind::Map(entries) = &node.kind else {
            return;
        };
        let properties = schema["properties"].as_object();
        for required in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if node
                .entry(required)
                .is_none_or(|entry| entry.value.is_null())
            {
                let field = join(field, required);
                self.refuse(
                    &schema["properties"][required],
                    &field,
                    "Required value: it is missing",
                );
            }
        }
        if let Some(most) = schema["maxProperties"]
            .as_u64()
            .filter(|most| entries.len() as u64 > *most)
        {
            self.refuse(
                schema,
                field,
                format_args!(
                    "Too many: {}: must have at most {most} items",
                    entries.len()
                ),
            );
        }
        for entry in entries {
            let known = properties.and_then(|properties| properties.get(&entry.key));
            if let Some(property) = known {
                if !entry.value.is_null() {
                    self.value(property, &entry.value, &join(field, &entry.key));
                }
            } else if schema["additionalProperties"].is_object() {
                if !entry.value.is_null() {
                    self.value(
                        &schema["additionalProperties"],
                        &entry.value,
                        &format!("{field}[{}]", entry.key),
                    );
                }
            } else if let Some(properties) = properties {
                let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                let unknown = join(field, &entry.key);
                self.refusals.push(Refusal {
                    message: format!(
                        "unknown field \"{unknown}\": {}",
                        instead(&entry.key, &known)
                    ),
                    field: unknown,
                    blocks_rules: false,
                });
            }
        }
    }

    fn list(&mut self, schema: &Value, items: &[Node], field: &str) {
        if let Some(most) = schema["maxItems"]
            .as_u64()
            .filter(|most| items.len() as u64 > *most)
        {
            self.refuse(
                schema,
                field,
                format_args!("Too many: {}: must have at most {most} items", items.len()),
            );
        }
        if let Some(least) = schema["minItems"]
            .as_u64()
            .filter(|least| (items.len() as u64) < *least)
        {
            self.refuse(
                schema,
                field,
                format_args!("should have at least {least} items"),
            );
        }
        let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut seen: Vec<Vec<Value>> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let field = format!("{field}[{index}]");
            self.value(&schema["items"], item, &field);
            let of_item: Vec<Value> = keys
                .iter()
                .filter_map(|key| item.entry(key).map(|entry| entry.value.to_json()))
                .collect();
            if keys.is_empty() || of_item.len() < keys.len() {
                continue;
            }
            if seen.contains(&of_item) {
                let named: Vec<String> = keys
                    .iter()
                    .zip(&of_item)
                    .map(|(key, value)| format!("{key} {value}"))
                    .collect();
                let message = format!(
                    "Duplicate value: there is another item with the {}",
                    named.join(" and ")
                );
                self.refusals.push(Refusal {
                    field,
                    message,
                    blocks_rules: true,
                });
            } else {
                seen.push(of_item);
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, field: &str) {
        let named: Vec<&str> = schema["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !named.is_empty() && !named.contains(&text) {
            let all: Vec<String> = named.iter().map(|name| format!("\"{name}\"")).collect();
            let meant = nearest(text, &named)
                .map_or(String::new(), |name| format!(": did you mean {name}?"));
            self.refuse(
                schema,
                field,
                format_args!(
                    "Unsupported value: \"{text}\": supported values: {}{meant}",
                    all.join(", ")
                ),
            );
        }
        if let Some(most) = schema["maxLength"]
            .as_u64()
            .filter(|most| text.chars().count() as u64 > *most)
        {
            self.refuse(
                schema,
                field,
                format_args!("Too long: may not be more than {most} bytes"),
            );
        }
        if let Some(least) = schema["minLength"]
            .as_u64()
            .filter(|least| (text.chars().count() as u64) < *least)
        {
            self.refuse(
                schema,
                field,
                format_args!("should be at least {least} chars long"),
            );
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
        {
            self.refuse(
                schema,
                field,
                format_args!("\"{text}\" should match '{pattern}'"),
            );
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number, field: &str) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        if schema["minimum"]
            .as_f64()
            .is_some_and(|least| value < least)
        {
            let least = &schema["minimum"];
            self.refuse(
                schema,
                field,
                format_args!(
                    "{number} should be greater than or equal to {}",
                    plain(least)
                ),
            );
        }
        if schema["maximum"].as_f64().is_some_and(|most| value > most) {
            let most = &schema["maximum"];
            self.refuse(
                schema,
                field,
                format_args!("{number} should be less than or equal to {}", plain(most)),
            );
        }
    }
}

fn join(field: &str, key: &str) -> String {
    if field.is_empty() {
        key.to_owned()
    } else {
        format!("{field}.{key}")
    }
}

/// `2.0` is an integer to the API server, too.
fn is_whole(number: &serde_json::Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

/// A bound without a `.0`.
fn plain(bound: &Value) -> String {
    bound
        .as_f64()
        .map_or_else(|| bound.to_string(), |bound| format!("{bound}"))
}

/// What a field is for, without the sentences behind the first two.
fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let ends: Vec<usize> = text.match_indices(". ").map(|(at, _)| at).collect();
    text[..ends.get(1).copied().unwrap_or(text.len())]
        .trim_end_matches('.')
        .to_owned()
}

/// A value as a newcomer would call it.
fn told(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(Value::Null) => "nothing".to_owned(),
        Kind::Scalar(Value::Bool(truth)) => format!("the truth value {truth}"),
        Kind::Scalar(Value::Number(number)) => format!("the number {number}"),
        Kind::Scalar(text) => format!("the text {text}"),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "an object".to_owned(),
    }
}

/// What to write in place of a name that isn't known.
fn instead(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// The known name that differs in no more than half of its letters.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|candidate| {
        (
            distance(&name.to_lowercase(), &candidate.to_lowercase()),
            *candidate,
        )
    });
    distances
        .min()
        .filter(|(distance, candidate)| distance * 2 <= candidate.len())
        .map(|(_, candidate)| candidate)
}

/// Letters to be put in, taken out or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::offline::yaml;

    fn refusals(schema: &Value, text: &str) -> Vec<(String, String)> {
        let mut refusals = Vec::new();
        check(
            schema,
            &yaml::read(text).unwrap()[0].root,
            "",
            &mut refusals,
        );
        refusals
            .into_iter()
            .map(|refusal| (refusal.field, refusal.message))
            .collect()
    }

    /// A schema, a value of `a`, the beginning of what is said of it.
    #[test]
    fn each_bound_is_held() {
        let text = json!({"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"});
        let number = json!({"type": "integer", "minimum": 1, "maximum": 5});
        let list =
            json!({"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}});
        let map = json!({"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}});
        let quantity = json!({"x-kubernetes-int-or-string": true, "pattern": "^[0-9]+m?$"});
        let named = json!({"type": "string", "enum": ["None", "Gzip"], "description": "How. Or not. More."});
        for (schema, value, field, said) in [
            (&text, "abc", "", ""),
            (&text, "a", "a", "should be at least 2"),
            (&text, "abcde", "a", "Too long: may not be more than 4"),
            (&text, "A1", "a", "\"A1\" should match"),
            (
                &text,
                "5",
                "a",
                "must be of type string, not the number 5: put it in quotes",
            ),
            (&text, "", "", ""),
            (&text, "[b]", "a", "must be of type string, not a list"),
            (&number, "5", "", ""),
            (&number, "2.0", "", ""),
            (&number, "0", "a", "0 should be greater than or equal to 1"),
            (&number, "6", "a", "6 should be less than or equal to 5"),
            (
                &number,
                "1.5",
                "a",
                "must be of type integer, not the number 1.5",
            ),
            (
                &number,
                "one",
                "a",
                "must be of type integer, not the text \"one\"",
            ),
            (&list, "[]", "a", "should have at least 1"),
            (&list, "[a, b, c]", "a", "Too many: 3: must have at most 2"),
            (&list, "[a, 1]", "a[1]", "must be of type string"),
            (
                &list,
                "[a, ~]",
                "a[1]",
                "must be of type string, not nothing",
            ),
            (&map, "{x.y: 1}", "a[x.y]", "must be of type string"),
            (&map, "{x: a, y: b}", "a", "Too many"),
            (&quantity, "5m", "", ""),
            (&quantity, "5", "", ""),
            (&quantity, "0.5", "a", "must be of type integer or string"),
            (&quantity, "5 m", "a", "\"5 m\" should match"),
            (&named, "Gzip", "", ""),
            (
                &named,
                "gzip",
                "a",
                "Unsupported value: \"gzip\": supported values: \"None\", \"Gzip\": did you mean Gzip? (How. Or not)",
            ),
        ] {
            let found = refusals(
                &json!({"type": "object", "properties": {"a": schema}}),
                &format!("a: {value}\n"),
            );
            match found.as_slice() {
                [] => assert_eq!(said, "", "{value}"),
                [(at, message)] => {
                    assert_eq!(at, field, "{value}");
                    assert!(
                        !said.is_empty() && message.starts_with(said),
                        "{value}: {message}"
                    );
                }
                more => panic!("{value}: {more:?}"),
            }
        }
    }

    #[test]
    fn fields_that_are_missing_twice_there_or_unknown_are_named() {
        let schema = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "description": "Its name."},
            "sinks": {"type": "array", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}});
        assert_eq!(
            refusals(
                &schema,
                "name:\nsink: []\nsinks: [{name: a}, {name: b}, {name: a}, {}, {}]\n"
            ),
            [
                ("name", "Required value: it is missing (Its name)"),
                ("sink", "unknown field \"sink\": did you mean sinks?"),
                (
                    "sinks[2]",
                    "Duplicate value: there is another item with the name \"a\""
                ),
            ]
            .map(|(field, message)| (field.to_owned(), message.to_owned()))
        );
        assert_eq!(
            refusals(&schema, "name: a\nx: 1\n")[0].1,
            "unknown field \"x\": there are name, sinks"
        );
    }

    #[test]
    fn letters_apart() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("sink", "sinks", 1),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
        ] {
            assert_eq!(distance(a, b), expected);
        }
    }
}
