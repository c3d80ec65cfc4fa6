//! Comparison of JSON values with what is required of them.

use serde_json::Value;

/// Fields whose values have only the required members. Elsewhere, the API server adds defaults.
const EXACT: [&str; 9] = [
    "config.yaml",
    "requests",
    "limits",
    "labels",
    "annotations",
    "nodeSelector",
    "selector",
    "matchLabels",
    "subjects",
];
/// Lists whose order has no meaning; their items have names.
const UNORDERED: [&str; 5] = [
    "imagePullSecrets",
    "volumes",
    "volumeMounts",
    "ports",
    "env",
];

/// Adds a line for each difference. A required null stands for an absent or empty value.
pub fn compare(path: &str, required: &Value, found: &Value, lines: &mut Vec<String>) {
    let key = path.rsplit('/').next().unwrap_or_default();
    let is_exact = path.split('/').any(|key| EXACT.contains(&key));
    match (required, found) {
        (Value::Object(required), Value::Object(found)) => {
            for (key, value) in required {
                let found = found.get(key).unwrap_or(&Value::Null);
                compare(&format!("{path}/{key}"), value, found, lines);
            }
            let more = found.iter().filter(|(key, value)| {
                is_exact && !required.contains_key(*key) && !is_empty(value)
            });
            lines.extend(more.map(|(key, value)| format!("{path}/{key}: unexpected {value}")));
        }
        (Value::Array(required), Value::Array(found)) if required.len() == found.len() => {
            let (mut required, mut found) = (required.clone(), found.clone());
            if UNORDERED.contains(&key) {
                let by_name = |item: &Value| item["name"].to_string();
                required.sort_by_key(by_name);
                found.sort_by_key(by_name);
            }
            for (at, (required, found)) in required.iter().zip(&found).enumerate() {
                compare(&format!("{path}/{at}"), required, found, lines);
            }
        }
        // An object of which nothing is required may be absent.
        (Value::Object(required), Value::Null) if required.values().all(is_empty) => {}
        _ if is_same(path, required, found) => {}
        _ => lines.push(format!("{path}: required {required}, found {found}")),
    }
}

fn is_same(path: &str, required: &Value, found: &Value) -> bool {
    let mut keys = path.rsplit('/');
    let (key, parent) = (
        keys.next().unwrap_or_default(),
        keys.next().unwrap_or_default(),
    );
    let is_quantity = matches!(key, "sizeLimit" | "averageValue")
        || matches!(
            (parent, key),
            (
                "requests" | "limits",
                "cpu" | "memory" | "ephemeral-storage"
            )
        );
    if is_quantity && let (Some(required), Some(found)) = (quantity(required), quantity(found)) {
        return (required - found).abs() <= f64::EPSILON * required.abs();
    }
    if is_empty(required) && is_empty(found) {
        return true;
    }
    match (required.as_f64(), found.as_f64()) {
        (Some(required), Some(found)) => (required - found).abs() <= f64::EPSILON * required.abs(),
        _ => required == found,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The number that a quantity such as `500m`, `1Gi` or `1e9` stands for. The API server stores
/// quantities in another notation than the one they were written in.
fn quantity(value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        return Some(number);
    }
    let text = value.as_str()?;
    let suffixes = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("", 1.0),
    ];
    suffixes.iter().find_map(|(suffix, factor)| {
        let number: f64 = text.strip_suffix(suffix)?.parse().ok()?;
        Some(number * factor)
    })
}
