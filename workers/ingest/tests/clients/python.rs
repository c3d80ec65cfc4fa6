//! Scripts in Python, as users have them.

use std::{collections::BTreeMap, path::Path, process::Command};

use pinpipe_servers::process::lib;
use serde_json::{Value, json};

use crate::{broker::contents, worker::Worker};

/// Runs a script, which must succeed.
fn run(worker: &Worker, script: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/cases/clients");
    let output = Command::new("timeout")
        .args(["60", "python3"])
        .arg(folder.join(script))
        .env("PYTHONPATH", lib("clients").unwrap())
        .env("INVOKE_URL", &worker.url)
        .env("PREFIX", &worker.prefix)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{script}: {out}{error}");
}

/// Asserts that the topic of a kind holds exactly these records, in any order.
fn holds(worker: &Worker, kind: &str, expected: &[(&str, Value)]) {
    let count = |records: Vec<(String, Value)>| {
        let mut all = BTreeMap::new();
        for (key, value) in records {
            *all.entry((key, value.to_string())).or_insert(0) += 1;
        }
        all
    };
    let found = contents(&worker.topic(kind)).into_values();
    let found = found.map(|(key, value)| (key, serde_json::from_str(&value).unwrap()));
    let expected = expected.iter();
    let expected = expected.map(|(key, value)| ((*key).to_owned(), value.clone()));
    assert_eq!(count(found.collect()), count(expected.collect()), "{kind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_posted() {
    let worker = Worker::start("records").await;
    run(&worker, "records.py");
    let key = "fbe53c66-3442-4773-b19e-d3ec6f54dddf";
    let pin = json!({"index": 7528, "unique_id": key, "title": "Café"});
    let geo = json!({"ind": 7528, "timestamp": "2020-08-28 03:52:47", "latitude": -89.9787,
        "longitude": -173.293, "country": "Albania"});
    let user = json!({"ind": 7528, "first_name": "Abigail", "last_name": "Ali", "age": 20});
    holds(&worker, "pin", &[(key, pin.clone()), (key, pin)]);
    holds(&worker, "geo", &[("7528", geo)]);
    holds(&worker, "user", &[("7528", user)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_sent_to_topics_of_a_rest_proxy() {
    let worker = Worker::start("proxied").await;
    run(&worker, "rest_proxy.py");
    let pin = |number| json!({"index": number, "unique_id": format!("proxy-{number}")});
    let geo = |number| json!({"ind": number, "timestamp": format!("2020-08-28 03:52:0{number}")});
    let pins = [
        ("proxy-0", pin(0)),
        ("proxy-1", pin(1)),
        ("proxy-2", pin(2)),
    ];
    holds(&worker, "pin", &pins);
    holds(
        &worker,
        "geo",
        &[("0", geo(0)), ("1", geo(1)), ("2", geo(2))],
    );
    holds(&worker, "user", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_put_into_streams() {
    let worker = Worker::start("streamed").await;
    run(&worker, "streams.py");
    let pin = json!({"index": 1, "unique_id": "stream-1"});
    let geo = json!({"ind": 1, "timestamp": "2020-08-28 03:52:47"});
    let user = json!({"ind": 1, "date_joined": "2015-10-24 11:23:51"});
    holds(&worker, "pin", &[("stream-1", pin)]);
    holds(&worker, "geo", &[("1", geo)]);
    holds(&worker, "user", &[("1", user)]);
}
