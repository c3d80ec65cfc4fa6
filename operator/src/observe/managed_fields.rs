//! The fields of an object that the operator owns, as `managedFields` tells them.
//!
//! `managedFields` of a live object tell each manager's fields as a trie: `f:<field>`, `k:<the keys
//! of an item of a merged list>`, `v:<a member of a set>`, and `.` for the node itself. Source:
//! sigs.k8s.io/structured-merge-diff, `fieldpath`.

use serde_json::{Map, Value};

/// Whether `manager` owns exactly the fields of `desired`. It owns less once another manager has
/// changed a value, and more where `desired` no longer has a field.
#[must_use]
pub fn owns_exactly(live: &Value, desired: &Value, manager: &str) -> bool {
    owned(live, manager)
        .and_then(Value::as_object)
        .is_some_and(|owned| covers(owned, &without_identity(desired)) && !beyond(owned, desired))
}

/// What of an object has owners: all but what names it.
fn without_identity(object: &Value) -> Value {
    let mut fields = object.clone();
    for (at, names) in [
        ("", ["apiVersion", "kind"]),
        ("/metadata", ["name", "namespace"]),
    ] {
        if let Some(found) = fields.pointer_mut(at).and_then(Value::as_object_mut) {
            found.retain(|field, _| !names.contains(&field.as_str()));
        }
    }
    fields
}

/// Whether every field of `desired` is owned.
fn covers(owned: &Map<String, Value>, desired: &Value) -> bool {
    if owned.is_empty() {
        // The value is owned as a whole.
        return true;
    }
    let below = |path: &str, value: &Value| {
        let owned = owned.get(path).and_then(Value::as_object);
        // The API server drops what is empty.
        is_empty(value) || owned.is_some_and(|owned| covers(owned, value))
    };
    match desired {
        Value::Object(fields) => {
            let mut fields = fields.iter();
            fields.all(|(field, value)| below(&format!("f:{field}"), value))
        }
        Value::Array(items) => items.iter().all(|item| {
            let one = std::slice::from_ref(item);
            let mut paths = owned.keys();
            let path = paths.find(|path| item_of(path, one).is_some());
            path.is_some_and(|path| below(path, item))
        }),
        _ => true,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Whether `manager` applied the field at a pointer into the trie, such as `/f:spec/f:replicas`.
#[must_use]
pub fn owns(live: &Value, pointer: &str, manager: &str) -> bool {
    let entries = live["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    let mut ours =
        entries.filter(|entry| entry["manager"] == manager && entry["operation"] == "Apply");
    ours.any(|entry| entry["fieldsV1"].pointer(pointer).is_some())
}

fn beyond(owned: &Map<String, Value>, desired: &Value) -> bool {
    owned.iter().any(|(path, below)| {
        let Some(found) = step(path, desired) else {
            return true;
        };
        below.as_object().is_some_and(|below| beyond(below, found))
    })
}

/// The fields of `live` that `manager` applied. None: it never applied the object.
#[must_use]
pub fn applied(live: &Value, manager: &str) -> Option<Value> {
    Some(part(owned(live, manager)?.as_object()?, live))
}

/// The fields that a manager applied, as a trie.
fn owned<'a>(live: &'a Value, manager: &str) -> Option<&'a Value> {
    let mut entries = live["metadata"]["managedFields"].as_array()?.iter();
    let entry = entries.find(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].is_null()
    })?;
    Some(&entry["fieldsV1"])
}

/// The owned part of a value.
fn part(owned: &Map<String, Value>, value: &Value) -> Value {
    let steps: Vec<(&String, &Value)> = owned.iter().filter(|(path, _)| *path != ".").collect();
    let below = |owned: &Value, value: &Value| {
        owned
            .as_object()
            .map_or_else(|| value.clone(), |owned| part(owned, value))
    };
    match value {
        // The whole value is owned.
        _ if steps.is_empty() => value.clone(),
        Value::Array(items) => {
            let ours = items.iter().filter_map(|item| {
                let one = std::slice::from_ref(item);
                let found = steps
                    .iter()
                    .find(|(path, _)| item_of(path, one).is_some())?;
                Some(below(found.1, item))
            });
            Value::Array(ours.collect())
        }
        Value::Object(fields) => {
            let ours = steps.iter().filter_map(|(path, owned)| {
                let field = path.strip_prefix("f:")?;
                Some((field.to_owned(), below(owned, fields.get(field)?)))
            });
            Value::Object(ours.collect())
        }
        scalar => scalar.clone(),
    }
}

