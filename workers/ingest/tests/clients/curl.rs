//! Requests by curl: e2e/cases/http.sh.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use pinpipe_servers::stores::folder;
use serde_json::{Value, json};

use crate::{
    broker::contents,
    pattern::{NUMBER, SEQUENCE, SHARD, TEXT, entry, matches, offsets, places},
    worker::Worker,
};

/// A record's key and value.
type Record = (String, String);

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/cases")
}

fn file(name: &str) -> String {
    fs::read_to_string(cases().join(name)).unwrap()
}

/// What stands in a file between two texts, the first included.
fn within(name: &str, start: &str, end: &str) -> String {
    let text = file(name);
    let from = text.find(start).unwrap();
    let to = text[from..].find(end).unwrap();
    text[from..from + to].to_owned()
}

/// The answer to records as they are: the outcome of each in their order.
fn ours(kind: &str, outcomes: &[Result<(), &str>]) -> Value {
    let topic = format!("posted.{kind}");
    let stored = json!({"topic": topic, "partition": NUMBER, "offset": NUMBER});
    let records: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(()) => stored.clone(),
            Err(error @ ("not-json" | "not-an-object")) => {
                json!({"error": error, "message": TEXT})
            }
            Err(error) => json!({"error": error, "field": TEXT, "message": TEXT}),
        })
        .collect();
    let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let rejected = outcomes.len() - accepted;
    let mut answer = json!({"accepted": accepted, "rejected": rejected, "unconfirmed": 0,
        "records": records});
    if accepted == 0 {
        answer["error"] = json!("refused");
        answer["message"] = json!(TEXT);
    }
    answer
}

/// The kind, the answer and the stored records of each case.
fn expected() -> BTreeMap<&'static str, (&'static str, Value, Vec<Record>)> {
    let record = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let pin = || ("pin", ours("pin", &[Ok(())]), vec![record("u1", PIN)]);
    let refused = |kind, error| (kind, ours(kind, &[Err(error)]), vec![]);
    let long_key = "00000000-0000-4000-8000-000000007528";
    let long = within("f02-restproxy-pin.json", r#"{"index""#, "}]}");
    let data = within(
        "f03-kinesis-object.json",
        r#"{"index""#,
        ", \"PartitionKey\"",
    );
    let keyed = [("7528", r#"{"ind": 7528"#), ("7529", r#"{"ind": 7529"#)].map(|(key, start)| {
        record(
            key,
            &(within("f02-restproxy-keyed.json", start, "}}") + "}"),
        )
    });
    let put = json!({"ShardId": SHARD, "SequenceNumber": SEQUENCE});
    let puts = json!({"FailedRecordCount": 0, "Records": [put]});
    let single = |name: &str| file(name).trim().trim_start_matches('\u{feff}').to_owned();
    let bom = single("f07-bom/data_1.json");
    let bom_key: Value = serde_json::from_str(&bom).unwrap();
    let surrogates = file("f42-surrogates.ndjson");
    let surrogates: Vec<_> = surrogates.lines().collect();
    let outcomes = [
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        Err("key-unreadable"),
        Err("key-missing"),
        Ok(()),
    ];
    let kept = [("s1", 0), ("s2", 1), ("s3", 2), ("s4", 3), ("s7", 6)];
    let kept = kept.map(|(key, line)| record(key, surrogates[line]));
    let index = |kind| {
        let value = single(&format!("f04-{kind}-index.ndjson"));
        (kind, ours(kind, &[Ok(())]), vec![record("7528", &value)])
    };
    let on_geo = vec![record("7528", r#"{"ind":7528}"#)];
    let stream = |answer: &Value| ("pin", answer.clone(), vec![record(long_key, &data)]);
    let mut all: BTreeMap<_, _> = [
        ("F01-slash-on-geo", ("geo", ours("geo", &[Ok(())]), on_geo)),
        (
            "F02-topics-path",
            ("pin", offsets(&[entry()]), vec![record(long_key, &long)]),
        ),
        (
            "F02-keyed",
            ("geo", offsets(&[entry(), entry()]), keyed.to_vec()),
        ),
        (
            "F02-unknown-topic",
            ("pin", json!({"error_code": 40401, "message": TEXT}), vec![]),
        ),
        ("F02-envelope-on-pin", refused("pin", "key-missing")),
        ("F03-put-record", stream(&put)),
        ("F03-put-record-base64", stream(&put)),
        ("F03-put-records", stream(&puts)),
        ("F04-index-for-ind-geo", index("geo")),
        ("F04-index-for-ind-user", index("user")),
        ("F05-idx", refused("pin", "key-missing")),
        (
            "F07-byte-order-mark",
            (
                "pin",
                ours("pin", &[Ok(())]),
                vec![record(bom_key["unique_id"].as_str().unwrap(), &bom)],
            ),
        ),
        ("F17-double-encoded", refused("pin", "not-an-object")),
        ("F17-python-literal", refused("geo", "not-json")),
        (
            "F42-surrogates",
            ("pin", ours("pin", &outcomes), kept.to_vec()),
        ),
    ]
    .into();
    for name in [
        "F01-trailing-slash",
        "F01-double-slash",
        "F01-query-string",
        "F45-ndjson",
        "F45-jsonl",
        "F45-no-type",
        "F45-form-type",
        "F45-gzip",
        "F45-expect-100",
    ] {
        all.insert(name, pin());
    }
    all
}

const PIN: &str = r#"{"index":7528,"unique_id":"u1"}"#;

/// What the messages of refusals must say.
const SAYS: [(&str, &[&str]); 4] = [
    (
        "F02-envelope-on-pin",
        &["records[].value", "POST it to /topics/posted.pin"],
    ),
    ("F05-idx", &["`idx`, `unique_id`", "`index` (or `ind`)"]),
    ("F17-double-encoded", &["encoded twice"]),
    ("F17-python-literal", &["Python", "line 1, column 2"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn requests_by_curl() {
    let worker = Worker::start("posted").await;
    let answers = folder().join("answers");
    fs::create_dir(&answers).unwrap();
    let output = Command::new("timeout")
        .args(["120", "bash"])
        .arg(cases().join("http.sh"))
        .env("INGEST", &worker.url)
        .env("PREFIX", &worker.prefix)
        .env("ANSWERS", &answers)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.ends_with("\n0 wrong\n"),
        "{text}"
    );

    let expected = expected();
    let answer = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(answers.join(name)).unwrap()).unwrap()
    };
    let names = fs::read_dir(&answers).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), expected.len(), "{names:?}");
    let mut topics: BTreeMap<_, _> = ["pin", "geo", "user"]
        .map(|kind| (kind, BTreeMap::new()))
        .into();
    for (name, (kind, wanted, records)) in expected {
        let found = answer(name);
        assert!(matches(&found, &wanted), "{name}: {found}, not {wanted}");
        let places = places(&found);
        assert_eq!(places.len(), records.len(), "{name}: {found}");
        let topic = topics.get_mut(kind).unwrap();
        topic.extend(places.into_iter().zip(records));
    }
    for (kind, records) in topics {
        assert_eq!(contents(&worker.topic(kind)), records, "{kind}");
    }
    for (name, says) in SAYS {
        let answer = answer(name).to_string();
        let message = serde_json::from_str::<Value>(&answer).unwrap();
        let message = message["records"][0]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        for says in says {
            assert!(message.contains(says), "{name}: {message}");
        }
    }
}
