//! Which fields of two JSON values differ.

use serde::Serialize;
use serde_json::Value;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Field {
    /// Path, such as `spec.template.spec.containers[worker].image`.
    pub(super) path: String,
    /// Its value before. None: it was absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Value>,
    /// Its value after. None: it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Value>,
}

/// The fields that differ, in the order of their paths. Elements of lists are compared by their
/// names where all have one, else by their places.
pub(super) fn fields(before: &Value, after: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    found
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Field>) {
    let absent = |value: Option<&Value>| value.is_none_or(Value::is_null);
    if before == after || absent(before) && absent(after) {
        return;
    }
    if let (Some(before), Some(after)) = (before, after)
        && let (Some(olds), Some(news)) = (children(before), children(after))
        && before.is_object() == after.is_object()
        && by_name(before) == by_name(after)
    {
        let mut keys: Vec<&String> = olds.iter().chain(&news).map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        let find = |all: &[(String, &Value)], key: &String| {
            let mut all = all.iter();
            all.find(|(other, _)| other == key)
                .map(|(_, value)| (*value).clone())
        };
        for key in keys {
            let inner = match (before.is_object(), path) {
                (true, "") => key.clone(),
                (true, path) => format!("{path}.{key}"),
                (false, path) => format!("{path}[{key}]"),
            };
            let (old, new) = (find(&olds, key), find(&news, key));
            compare(&inner, old.as_ref(), new.as_ref(), found);
        }
        return;
    }
    found.push(Field {
        path: path.to_owned(),
        before: before.filter(|value| !value.is_null()).cloned(),
        after: after.filter(|value| !value.is_null()).cloned(),
    });
}

/// The parts of an object or a list, each with its key. None: it is neither, or empty.
fn children(value: &Value) -> Option<Vec<(String, &Value)>> {
    match value {
        Value::Object(fields) => Some(
            fields
                .iter()
                .map(|(key, value)| (key.clone(), value))
                .collect(),
        ),
        Value::Array(elements) => {
            let named = by_name(value);
            let key = |(place, element): (usize, &Value)| match element["name"].as_str() {
                Some(name) if named => name.to_owned(),
                _ => place.to_string(),
            };
            let keys = elements.iter().enumerate().map(key);
            Some(keys.zip(elements).collect())
        }
        _ => None,
    }
}

/// Whether the elements of a list are told apart by their names.
fn by_name(value: &Value) -> bool {
    let Some(elements) = value.as_array() else {
        return false;
    };
    let mut names: Vec<&str> = elements
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.len() == elements.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_named_by_their_paths() {
        let before = json!({
            "same": [1, {"a": 2}], "gone": null, "n": 1,
            "list": [{"name": "a", "v": 1}, {"name": "b", "v": 2}],
            "args": ["x", "y"],
        });
        let after = json!({
            "same": [1, {"a": 2}], "n": 2, "new": {"k": 1},
            "list": [{"name": "b", "v": 3}, {"name": "a", "v": 1}],
            "args": ["x", "z"],
        });
        let told: Vec<_> = fields(&before, &after)
            .into_iter()
            .map(|field| (field.path, field.before, field.after))
            .collect();
        let some = |value: Value| Some(value);
        assert_eq!(
            told,
            [
                ("args[1]".to_owned(), some(json!("y")), some(json!("z"))),
                ("list[b].v".to_owned(), some(json!(2)), some(json!(3))),
                ("n".to_owned(), some(json!(1)), some(json!(2))),
                ("new".to_owned(), None, some(json!({"k": 1}))),
            ]
        );
        assert_eq!(fields(&before, &before), []);
    }
}
