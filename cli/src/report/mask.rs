//! Leaves secrets out of texts and objects.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What stands in a secret's place.
const MASKED: &str = "<masked>";

/// User name and password of a URL: everything up to the last `@` before a space or a quote.
static USER_INFO: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>]*@"#).ok());
/// A value behind a name that is a secret's, in YAML, JSON, or `name=value`; a quoted value may
/// have spaces.
static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let names = "password|passwd|secret_?access_?key|secret_?key|access_?key_?id|session_?token\
                 |api_?key|private_?key|sasl[._]jaas[._]config|token";
    Regex::new(&format!(
        r#"(?i)(?P<name>["']?[\w.-]*(?:{names})["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s,;}}"']+)"#
    ))
    .ok()
});
/// A token of a request.
static BEARER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}").ok()
});
/// A certificate's private key.
static KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----").ok()
});

/// A text without credentials.
#[must_use]
pub(super) fn text(text: &str) -> String {
    let rules = [
        (&KEY, MASKED.to_owned()),
        (&USER_INFO, format!("${{scheme}}{MASKED}@")),
        (&NAMED, format!("${{name}}{MASKED}")),
        (&BEARER, format!("${{scheme}}{MASKED}")),
    ];
    rules.iter().fold(text.to_owned(), |text, (rule, instead)| {
        let Some(rule) = rule.as_ref() else {
            // A rule that can't be read would let secrets through.
            return MASKED.to_owned();
        };
        rule.replace_all(&text, instead.as_str()).into_owned()
    })
}

/// An object without values of environment variables, and without the annotation and the fields
/// that repeat what was applied.
pub(super) fn object(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            fields.remove("kubectl.kubernetes.io/last-applied-configuration");
            for (key, inner) in fields.iter_mut() {
                if key == "env" {
                    environment(inner);
                }
                object(inner);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(object),
        _ => {}
    }
}

fn environment(variables: &mut Value) {
    for variable in variables.as_array_mut().into_iter().flatten() {
        if let Some(value) = variable.get_mut("value") {
            *value = Value::from(MASKED);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_masked_and_the_rest_stays() {
        for (before, after) in [
            (
                "url postgres://u:s3cr3t@db:5432/x failed",
                "url postgres://<masked>@db:5432/x failed",
            ),
            ("postgres://u:p@ss/w@db/x", "postgres://<masked>@db/x"),
            (
                "sasl.password=s3cr3t, next=1",
                "sasl.password=<masked>, next=1",
            ),
            (
                "{\"password\": \"a \\u0062\", \"n\": 1}",
                "{\"password\": <masked>, \"n\": 1}",
            ),
            (
                "secretAccessKey: s3cr3t\nregion: eu",
                "secretAccessKey: <masked>\nregion: eu",
            ),
            (
                "authorization: Bearer abcdefgh.12",
                "authorization: Bearer <masked>",
            ),
            (
                "urlSecretRef: {name: warehouse, key: url}",
                "urlSecretRef: {name: warehouse, key: url}",
            ),
            ("user a@b.example wrote", "user a@b.example wrote"),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nrest",
                "<masked>\nrest",
            ),
        ] {
            assert_eq!(text(before), after);
        }
    }

    #[test]
    fn values_of_variables_are_masked_wherever_they_are() {
        let mut pod = json!({
            "metadata": {
                "managedFields": [1],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cr3t"},
            },
            "spec": {"containers": [{"env": [
                {"name": "A", "value": "s3cr3t"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]},
        });
        object(&mut pod);
        let expected = json!({
            "metadata": {"annotations": {}},
            "spec": {"containers": [{"env": [
                {"name": "A", "value": "<masked>"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]},
        });
        assert_eq!(pod, expected);
    }
}
