//! Records that can't be keyed, with the dead letters expected for them.

use crate::Kind;

/// A broken record and the headers of its dead letter.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The record's bytes.
    pub raw: Vec<u8>,
    /// The key of the Kafka record.
    pub key: Option<Vec<u8>>,
    /// The header `pinpipe.reason`.
    pub reason: &'static str,
    /// The header `pinpipe.field`.
    pub field: Option<&'static str>,
}

impl Broken {
    /// Whether the archive holds the record, too: what isn't JSON is only in the dead letters.
    #[must_use]
    pub fn is_archived(&self) -> bool {
        !matches!(self.reason, "not-json" | "not-utf8" | "too-large")
    }
}

/// `count` records of a kind, cycling through the ways to be broken. `limit` is the size limit of
/// a record, bytes.
#[must_use]
pub fn records(kind: Kind, count: usize, limit: usize) -> Vec<Broken> {
    let key = kind.columns()[0];
    let good = if kind == Kind::Pin {
        r#""unique_id": "u", "index": 1"#
    } else {
        r#""ind": 1"#
    };
    let object = |fields: &str| format!("{{{fields}}}").into_bytes();
    let with = |field: &str, token: &str| {
        let other = if kind == Kind::Pin && field == "index" {
            r#""unique_id": "u", "#
        } else {
            ""
        };
        let index = if kind == Kind::Pin && field == "unique_id" {
            r#", "index": 1"#
        } else {
            ""
        };
        object(&format!(r#"{other}"{field}": {token}{index}"#))
    };
    let mut ways: Vec<(Vec<u8>, &'static str, Option<&'static str>)> = vec![
        (format!("{{{good}").into_bytes(), "not-json", None),
        (b"hello".to_vec(), "not-json", None),
        (Vec::new(), "not-json", None),
        (object(&format!(r#"{good}, "age": NaN"#)), "not-json", None),
        ([&object(good), &b" x"[..]].concat(), "not-json", None),
        (
            [&b"{"[..], good.as_bytes(), b", \"country\": \"\xff\xfe\"}"].concat(),
            "not-utf8",
            None,
        ),
        (format!("[{{{good}}}]").into_bytes(), "not-an-object", None),
        (b"\"text\"".to_vec(), "not-an-object", None),
        (b"42".to_vec(), "not-an-object", None),
        (b"null".to_vec(), "not-an-object", None),
        (
            object(&format!(r#"{good}, "title": "{}""#, "x".repeat(limit))),
            "too-large",
            None,
        ),
        (with(key, "null"), "key-missing", Some(key)),
        (object(r#""title": "no key""#), "key-missing", Some(key)),
    ];
    if kind == Kind::Pin {
        ways.push((with("unique_id", "\" \""), "key-missing", Some("unique_id")));
        ways.push((
            with("unique_id", "[1]"),
            "key-unreadable",
            Some("unique_id"),
        ));
        ways.push((
            with("unique_id", "\"\\ud800\""),
            "key-unreadable",
            Some("unique_id"),
        ));
        ways.push((with("index", "null"), "key-missing", Some("index")));
    }
    let number = if kind == Kind::Pin { "index" } else { "ind" };
    for token in [
        "\"seven\"",
        "7.5",
        "\"1e3\"",
        "99999999999999999999",
        "{}",
        "true",
    ] {
        ways.push((with(number, token), "key-unreadable", Some(number)));
    }
    ways.into_iter()
        .cycle()
        .take(count)
        .enumerate()
        .map(|(n, (raw, reason, field))| Broken {
            raw,
            // Dead letters keep the key, also one that isn't text, or none.
            key: match n % 3 {
                0 => None,
                1 => Some(format!("broken {n}").into_bytes()),
                _ => Some(vec![0xff, 0x00, 0x7f]),
            },
            reason,
            field,
        })
        .collect()
}
