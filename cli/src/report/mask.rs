//! Leaves secrets out of texts and objects.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What stands in a secret's place.
const MASKED: &str = "<masked>";

/// Names of values that nobody may see.
const NAMES: &str = "(?:pass(?:word|wd|phrase)|secret|token|credentials?|secret[_-]?key|api[_-]?key\
                     |private[_-]?key|access[_-]?key(?:[_-]?id)?|sasl[._]jaas[._]config)";

/// User name and password of a URL: everything up to the last `@` before a space or a quote.
static USER_INFO: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)[^\s"<>]*@"#).ok());
/// A value: between quotes that are escaped once, between others, or up to a space. A quoted value
/// may have spaces; if it is cut off, it ends with the line.
const VALUE: &str = concat!(
    r#"(?:\\"(?:[^"\\\n]|\\\\(?:\\.|[^"\\\n]))*\\""#,
    r#"|\\*"(?:\\.|[^"\\\n])*"?|\\*'(?:''|[^'\n])*'?"#,
    r#"|[^\s,;}"'][^\s,;}"]*)"#
);
/// A value behind a name that is a secret's, in YAML, JSON, JSON within a text, or `name=value`.
static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let name = format!(r#"\\*["']?[\w.-]*{NAMES}\\*["']?[ \t]*[=:][ \t]*"#);
    Regex::new(&format!("(?i)(?P<before>{name}){VALUE}")).ok()
});
/// A value behind an option of a command line that is a secret's, which may be a list in JSON.
static OPTION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let end = r#"(?:\\*["'](?:[ \t]*,[ \t]*|[ \t]+)|[ \t]+)"#;
    let name = format!(r#"(?:^|[\s"'\[(=,])--?[\w.-]*{NAMES}{end}"#);
    Regex::new(&format!("(?i)(?P<before>{name}){VALUE}")).ok()
});
/// A value in a field of its own behind a field with its name, as environment variables have them.
static PAIR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let (name, value) = (field("name|key"), field("value"));
    let name = format!(r#"{name}\\*["']?[\w.-]*{NAMES}\\*["']?[,;\s]+{value}(?:Some\()?"#);
    Regex::new(&format!("(?i)(?P<before>{name}){VALUE}")).ok()
});
/// As [`PAIR`], with the value before the name.
static REVERSED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let (name, value) = (field("name|key"), field("value"));
    let name = format!(r#"[,;\s]+{name}\\*["']?[\w.-]*{NAMES}\b"#);
    Regex::new(&format!("(?i)(?P<before>{value}){VALUE}(?P<after>{name})")).ok()
});
/// A name that is a secret's.
static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("(?i){NAMES}$")).ok());
/// A token of a request.
static BEARER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?P<before>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}").ok()
});
/// A certificate's private key.
static KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----").ok()
});

/// The beginning of a field with one of these names, up to its value.
fn field(names: &str) -> String {
    format!(r#"\\*["']?\b(?:{names})\\*["']?\s*[=:]\s*"#)
}

/// A text without credentials.
#[must_use]
pub(super) fn text(text: &str) -> String {
    let masked = format!("${{before}}{MASKED}");
    let rules = [
        (&KEY, MASKED.to_owned()),
        (&USER_INFO, format!("{masked}@")),
        (&NAMED, masked.clone()),
        (&OPTION, masked.clone()),
        (&PAIR, masked.clone()),
        (&REVERSED, format!("{masked}${{after}}")),
        (&BEARER, masked),
    ];
    rules.iter().fold(text.to_owned(), |text, (rule, instead)| {
        let Some(rule) = rule.as_ref() else {
            // A rule that can't be read would let secrets through.
            return MASKED.to_owned();
        };
        rule.replace_all(&text, instead.as_str()).into_owned()
    })
}

/// An object without values of environment variables and of fields with a secret's name, without
/// the annotations of other tools, which often repeat what was applied, and without the fields that
/// do so.
pub(super) fn object(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (key, inner) in fields.iter_mut() {
                match key.as_str() {
                    "env" => environment(inner),
                    "annotations" => annotations(inner),
                    _ if inner.is_string() && is_secret(key) => *inner = Value::from(MASKED),
                    _ => {}
                }
                object(inner);
            }
        }
        Value::Array(elements) => {
            arguments(elements);
            elements.iter_mut().for_each(object);
        }
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    NAME.as_ref().is_none_or(|rule| rule.is_match(name))
}

