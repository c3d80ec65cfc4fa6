//! The contract of the Kafka REST proxy, version 2, as a table.

use std::{collections::BTreeMap, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{
    broker::contents,
    pattern::{NUMBER, TEXT, entry, matches, offsets, places},
    worker::{BODY_BYTES, RECORD_BYTES, Worker},
};

/// The usual `Content-Type`.
const JSON_V2: &str = "application/vnd.kafka.json.v2+json";

/// A request and what is expected of it. `$` in the path stands for the topic of geo records.
struct Case {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    answer: Value,
    /// Keys and values of the records that are stored, in their order.
    stored: Vec<(&'static str, &'static str)>,
}

/// A request with the usual headers that is answered with 200.
fn post(name: &'static str, body: &str, answer: Value) -> Case {
    Case {
        name,
        method: "POST",
        path: "/topics/$",
        headers: vec![("content-type", JSON_V2)],
        body: body.as_bytes().to_vec(),
        status: 200,
        answer,
        stored: Vec::new(),
    }
}

/// A request that is refused as a whole.
fn refused(name: &'static str, body: &str, status: u16, code: u32) -> Case {
    Case {
        status,
        ..post(name, body, json!({"error_code": code, "message": TEXT}))
    }
}

impl Case {
    fn to(self, method: &'static str, path: &'static str) -> Self {
        Self {
            method,
            path,
            ..self
        }
    }

    fn with(self, headers: &[(&'static str, &'static str)]) -> Self {
        Self {
            headers: headers.to_vec(),
            ..self
        }
    }

    fn stores(self, records: &[(&'static str, &'static str)]) -> Self {
        Self {
            stored: records.to_vec(),
            ..self
        }
    }
}

fn failed(code: u32) -> Value {
    json!({"partition": null, "offset": null, "error_code": code, "error": TEXT})
}

/// A body with one record, and the record.
const ONE: &str = r#"{"records": [{"value": {"ind": 1}}]}"#;
const STORED: [(&str, &str); 1] = [("1", r#"{"ind": 1}"#)];

fn one(name: &'static str) -> Case {
    post(name, ONE, offsets(&[entry()])).stores(&STORED)
}

/// Requests whose records are stored.
fn accepted() -> Vec<Case> {
    let several =
        r#"{"records":[{"value":{"ind":3}},{"value":{"ind":" 2 "}},{"value":{"ind":1}}]}"#;
    let keyed = r#"{"records": [{"key": "other", "partition": 1, "value": {"ind": 1}}]}"#;
    let null = r#"{"records": [{"key": null, "partition": null, "value": {"ind": 1}}]}"#;
    let object = r#"{"records": [{"key": {"a": [1]}, "value": {"ind": 1}}]}"#;
    let more = r#"{"records": [{"value": {"ind": 1}, "headers": [], "timestamp": 1}], "x": 1}"#;
    let schemas = r#"{"key_schema": null, "value_schema_id": null,
        "records": [{"value": {"ind": 1}}]}"#;
    let bytes = r#"{"records": [{"value": { "ind":1.0,"x" : 1e400, "y":"\u00e9\ud800" } }]}"#;
    let index = r#"{"records": [{"value": {"index": 1}}]}"#;
    let mark = "\u{feff}{\"records\": [{\"value\": {\"ind\": 1}}]}";
    let single = offsets(&[entry()]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(ONE.as_bytes()).unwrap();
    let gzip = Case {
        body: encoder.finish().unwrap(),
        ..one("compressed")
    };
    vec![
        one("one record"),
        post(
            "several records",
            several,
            offsets(&[entry(), entry(), entry()]),
        )
        .stores(&[
            ("3", r#"{"ind":3}"#),
            ("2", r#"{"ind":" 2 "}"#),
            ("1", r#"{"ind":1}"#),
        ]),
        post("a foreign key and partition", keyed, single.clone()).stores(&STORED),
        post("a key that is null", null, single.clone()).stores(&STORED),
        post("a key that is an object", object, single.clone()).stores(&STORED),
        post("unknown fields", more, single.clone()).stores(&STORED),
        post("schemas that are null", schemas, single.clone()).stores(&STORED),
        post("the value's own bytes", bytes, single.clone())
            .stores(&[("1", r#"{ "ind":1.0,"x" : 1e400, "y":"\u00e9\ud800" }"#)]),
        post("the other name of the number", index, single.clone())
            .stores(&[("1", r#"{"index": 1}"#)]),
        post("a byte order mark", mark, single).stores(&STORED),
        one("a partition").to("POST", "/topics/$/partitions/0"),
        one("a partition that isn't there").to("POST", "/topics/$/partitions/99"),
        one("an alias").to("POST", "/topics/streaming-0a1b-geo"),
        one("a percent-encoded name").to("POST", "/topics/streaming%2D0a1b%2Dgeo"),
        one("slashes").to("POST", "//topics/$/"),
        one("a query").to("POST", "/topics/$?x=1"),
        one("a charset").with(&[(
            "content-type",
            "application/vnd.kafka.json.v2+json;charset=utf-8",
        )]),
        one("plain JSON").with(&[("content-type", "application/json")]),
        one("the type of answers").with(&[("content-type", "application/vnd.kafka.v2+json")]),
        one("no type").with(&[]),
        gzip.with(&[("content-type", JSON_V2), ("content-encoding", "gzip")]),
    ]
}

/// Requests with records that are refused, each by an entry of its own.
fn partly_refused() -> Vec<Case> {
    let value = |value: &str| format!(r#"{{"records": [{{"value": {value}}}]}}"#);
    let invalid = |name, text: &str, code| post(name, &value(text), offsets(&[failed(code)]));
    let mixed = r#"{"records":[{"value":{"ind":2}},{"value":{"x":1}},{"value":{"ind":1}},7]}"#;
    let large = format!("{{\"ind\": 1, \"x\": \"{}\"}}", "x".repeat(RECORD_BYTES));
    vec![
        invalid("a null value", "null", 42206),
        post(
            "no value",
            r#"{"records": [{"key": 1}]}"#,
            offsets(&[failed(42206)]),
        ),
        post(
            "no object in place of an entry",
            r#"{"records": [1]}"#,
            offsets(&[failed(42206)]),
        ),
        invalid("a number", "7", 42203),
        invalid("an array", "[{\"ind\": 1}]", 42203),
        invalid("a text", r#""{\"ind\": 1}""#, 42203),
        invalid("no key", r#"{"idx": 1}"#, 42206),
        invalid("a key that can't be read", r#"{"ind": "x"}"#, 42206),
        invalid("a record over the limit", &large, 42206),
        post(
            "some of several",
            mixed,
            offsets(&[entry(), failed(42206), entry(), failed(42206)]),
        )
        .stores(&[("2", r#"{"ind":2}"#), ("1", r#"{"ind":1}"#)]),
    ]
}

/// Requests that are refused as a whole.
fn all_refused() -> Vec<Case> {
    let records = vec![r#"{"value": {"ind": 1}}"#; 10_001].join(",");
    let many = format!(r#"{{"records": [{}]}}"#, vec!["7"; 10_001].join(","));
    let large = format!("{{\"records\": [{records}]}}");
    assert!(large.len() > BODY_BYTES && many.len() < BODY_BYTES);
    let typed =
        |name, content_type| refused(name, ONE, 415, 415).with(&[("content-type", content_type)]);
    let encoded = [("content-type", JSON_V2), ("content-encoding", "br")];
    vec![
        refused("an empty body", "", 400, 400),
        refused("no JSON", "hello", 400, 400),
        refused(
            "an array that isn't closed",
            r#"{"records": [{"value": {"ind": 1}}"#,
            400,
            400,
        ),
        refused(
            "a Python literal",
            "{'records': [{'value': {'ind': 1}}]}",
            400,
            400,
        ),
        refused("an empty object", "{}", 422, 422),
        refused("a record without its envelope", r#"{"ind": 1}"#, 422, 422),
        refused("no records", r#"{"records": []}"#, 422, 422),
        refused("records that are null", r#"{"records": null}"#, 422, 422),
        refused("records that are an object", r#"{"records": {}}"#, 422, 422),
        refused(
            "an array of records",
            r#"[{"value": {"ind": 1}}]"#,
            422,
            422,
        ),
        refused("JSON in JSON", r#""{\"records\": []}""#, 422, 422),
        refused("too many records", &many, 413, 413),
        refused("a body over the limit", &large, 413, 413),
        typed("Avro", "application/vnd.kafka.avro.v2+json"),
        typed("binary", "application/vnd.kafka.binary.v2+json"),
        typed("plain text", "text/plain"),
        refused("another encoding", ONE, 415, 415).with(&encoded),
        refused("an unknown topic", ONE, 404, 40401).to("POST", "/topics/elsewhere"),
        refused("a kind's name", ONE, 404, 40401).to("POST", "/topics/geo"),
        refused("a dead-letter topic", ONE, 404, 40401).to("POST", "/topics/$.dlq"),
        refused("no number of a partition", ONE, 404, 40402).to("POST", "/topics/$/partitions/x"),
        refused("another method", ONE, 405, 405).to("PUT", "/topics/$"),
        refused("another path", ONE, 404, 404).to("POST", "/topics/$/records"),
    ]
}

/// Requests for descriptions, after the others.
fn described(prefix: &str) -> Vec<Case> {
    let names = ["geo", "pin", "user"];
    let mut topics = names.map(|kind| format!("{prefix}.{kind}")).to_vec();
    topics.extend(names.map(|kind| format!("streaming-0a1b-{kind}")));
    topics.sort();
    let replica = json!({"broker": NUMBER, "leader": true, "in_sync": true});
    let partition =
        |number: i32| json!({"partition": number, "leader": NUMBER, "replicas": [replica]});
    let partitions = json!([partition(0), partition(1)]);
    let topic =
        |name: String| json!({"name": name, "configs": {}, "partitions": partitions.clone()});
    let get = |name, path, answer| post(name, "", answer).to("GET", path);
    let unknown = |name, path, code| refused(name, "", 404, code).to("GET", path);
    vec![
        get("topics", "/topics", json!(topics)),
        get("a topic", "/topics/$", topic(format!("{prefix}.geo"))),
        get(
            "a topic by its alias",
            "/topics/streaming-0a1b-geo",
            topic("streaming-0a1b-geo".to_owned()),
        ),
        get("partitions", "/topics/$/partitions", partitions.clone()),
        get("a partition", "/topics/$/partitions/1", partition(1)),
        get("brokers", "/brokers", json!({"brokers": [NUMBER]})),
        unknown(
            "a partition that isn't there",
            "/topics/$/partitions/2",
            40402,
        ),
        unknown("a topic that isn't there", "/topics/elsewhere", 40401),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_of_the_rest_proxy() {
    let worker = Worker::start("contract").await;
    let client = Client::new();
    let mut expected = BTreeMap::new();
    let cases = [
        accepted(),
        partly_refused(),
        all_refused(),
        described("contract"),
    ];
    let cases: Vec<_> = cases.into_iter().flatten().collect();
    assert!(cases.len() >= 40, "{}", cases.len());
    for case in cases {
        let name = case.name;
        let url = worker.url.clone() + &case.path.replace('$', &worker.topic("geo"));
        let method: Method = case.method.parse().unwrap();
        let mut request = client.request(method, url).body(case.body);
        for (header, value) in case.headers {
            request = request.header(header, value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].clone();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, case.status, "{name}: {answer}");
        assert!(
            matches(&answer, &case.answer),
            "{name}: {answer}, not {}",
            case.answer
        );
        assert_eq!(content_type, "application/vnd.kafka.v2+json", "{name}");
        let places = places(&answer);
        let stored = case.stored.iter();
        let stored = stored.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        assert_eq!(places.len(), case.stored.len(), "{name}");
        expected.extend(places.into_iter().zip(stored));
    }
    assert_eq!(contents(&worker.topic("geo")), expected);
    for kind in ["pin", "user"] {
        assert!(contents(&worker.topic(kind)).is_empty(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_plain_json_alone_get_it() {
    let worker = Worker::start("plain").await;
    let client = Client::new();
    let vendor = "application/vnd.kafka.v2+json";
    for (accept, expected) in [
        ("*/*", vendor),
        ("application/json", "application/json"),
        (
            "application/vnd.kafka.v2+json, application/json;q=0.1",
            vendor,
        ),
    ] {
        for (method, path) in [
            (Method::POST, "/topics/plain.geo"),
            (Method::GET, "/topics"),
        ] {
            let request = client.request(method, worker.url.clone() + path);
            let request = request.header("accept", accept).body(ONE);
            let response = request.send().await.unwrap();
            assert_eq!(
                response.headers()["content-type"],
                expected,
                "{accept}, {path}"
            );
        }
    }
}
