//! The fields of an object that the operator owns, as `managedFields` tells them.
//!
//! `managedFields` of a live object tell each manager's fields as a trie: `f:<field>`, `k:<the keys
//! of an item of a merged list>`, `v:<a member of a set>`, and `.` for the node itself. Source:
//! sigs.k8s.io/structured-merge-diff, `fieldpath`.

use serde_json::{Map, Value};

/// Whether `manager` applied fields of `live` that aren't in `desired`, so that applying `desired`
/// would remove them. True, too, where it never applied the object.
#[must_use]
pub fn owns_more(live: &Value, desired: &Value, manager: &str) -> bool {
    owned(live, manager)
        .and_then(Value::as_object)
        .is_none_or(|owned| beyond(owned, desired))
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
    fn fields_we_no_longer_send_are_found() {
        let ports = json!([{"containerPort": 80, "protocol": "TCP"}]);
        let desired = json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {"containers": [{"name": "main", "args": ["x"], "ports": ports}]},
        });
        let port = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
        let container = json!({
            ".": {},
            "f:name": {},
            "f:args": {},
            "f:ports": {port: {".": {}, "f:containerPort": {}}},
        });
        let owned = json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": container}},
        });
        assert!(!owns_more(&live(&owned), &desired, "us"));

        for (pointer, more) in [
            ("/f:metadata/f:labels", json!({"f:a": {}, "f:b": {}})),
            ("/f:metadata", json!({"f:annotations": {"f:a": {}}})),
            ("/f:spec/f:containers", json!({"k:{\"name\":\"gone\"}": {}})),
            ("/f:spec", json!({"f:finalizers": {"v:\"x\"": {}}})),
        ] {
            let mut owned = owned.clone();
            *owned.pointer_mut(pointer).unwrap() = more;
            assert!(owns_more(&live(&owned), &desired, "us"), "{pointer}");
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
    fn an_object_we_never_applied_is_due() {
        assert!(owns_more(&live(&json!({})), &json!({}), "another"));
        assert!(owns_more(&json!({"metadata": {}}), &json!({}), "us"));
    }
}