/// The value of `desired` at one step of a path; `desired` itself where the step is `.`.
fn step<'a>(path: &str, desired: &'a Value) -> Option<&'a Value> {
    match path.split_once(':') {
        Some(("f", field)) => desired.get(field),
        Some(("k" | "v", _)) => item_of(path, desired.as_array()?),
        _ => Some(desired),
    }
}

/// The item that `k:<its keys>` or `v:<itself>` names.
fn item_of<'a>(path: &str, items: &'a [Value]) -> Option<&'a Value> {
    match path.split_once(':') {
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            items
                .iter()
                .find(|item| keys.iter().all(|(key, value)| item[key] == *value))
        }
        Some(("v", member)) => {
            let member: Value = serde_json::from_str(member).ok()?;
            items.iter().find(|item| **item == member)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(fields: &Value) -> Value {
        json!({"metadata": {"managedFields": [
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:other": {}}}},
            {"manager": "us", "operation": "Apply", "fieldsV1": fields},
        ]}})
    }

    #[test]
    fn fields_that_are_owned_but_not_sent_and_sent_but_not_owned_are_found() {
        let ports = json!([{"containerPort": 80, "protocol": "TCP"}]);
        let desired = json!({
            "kind": "A",
            "metadata": {"name": "a", "labels": {"a": "1"}},
            "spec": {
                "empty": {},
                "containers": [{"name": "main", "args": ["x"], "ports": ports}],
            },
        });
        let port = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
        let container = json!({
            ".": {},
            "f:name": {},
            "f:args": {},
            "f:ports": {port: {".": {}, "f:containerPort": {}, "f:protocol": {}}},
        });
        let owned = json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": container}},
        });
        assert!(owns_exactly(&live(&owned), &desired, "us"));

        let main = "/f:spec/f:containers/k:{\"name\":\"main\"}";
        for (pointer, other) in [
            // More.
            ("/f:metadata/f:labels", json!({"f:a": {}, "f:b": {}})),
            (
                "/f:metadata",
                json!({"f:labels": {"f:a": {}}, "f:annotations": {"f:a": {}}}),
            ),
            ("/f:spec/f:containers", json!({"k:{\"name\":\"gone\"}": {}})),
            // Less.
            ("/f:metadata/f:labels", json!({".": {}})),
            ("/f:metadata", json!({"f:other": {}})),
            (main, json!({".": {}, "f:name": {}, "f:args": {}})),
            (&format!("{main}/f:ports"), json!({".": {}})),
        ] {
            let mut owned = owned.clone();
            *owned.pointer_mut(pointer).unwrap() = other;
            assert!(
                !owns_exactly(&live(&owned), &desired, "us"),
                "{pointer} {owned}"
            );
        }
    }

    #[test]
    fn what_was_applied_is_read_back_without_what_others_set() {
        let ports = json!([{"containerPort": 80, "protocol": "TCP"}]);
        let ours = json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {
                "containers": [{"name": "main", "args": ["x", "y"], "ports": ports}],
                "finalizers": ["ours"],
                "resources": {"limits": {"cpu": "500m"}},
            },
        });
        let port = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
        let container = json!({
            ".": {},
            "f:name": {},
            "f:args": {},
            "f:ports": {port: {".": {}, "f:containerPort": {}, "f:protocol": {}}},
        });
        let owned = json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"main\"}": container},
                "f:finalizers": {"v:\"ours\"": {}},
                "f:resources": {"f:limits": {"f:cpu": {}}},
                "f:gone": {},
            },
        });
        let mut found = live(&owned);
        found["metadata"]["labels"] = json!({"a": "1", "theirs": "2"});
        found["spec"] = ours["spec"].clone();
        found["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        found["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "sidecar"}));
        found["spec"]["finalizers"] = json!(["theirs", "ours"]);
        let read = applied(&found, "us").unwrap();
        assert_eq!(read, ours);
        assert_eq!(applied(&found, "another"), None);
    }

    #[test]
    fn of_an_object_that_was_never_applied_nothing_is_owned() {
        assert!(!owns_exactly(&live(&json!({})), &json!({}), "another"));
        assert!(!owns_exactly(&json!({"metadata": {}}), &json!({}), "us"));
    }
}
