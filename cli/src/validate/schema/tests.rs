use serde_json::json;

use super::*;
use crate::validate::yaml;

fn refusals(schema: &Value, text: &str) -> Vec<(String, String)> {
    let refusals = check(schema, &yaml::read(text).unwrap()[0].root).into_iter();
    refusals
        .map(|refusal| (refusal.field, refusal.message))
        .collect()
}

#[test]
fn every_keyword_of_the_definition_is_checked() {
    let definition = serde_json::to_value(pinpipe_crds::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(
        unchecked_keywords(&schema["properties"]["spec"], "spec"),
        [""; 0]
    );

    let unknown = json!({"type": "object", "minProperties": 1, "additionalProperties": {
        "type": "array", "x-kubernetes-list-type": "set", "items": {
            "type": "integer", "format": "int32", "minimum": 0, "nullable": true}}});
    assert_eq!(
        unchecked_keywords(&unknown, "spec"),
        [
            "spec: minProperties",
            "spec[]: x-kubernetes-list-type",
            "spec[][]: format",
            "spec[][]: nullable",
        ]
    );
}

/// Keywords that [`check`] ignores, each with its field.
fn unchecked_keywords(schema: &Value, field: &str) -> Vec<String> {
    let of_type: &[&str] = match schema["type"].as_str() {
        Some("object") => &["properties", "required", "maxProperties"],
        Some("array") => &[
            "items",
            "minItems",
            "maxItems",
            "x-kubernetes-list-map-keys",
        ],
        Some("string") => &["minLength", "maxLength"],
        Some("integer" | "number") => &["minimum", "maximum"],
        None if schema["x-kubernetes-int-or-string"] == true => {
            &["x-kubernetes-int-or-string", "maxLength"]
        }
        _ => &[],
    };
    let mut unchecked = Vec::new();
    for (keyword, value) in schema.as_object().unwrap() {
        let checked = match keyword.as_str() {
            // `check_rules` evaluates the rules, and the operator checks unknown fields.
            "description" | "x-kubernetes-validations" | "x-kubernetes-preserve-unknown-fields" => {
                true
            }
            "type" => ["object", "array", "string", "integer", "number", "boolean"]
                .contains(&value.as_str().unwrap()),
            "additionalProperties" => value.is_object(),
            "x-kubernetes-list-type" => value == "map",
            "enum" => value.as_array().unwrap().iter().all(Value::is_string),
            "pattern" => Regex::new(value.as_str().unwrap()).is_ok(),
            "format" => is_within_format(schema),
            keyword => of_type.contains(&keyword),
        };
        if !checked {
            unchecked.push(format!("{field}: {keyword}"));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        unchecked.extend(unchecked_keywords(property, &join(field, name)));
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            unchecked.extend(unchecked_keywords(&schema[keyword], &format!("{field}[]")));
        }
    }
    unchecked
}

/// Whether the bounds of a number leave nothing to be checked of its format.
fn is_within_format(schema: &Value) -> bool {
    let bound = |keyword: &str| schema[keyword].as_f64().unwrap_or(f64::NAN);
    let (least, most) = (bound("minimum"), bound("maximum"));
    match schema["format"].as_str() {
        Some("int32") => least >= f64::from(i32::MIN) && most <= f64::from(i32::MAX),
        Some("int64") => least >= i64::MIN as f64 && most < i64::MAX as f64,
        Some("double") => true,
        _ => false,
    }
}

/// A schema, a value of `a`, and the field and beginning of the message; empty for a valid value.
#[test]
fn bounds_types_and_values_are_checked() {
    let text = json!({"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"});
    let number = json!({"type": "integer", "minimum": 1, "maximum": 5});
    let list = json!({"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}});
    let map = json!({
        "type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}
    });
    let quantity = json!({"x-kubernetes-int-or-string": true, "pattern": "^[0-9]+m?$"});
    let named = json!({
        "type": "string", "enum": ["None", "Gzip"], "description": "How. Or not. More."
    });
    for (schema, value, field, expected) in [
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
            "must be of type integer, not the string \"one\"",
        ),
        (&list, "[]", "a", "should have at least 1"),
        (&list, "[a, b, c]", "a", "Too many: 3: must have at most 2"),
        (&list, "[a, 1]", "a[1]", "must be of type string"),
        (&list, "[a, ~]", "a[1]", "must be of type string, not null"),
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
            "Unsupported value: \"gzip\": supported values: \"None\", \"Gzip\": \
                 did you mean Gzip? (How. Or not)",
        ),
    ] {
        let found = refusals(
            &json!({"type": "object", "properties": {"a": schema}}),
            &format!("a: {value}\n"),
        );
        match found.as_slice() {
            [] => assert_eq!(expected, "", "{value}"),
            [(at, message)] => {
                assert_eq!(at, field, "{value}");
                assert!(
                    !expected.is_empty() && message.starts_with(expected),
                    "{value}: {message}"
                );
            }
            more => panic!("{value}: {more:?}"),
        }
    }
}

#[test]
fn missing_unknown_and_duplicate_fields_are_named() {
    let schema = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "description": "Its name."},
        "sinks": {"type": "array", "x-kubernetes-list-map-keys": ["name"], "items": {
            "type": "object", "properties": {"name": {"type": "string"}}}}}});
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
                "Duplicate value: an earlier item has the same name \"a\""
            ),
        ]
        .map(|(field, message)| (field.to_owned(), message.to_owned()))
    );
    assert_eq!(
        refusals(&schema, "name: a\nx: 1\n")[0].1,
        "unknown field \"x\": known here: name, sinks"
    );
}
