//! Pipelines stored by earlier releases stay valid. `released/` keeps each release's definition and
//! samples that use all of its fields. A folder without a definition is of the next release: its
//! samples may still change, and the definition is added when it is released.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use pinpipe_crds::{PinterestPipeline, check_rules, crd};
use serde_json::Value;

/// The file with the definition in a release's directory. All other files are samples.
const DEFINITION: &str = "pinterestpipelines.yaml";
/// Rules that no release has in this form: a part of the rule, and why no stored pipeline becomes
/// invalid. A release begins with none.
const CHANGED: [(&str, &str); 0] = [];

struct Release {
    name: String,
    /// None: it isn't released yet.
    definition: Option<Value>,
    samples: Vec<(PathBuf, Value)>,
}

fn read(path: &Path) -> Value {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn releases() -> Vec<Release> {
    let releases: Vec<_> = fs::read_dir("released")
        .unwrap()
        .map(|release| {
            let folder = release.unwrap().path();
            let files = fs::read_dir(&folder)
                .unwrap()
                .map(|file| file.unwrap().path());
            let samples = files
                .filter(|path| !path.ends_with(DEFINITION))
                .map(|path| (path.clone(), read(&path)));
            Release {
                name: folder.file_name().unwrap().to_string_lossy().into_owned(),
                samples: samples.collect(),
                definition: fs::exists(folder.join(DEFINITION))
                    .unwrap()
                    .then(|| schema(&read(&folder.join(DEFINITION)))),
            }
        })
        .collect();
    assert!(!releases.is_empty());
    releases
}

fn schema(definition: &Value) -> Value {
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Collects what `before` allowed and `now` refuses or no longer knows.
fn narrowed(path: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    if now.is_null() {
        found.push(format!("{path} is gone"));
        return;
    }
    for key in [
        "type",
        "format",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ] {
        if before[key] != now[key] {
            found.push(format!(
                "{path}: {key} was {}, is {}",
                before[key], now[key]
            ));
        }
    }
    let number = |schema: &Value, key: &str| schema[key].as_f64();
    for (key, sign) in [
        ("maximum", 1.0),
        ("maxLength", 1.0),
        ("maxItems", 1.0),
        ("maxProperties", 1.0),
        ("minimum", -1.0),
        ("minLength", -1.0),
        ("minItems", -1.0),
        ("minProperties", -1.0),
    ] {
        if let Some(bound) = number(now, key)
            && number(before, key).is_none_or(|before| before * sign > bound * sign)
        {
            found.push(format!(
                "{path}: {key} was {}, is {}",
                before[key], now[key]
            ));
        }
    }
    if !now["pattern"].is_null() && now["pattern"] != before["pattern"] {
        found.push(format!("{path}: another pattern"));
    }
    if let Some(choices) = now["enum"].as_array() {
        match before["enum"].as_array() {
            None => found.push(format!("{path}: an enum where there was none")),
            Some(before) => found.extend(
                before
                    .iter()
                    .filter(|choice| !choices.contains(choice))
                    .map(|c| format!("{path}: {c} is not allowed")),
            ),
        }
    }
    let required = texts(&now["required"]);
    found.extend(
        required
            .difference(&texts(&before["required"]))
            .map(|field| format!("{path} requires {field}")),
    );
    let rules = before["x-kubernetes-validations"].as_array();
    for rule in now["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let text = rule["rule"].as_str().unwrap();
        let known =
            rules.is_some_and(|rules| rules.iter().any(|before| before["rule"] == rule["rule"]));
        let allowed = CHANGED.iter().any(|(part, _)| text.contains(part));
        if !known && !allowed && !concerns_a_new_field(text, before, now) {
            found.push(format!("{path} has another rule: {text}"));
        }
    }
    for (name, property) in before["properties"].as_object().into_iter().flatten() {
        narrowed(
            &format!("{path}.{name}"),
            property,
            &now["properties"][name],
            found,
        );
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if before[key].is_object() {
            narrowed(&format!("{path}{suffix}"), &before[key], &now[key], found);
        }
    }
}

/// Whether a rule concerns a field that `before` does not have. The samples prove that it holds if
/// the field is absent.
fn concerns_a_new_field(rule: &str, before: &Value, now: &Value) -> bool {
    let known = before["properties"].as_object();
    let new = now["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name);
    new.filter(|name| known.is_none_or(|known| !known.contains_key(*name)))
        .any(|name| rule.contains(&format!("self.{name}")))
}

#[test]
fn no_released_field_is_removed_or_narrowed() {
    let now = schema(&serde_json::to_value(crd()).unwrap());
    for Release {
        name, definition, ..
    } in releases()
    {
        let Some(definition) = definition else {
            continue;
        };
        let mut found = Vec::new();
        for part in ["spec", "status"] {
            narrowed(
                part,
                &definition["properties"][part],
                &now["properties"][part],
                &mut found,
            );
        }
        assert_eq!(found, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn narrowing_is_detected() {
    let before: Value = serde_yaml::from_str(
        "{type: object, required: [a], x-kubernetes-validations: [{rule: self.a > 1}], \
          properties: {\
          a: {type: integer, maximum: 9}, b: {type: string, enum: [x, y], maxLength: 5}, \
          c: {type: array, items: {type: string}}}}",
    )
    .unwrap();
    let changed = |pointer: &str, value: &str| {
        let mut now = before.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        now.pointer_mut(parent).unwrap()[key] = serde_yaml::from_str(value).unwrap();
        let mut found = Vec::new();
        narrowed("", &before, &now, &mut found);
        found
    };
    for (pointer, value) in [
        ("/properties/a", "null"),
        ("/properties/a/type", "string"),
        ("/properties/a/maximum", "8"),
        ("/properties/a/minimum", "0"),
        ("/properties/b/maxLength", "4"),
        ("/properties/b/enum", "[x, z]"),
        ("/properties/b/pattern", "x"),
        ("/properties/c/items/maxLength", "1"),
        ("/required", "[a, b]"),
        (
            "/x-kubernetes-validations",
            "[{rule: self.a > 1}, {rule: self.a > 2}]",
        ),
    ] {
        assert_eq!(changed(pointer, value).len(), 1, "{pointer}: {value}");
    }
    for (pointer, value) in [
        ("/properties/a/maximum", "10"),
        ("/properties/b/enum", "[x, y, z]"),
        ("/properties/d", "{type: string}"),
        ("/required", "[]"),
        ("/x-kubernetes-validations", "[]"),
    ] {
        assert_eq!(
            changed(pointer, value),
            Vec::<String>::new(),
            "{pointer}: {value}"
        );
    }
}

#[test]
fn samples_of_every_release_are_valid_and_can_be_read() {
    for Release { samples, .. } in releases() {
        for (path, sample) in samples {
            assert_eq!(check_rules(&sample, None), Ok(()), "{}", path.display());
            assert_eq!(
                check_rules(&sample, Some(&sample)),
                Ok(()),
                "{}",
                path.display()
            );
            let read: PinterestPipeline = serde_json::from_value(sample.clone())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let written = serde_json::to_value(&read.spec).unwrap();
            let mut lost = Vec::new();
            missing("spec", &sample["spec"], &written, &mut lost);
            assert_eq!(lost, Vec::<String>::new(), "{}", path.display());
        }
    }
}

/// Collects the fields of `sample` that are missing in `written`.
fn missing(path: &str, sample: &Value, written: &Value, lost: &mut Vec<String>) {
    match sample {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| {
                missing(&format!("{path}.{name}"), value, &written[name], lost);
            });
            if written.is_null() {
                lost.push(path.to_owned());
            }
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(at, value)| missing(&format!("{path}[{at}]"), value, &written[at], lost)),
        // A quantity may be written as a number.
        Value::Number(number) if written.as_str() == Some(number.to_string().as_str()) => {}
        scalar if scalar == written => {}
        _ => lost.push(path.to_owned()),
    }
}

#[test]
fn samples_use_every_field_of_their_release() {
    for Release {
        name,
        definition,
        samples,
    } in releases()
    {
        let Some(definition) = definition else {
            continue;
        };
        let specs: Vec<&Value> = samples.iter().map(|(_, sample)| &sample["spec"]).collect();
        let mut unused = Vec::new();
        used(
            "spec",
            &definition["properties"]["spec"],
            &specs,
            &mut unused,
        );
        assert_eq!(unused, Vec::<String>::new(), "{name}");
    }
}

fn used(path: &str, schema: &Value, samples: &[&Value], unused: &mut Vec<String>) {
    let samples: Vec<&Value> = samples
        .iter()
        .copied()
        .filter(|sample| !sample.is_null())
        .collect();
    if samples.is_empty() {
        unused.push(path.to_owned());
        return;
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let below: Vec<&Value> = samples.iter().map(|sample| &sample[name]).collect();
        used(&format!("{path}.{name}"), property, &below, unused);
    }
    if schema["items"].is_object() {
        let below: Vec<&Value> = samples
            .iter()
            .filter_map(|sample| sample.as_array())
            .flatten()
            .collect();
        used(&format!("{path}[]"), &schema["items"], &below, unused);
    }
}
