//! Whether we own a field that we no longer send. Server-side apply would remove it, so then a write is due.
//!
//! `managedFields` of a live object tell each manager's fields as a trie: `f:<field>`, `k:<the keys of an item of a merged list>`,
//! `v:<a member of a set>`, and `.` for the node itself. Source: sigs.k8s.io/structured-merge-diff, `fieldpath`.

use serde_json::{Map, Value};

/// Whether `manager`, by apply, owns fields of `live` that aren't in `desired`. True, too, where it owns nothing at all: it never
/// applied the object.
#[must_use]
pub fn owns_more(live: &Value, desired: &Value, manager: &str) -> bool {
    let mut entries =
        live["metadata"]["managedFields"].as_array().into_iter().flatten().filter(|entry| {
            entry["manager"] == manager && entry["operation"] == "Apply" && entry["subresource"].is_null()
        });
    match entries.next() {
        Some(entry) => entry["fieldsV1"].as_object().is_none_or(|owned| beyond(owned, desired)),
        None => true,
    }
}

/// Whether `manager`, by apply, owns the field at a pointer into the trie: `/f:spec/f:replicas`.
#[must_use]
pub fn owns(live: &Value, pointer: &str, manager: &str) -> bool {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut ours = entries.filter(|entry| entry["manager"] == manager && entry["operation"] == "Apply");
    ours.any(|entry| entry["fieldsV1"].pointer(pointer).is_some())
}

fn beyond(owned: &Map<String, Value>, desired: &Value) -> bool {
    owned.iter().any(|(path, below)| {
        let Some(found) = step(path, desired) else { return true };
        below.as_object().is_some_and(|below| beyond(below, found))
    })
}

/// What `desired` has at one step of a path; the node itself where the step goes nowhere.
fn step<'a>(path: &str, desired: &'a Value) -> Option<&'a Value> {
    match path.split_once(':') {
        Some(("f", field)) => desired.get(field),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            desired.as_array()?.iter().find(|item| keys.iter().all(|(key, value)| item[key] == *value))
        }
        Some(("v", member)) => {
            let member: Value = serde_json::from_str(member).ok()?;
            desired.as_array()?.iter().find(|item| **item == member)
        }
        _ => Some(desired),
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
        let desired = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [
            {"name": "main", "args": ["x"], "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}});
        let owned = json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": {
            ".": {}, "f:name": {}, "f:args": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}});
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
    fn an_object_we_never_applied_is_due() {
        assert!(owns_more(&live(&json!({})), &json!({}), "another"));
        assert!(owns_more(&json!({"metadata": {}}), &json!({}), "us"));
    }
}