/// Keeps the annotations of pinpipe and of Kubernetes, without what was applied.
fn annotations(annotations: &mut Value) {
    let Some(annotations) = annotations.as_object_mut() else {
        return;
    };
    annotations.retain(|name, _| {
        let (domain, name) = name.split_once('/').unwrap_or_default();
        let known = ["pinpipe.dev", "kubernetes.io"].contains(&domain)
            || domain.ends_with(".kubernetes.io");
        known && name != "last-applied-configuration"
    });
}

/// Masks the values of options that are secrets', each the element behind its option.
fn arguments(elements: &mut [Value]) {
    let is_option = |element: &Value| {
        let option = element.as_str().filter(|text| text.starts_with('-'));
        option.is_some_and(is_secret)
    };
    for at in 1..elements.len() {
        if is_option(&elements[at - 1]) && elements[at].is_string() {
            elements[at] = Value::from(MASKED);
        }
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
            (
                r#"{"message":"answer {\"password\":\"s3cr3t\"}"}"#,
                r#"{"message":"answer {\"password\":<masked>}"}"#,
            ),
            (
                r#"{"message":"{\"password\":\"ab\\\"s3cr3t\", \"n\":1}"}"#,
                r#"{"message":"{\"password\":<masked>, \"n\":1}"}"#,
            ),
            (r#"{"password":"ab\"s3cr3t"}"#, r#"{"password":<masked>}"#),
            ("x-api-key: s3cr3t", "x-api-key: <masked>"),
            ("secret-access-key: s3cr3t", "secret-access-key: <masked>"),
            ("client_secret=s3cr3t x", "client_secret=<masked> x"),
            ("passwd='s3 cr''3t' x", "passwd=<masked> x"),
            ("password=it's3cr3t x", "password=<masked> x"),
            ("postgres://u:it's3cr3t@db/x", "postgres://<masked>@db/x"),
            ("secret:\n  secretName: tls", "secret:\n  secretName: tls"),
            ("user a@b.example wrote", "user a@b.example wrote"),
            (
                "run --password s3cr3t --port 1",
                "run --password <masked> --port 1",
            ),
            ("--sasl.password 's3 cr3t' x", "--sasl.password <masked> x"),
            (
                "run --password-file /etc/x --tokens 3",
                "run --password-file /etc/x --tokens 3",
            ),
            (
                r#"args ["--api-key", "s3cr3t", "-v"]"#,
                r#"args ["--api-key", <masked>, "-v"]"#,
            ),
            (
                r#"{"name":"DB_PASSWORD","value":"s3\"cr3t"},{"name":"A","value":"b"}"#,
                r#"{"name":"DB_PASSWORD","value":<masked>},{"name":"A","value":"b"}"#,
            ),
            (
                r#"env [{\"value\": \"s3cr3t\", \"name\": \"A_TOKEN\"}]"#,
                r#"env [{\"value\": <masked>, \"name\": \"A_TOKEN\"}]"#,
            ),
            (
                "set name=sasl.password value=s3cr3t, n=1",
                "set name=sasl.password value=<masked>, n=1",
            ),
            (
                "key: aws-secret-access-key\nvalue: s3cr3t\n",
                "key: aws-secret-access-key\nvalue: <masked>\n",
            ),
            (
                r#"EnvVar { name: "PASSWORD", value: Some("s3cr3t") }"#,
                r#"EnvVar { name: "PASSWORD", value: Some(<masked>) }"#,
            ),
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
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "s3cr3t",
                    "kapp.k14s.io/original": "{\"env\":[{\"value\":\"s3cr3t\"}]}",
                    "deployment.kubernetes.io/revision": "2",
                    "pinpipe.dev/paused": "true",
                },
            },
            "data": {"sasl.password": "s3\ncr3t", "secretName": "tls"},
            "spec": {"containers": [{
                "args": ["--password", "s3cr3t", "--port", "1"],
                "env": [
                    {"name": "A", "value": "s3cr3t"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
            }]},
        });
        object(&mut pod);
        let expected = json!({
            "metadata": {"annotations": {
                "deployment.kubernetes.io/revision": "2",
                "pinpipe.dev/paused": "true",
            }},
            "data": {"sasl.password": "<masked>", "secretName": "tls"},
            "spec": {"containers": [{
                "args": ["--password", "<masked>", "--port", "1"],
                "env": [
                    {"name": "A", "value": "<masked>"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
            }]},
        });
        assert_eq!(pod, expected);
    }
}
