//! Whether a live object already holds every field that would be sent.
//!
//! The API server adds defaults and other managers add fields, so the two need not be equal: each
//! field that is sent must be there with its value. Lists that Kubernetes merges by a key are
//! compared by that key, others item by item. Quantities are compared by their value, since the API
//! server rewrites `0.5` as `500m`.

use serde_json::{Map, Value};

/// Lists that server-side apply merges, and the fields that tell their items apart. Source:
/// `x-kubernetes-list-map-keys` in Kubernetes' `OpenAPI` document, for the lists in what
/// [`pinpipe_plan::build`] makes.
const MERGED: [(&str, &[&str]); 8] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["containerPort", "port", "protocol"]),
    (
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// Fields whose values, or whose fields' values, are quantities.
const QUANTITIES: [&str; 4] = ["requests", "limits", "sizeLimit", "averageValue"];

/// Whether `live` holds everything in `desired`.
#[must_use]
pub fn holds(live: &Value, desired: &Value) -> bool {
    let Value::Object(fields) = desired else {
        return false;
    };
    // Items of a list come without these two; the kind is known from where they were listed.
    fields
        .iter()
        .filter(|(field, _)| !matches!(field.as_str(), "apiVersion" | "kind"))
        .all(|(field, desired)| within(field, &live[field], desired))
}

fn within(field: &str, live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => fields_within(field, live, desired),
        (Value::Array(live), Value::Array(desired)) => match keys_of(field) {
            Some(keys) => desired
                .iter()
                .all(|item| find(live, item, keys).is_some_and(|found| within("", found, item))),
            None => {
                live.len() == desired.len()
                    && live
                        .iter()
                        .zip(desired)
                        .all(|(live, desired)| within("", live, desired))
            }
        },
        // The API server drops what is empty.
        (Value::Null, Value::Object(desired)) => desired.is_empty(),
        (Value::Null, Value::Array(desired)) => desired.is_empty(),
        (Value::String(live), Value::String(desired)) if QUANTITIES.contains(&field) => {
            same_quantity(live, desired)
        }
        _ => live == desired,
    }
}

fn fields_within(field: &str, live: &Map<String, Value>, desired: &Map<String, Value>) -> bool {
    let quantities = QUANTITIES.contains(&field);
    desired.iter().all(|(name, value)| {
        let found = live.get(name).unwrap_or(&Value::Null);
        within(if quantities { field } else { name }, found, value)
    })
}

fn keys_of(field: &str) -> Option<&'static [&'static str]> {
    MERGED
        .iter()
        .find(|(name, _)| *name == field)
        .map(|(_, keys)| *keys)
}

fn find<'a>(live: &'a [Value], item: &Value, keys: &[&str]) -> Option<&'a Value> {
    live.iter().find(|found| {
        keys.iter()
            .all(|key| item[*key].is_null() || found[*key] == item[*key])
    })
}

fn same_quantity(a: &str, b: &str) -> bool {
    a == b || matches!((quantity(a), quantity(b)), (Some(a), Some(b)) if a == b)
}

/// A quantity as an exact number of billionths. None where it can't be read, or is out of range.
/// Source of the notation: k8s.io/apimachinery/pkg/api/resource, `Quantity`.
fn quantity(text: &str) -> Option<i128> {
    const BILLIONTHS: u32 = 9;
    let end = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
        .iter()
        .zip(1_u32..)
        .find(|(name, _)| **name == suffix);
    let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"]
        .iter()
        .zip(-3_i32..)
        .find(|(name, _)| **name == suffix);
    let (factor, exponent) = match (binary, decimal) {
        (Some((_, power)), _) => (1024_i128.checked_pow(power)?, 0),
        (None, Some((_, thousands))) => (1, thousands * 3),
        (None, None) => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let scale = i32::try_from(BILLIONTHS)
        .ok()?
        .checked_add(exponent)?
        .checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let value = digits.checked_mul(factor)?;
    let value = if scale >= 0 {
        value.checked_mul(10_i128.checked_pow(scale.unsigned_abs())?)?
    } else {
        let divisor = 10_i128.checked_pow(scale.unsigned_abs())?;
        (value % divisor == 0).then_some(value / divisor)?
    };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        for (a, b) in [
            ("0.5", "500m"),
            ("1", "1000m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("1000000n", "1m"),
            (".5", "500m"),
            ("2.", "2"),
            ("0", "0m"),
            ("128974848", "123Mi"),
        ] {
            assert!(same_quantity(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("1", "1m"),
            ("1G", "1Gi"),
            ("1", "one"),
            ("", "0"),
            ("1Zi", "1"),
        ] {
            assert!(!same_quantity(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_live_object_may_hold_more_but_not_less_or_other() {
        let desired = json!({"kind": "Deployment", "metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [
                {"name": "main", "args": ["a", "b"], "env": [{"name": "E", "value": "1"}],
                 "ports": [{"containerPort": 80, "protocol": "TCP"}],
                 "resources": {"limits": {"cpu": "0.5"}}, "volumeMounts": [
                    {"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]}]}}}});
        let mut live = desired.clone();
        live.as_object_mut().unwrap().remove("kind");
        live["metadata"]["labels"]["y"] = json!("2");
        live["metadata"]["uid"] = json!("u");
        live["status"] = json!({"replicas": 1});
        let containers = &mut live["spec"]["template"]["spec"]["containers"];
        containers[0]["resources"]["limits"]["cpu"] = json!("500m");
        containers[0]["terminationMessagePath"] = json!("/dev/termination-log");
        containers[0]["volumeMounts"] =
            json!([{"name": "v", "mountPath": "/b"}, {"name": "v", "mountPath": "/a"}]);
        containers
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "sidecar"}));
        assert!(holds(&live, &desired));

        for (pointer, other) in [
            ("/spec/replicas", json!(3)),
            ("/metadata/labels/x", json!("2")),
            ("/spec/template/spec/containers/1/args", json!(["a"])),
            ("/spec/template/spec/containers/1/args", json!(["b", "a"])),
            (
                "/spec/template/spec/containers/1/args",
                json!(["a", "b", "c"]),
            ),
            ("/spec/template/spec/containers/1/env", json!([])),
            ("/spec/template/spec/containers/1/env/0/value", json!("2")),
            (
                "/spec/template/spec/containers/1/ports/0/protocol",
                json!("UDP"),
            ),
            (
                "/spec/template/spec/containers/1/resources/limits/cpu",
                json!("501m"),
            ),
            (
                "/spec/template/spec/containers",
                json!([{"name": "sidecar"}]),
            ),
            ("/metadata/labels", Value::Null),
        ] {
            let mut changed = live.clone();
            *changed.pointer_mut(pointer).unwrap() = other.clone();
            assert!(!holds(&changed, &desired), "{pointer} {other}");
        }
    }

    #[test]
    fn what_is_not_merged_must_not_have_more() {
        let desired = json!({"subjects": [{"kind": "ServiceAccount", "name": "a"}]});
        assert!(holds(&desired, &desired));
        let more = json!({"subjects": [{"kind": "ServiceAccount", "name": "a"},
            {"kind": "ServiceAccount", "name": "b"}]});
        assert!(!holds(&more, &desired));
    }

    #[test]
    fn empty_is_absent() {
        assert!(holds(&json!({}), &json!({"data": {}, "rules": []})));
        assert!(!holds(&json!({}), &json!({"data": {"a": ""}})));
    }
}
