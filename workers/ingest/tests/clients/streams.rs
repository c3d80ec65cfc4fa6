//! Calls to Kinesis streams behind an API gateway.

use std::collections::BTreeMap;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{
    broker::contents,
    pattern::{SEQUENCE, SHARD, TEXT, matches, places},
    worker::Worker,
};

/// Method, path behind `/streams`, body, status, answer, and the records that are stored.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    u16,
    Value,
    Vec<(&'static str, &'static str)>,
);

fn stored() -> Value {
    json!({"ShardId": SHARD, "SequenceNumber": SEQUENCE})
}

fn refused(exception: &str) -> Value {
    json!({"__type": exception, "message": TEXT})
}

/// Calls with one record.
fn put_record() -> Vec<Case> {
    let (path, alias) = ("/streamed-calls.geo/record", "/streaming-0a1b-geo/record");
    let one = || vec![("1", r#"{"ind": 1}"#)];
    let invalid = || refused("InvalidArgumentException");
    let object = r#"{"StreamName": "other", "Data": {"ind": 1}, "PartitionKey": "p"}"#;
    let lower = r#"{"streamname": "s", "data": {"ind": 1}, "partition-key": 7}"#;
    let text = r#"{"Data": "{\"ind\": 1}", "PartitionKey": 7}"#;
    let base64 = r#"{"Data": "eyJpbmQiOiAxfQ=="}"#;
    let unreadable = r#"{"Data": "hello"}"#;
    vec![
        ("PUT", path, object, 200, stored(), one()),
        ("POST", alias, lower, 200, stored(), one()),
        ("PUT", alias, text, 200, stored(), one()),
        ("PUT", path, base64, 200, stored(), one()),
        ("PUT", path, unreadable, 400, invalid(), vec![]),
        (
            "PUT",
            path,
            r#"{"Data": {"idx": 1}}"#,
            400,
            invalid(),
            vec![],
        ),
        (
            "PUT",
            path,
            r#"{"Data": "{'ind': 1}"}"#,
            400,
            invalid(),
            vec![],
        ),
        ("PUT", path, r#"{"Data": 7}"#, 400, invalid(), vec![]),
        (
            "PUT",
            path,
            r#"{"Data": null}"#,
            400,
            refused("ValidationException"),
            vec![],
        ),
        (
            "PUT",
            path,
            r#"{"records": []}"#,
            400,
            refused("ValidationException"),
            vec![],
        ),
        (
            "PUT",
            path,
            "{",
            400,
            refused("SerializationException"),
            vec![],
        ),
        (
            "PUT",
            path,
            "",
            400,
            refused("SerializationException"),
            vec![],
        ),
        (
            "PUT",
            "/s/record",
            object,
            400,
            refused("ResourceNotFoundException"),
            vec![],
        ),
        (
            "DELETE",
            path,
            "",
            405,
            refused("UnknownOperationException"),
            vec![],
        ),
        (
            "PUT",
            "/streamed-calls.geo",
            "",
            405,
            refused("UnknownOperationException"),
            vec![],
        ),
    ]
}

/// Calls with several records, and for descriptions.
fn others() -> Vec<Case> {
    let path = "/streamed-calls.geo/records";
    let mixed = r#"{"records": [{"data": "{\"ind\": 2}", "partition-key": "p"}, {"data": {}},
        {"Data": {"ind": 1}, "PartitionKey": 1}, 7, {"data": null}]}"#;
    let two = vec![("2", r#"{"ind": 2}"#), ("1", r#"{"ind": 1}"#)];
    let failed = json!({"ErrorCode": "InvalidArgumentException", "ErrorMessage": TEXT});
    let answer = json!({"FailedRecordCount": 3,
        "Records": [stored(), failed, stored(), failed, failed]});
    let none = r#"{"Records": [{"Data": {}}]}"#;
    let half = "170141183460469231731687303715884105726";
    let next = "170141183460469231731687303715884105727";
    let last = "340282366920938463463374607431768211455";
    let shard = |first, last| {
        json!({
            "ShardId": SHARD,
            "HashKeyRange": {"StartingHashKey": first, "EndingHashKey": last},
            "SequenceNumberRange": {"StartingSequenceNumber": "0"},
        })
    };
    let stream = json!({"StreamDescription": {"StreamName": "streaming-0a1b-pin",
        "StreamARN": TEXT, "StreamStatus": "ACTIVE",
        "Shards": [shard("0", half), shard(next, last)],
        "HasMoreShards": false}});
    let names = [
        "streamed-calls.geo",
        "streamed-calls.pin",
        "streamed-calls.user",
        "streaming-0a1b-geo",
        "streaming-0a1b-pin",
        "streaming-0a1b-user",
    ];
    let names = json!({"StreamNames": names, "HasMoreStreams": false});
    let none_stored = json!({"FailedRecordCount": 1, "Records": [failed]});
    let single = r#"{"Data": {"ind": 1}}"#;
    vec![
        ("PUT", path, mixed, 200, answer, two),
        ("PUT", path, none, 200, none_stored, vec![]),
        (
            "PUT",
            path,
            r#"{"records": []}"#,
            400,
            refused("ValidationException"),
            vec![],
        ),
        (
            "PUT",
            path,
            single,
            400,
            refused("ValidationException"),
            vec![],
        ),
        ("GET", "", "", 200, names, vec![]),
        ("GET", "/streaming-0a1b-pin", "", 200, stream, vec![]),
        (
            "GET",
            "/s",
            "",
            400,
            refused("ResourceNotFoundException"),
            vec![],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_of_streams() {
    let worker = Worker::start("streamed-calls").await;
    let client = Client::new();
    let mut expected = BTreeMap::new();
    for (method, path, body, status, answer, stored) in [put_record(), others()].concat() {
        let method: Method = method.parse().unwrap();
        let request = client.request(method, format!("{}/streams{path}", worker.url));
        let response = request.body(body).send().await.unwrap();
        let found_status = response.status().as_u16();
        let found: Value = response.json().await.unwrap();
        assert_eq!(found_status, status, "{path}, {body}: {found}");
        assert!(
            matches(&found, &answer),
            "{path}, {body}: {found}, not {answer}"
        );
        let places = places(&found);
        assert_eq!(places.len(), stored.len(), "{path}, {body}: {found}");
        let stored = stored.into_iter();
        let stored = stored.map(|(key, value)| (key.to_owned(), value.to_owned()));
        expected.extend(places.into_iter().zip(stored));
    }
    assert_eq!(contents(&worker.topic("geo")), expected);
}
