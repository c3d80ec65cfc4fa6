//! Random changes of a pipeline over all optional fields, valid and invalid, with the expected
//! outcome.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// The expected outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is applied.
    Applied,
    /// The API server rejects it.
    Rejected,
    /// The API server accepts it, but rejects a child built from it.
    ChildRejected,
    /// An annotation is invalid; Ready has this reason.
    InvalidAnnotation(&'static str),
}

impl Outcome {
    /// The name in the proof's result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Rejected => "rejected",
            Self::ChildRejected => "child rejected",
            Self::InvalidAnnotation(_) => "invalid annotation",
        }
    }
}

/// A change.
pub struct Change {
    /// A short description.
    pub what: String,
    /// The new spec.
    pub spec: Value,
    /// The new annotations.
    pub annotations: Value,
    /// The expected outcome.
    pub outcome: Outcome,
}

/// A spec with only the required fields and one partition.
pub fn minimal(bootstrap_servers: &str) -> Value {
    json!({"broker": {"kafka": {
        "bootstrapServers": bootstrap_servers,
        "topics": {"partitions": 1},
    }}})
}

/// A random change of a pipeline.
pub fn draw(random: &mut StdRng, from: &Value) -> Change {
    let plain = |what: &str, spec, outcome| Change {
        what: what.to_owned(),
        spec,
        annotations: json!({}),
        outcome,
    };
    match random.random_range(0..100) {
        0..16 => {
            let (what, spec) = invalid(random, from);
            plain(&what, spec, Outcome::Rejected)
        }
        16..22 => {
            let mut spec = from.clone();
            put(&mut spec, "archive", Some(archive(random)));
            put(&mut spec, "batch", Some(batch(random)));
            let (field, value) = pick(
                random,
                &[("timeZone", "Nowhere/Else"), ("schedule", "99 10 * * *")],
            );
            spec["batch"][field] = json!(value);
            plain(field, spec, Outcome::ChildRejected)
        }
        22..28 => {
            let (key, value, reason) = pick(
                random,
                &[
                    ("reset-sink", "nobody=earliest", "InvalidReset"),
                    ("reset-sink", "?", "InvalidReset"),
                    ("forget-topic", "none@x", "InvalidForget"),
                    ("run-batch", "", "InvalidRun"),
                ],
            );
            let annotations = json!({format!("pinpipe.dev/{key}"): value});
            Change {
                what: format!("{key}={value}"),
                spec: from.clone(),
                annotations,
                outcome: Outcome::InvalidAnnotation(reason),
            }
        }
        _ => loop {
            let (mut spec, mut what) = (from.clone(), Vec::new());
            for _ in 0..random.random_range(1..=3) {
                what.push(mutate(random, &mut spec));
            }
            if spec != *from {
                break plain(&what.join(" and "), spec, Outcome::Applied);
            }
        },
    }
}

/// Makes one valid change, and returns the field.
fn mutate(random: &mut StdRng, spec: &mut Value) -> String {
    let (what, value) = match random.random_range(0..24) {
        0 => (
            "suspend",
            maybe(random, |random| json!(random.random_bool(0.5))),
        ),
        1 => (
            "deadLetters/mode",
            one_of(random, &["Reject", "RejectAndLogRepairs", "Fail"]),
        ),
        2 => (
            "ingest/replicas",
            maybe(random, |random| json!(random.random_range(1..6))),
        ),
        3 => (
            "ingest/maxRecordBytes",
            maybe(random, |random| json!(random.random_range(256..9999))),
        ),
        4 => ("ingest/resources", resources(random)),
        5 => ("ingest", None),
        6 | 7 => ("stream", maybe(random, stream)),
        8 => (
            "archive/rotate",
            maybe(random, rotate).filter(|_| spec["archive"].is_object()),
        ),
        9 => {
            if spec["batch"].is_object() {
                ("batch", None)
            } else {
                ("archive", maybe(random, archive))
            }
        }
        10 => {
            if spec["archive"].is_null() {
                put(spec, "archive", Some(archive(random)));
            }
            ("batch", Some(batch(random)))
        }
        11 => ("emulator", maybe(random, emulator)),
        12 => (
            "image/registry",
            one_of(random, &["registry.test/a", "localhost:5000/b/c"]),
        ),
        13 => ("image/tag", one_of(random, &["", "2", "v1.2.3_x"])),
        14 => (
            "image/pullPolicy",
            one_of(random, &["Always", "IfNotPresent", "Never"]),
        ),
        15 => (
            "image/pullSecrets",
            maybe(random, |random| names(random, &["a", "b", "c"])),
        ),
        16 => {
            let now = spec["broker"]["kafka"]["topics"]["partitions"]
                .as_i64()
                .unwrap_or(1);
            (
                "broker/kafka/topics/partitions",
                Some(json!((now + random.random_range(-1..2)).clamp(1, 4))),
            )
        }
        17 => (
            "broker/kafka/topics/deletionPolicy",
            one_of(random, &["Retain", "Delete"]),
        ),
        18 => (
            "broker/kafka/topics/config",
            maybe(
                random,
                |random| json!({"retention.ms": random.random_range(1..9).to_string()}),
            ),
        ),
        19 => (
            "broker/kafka/topics/overrides/pin/partitions",
            maybe(random, |random| json!(random.random_range(1..4))),
        ),
        20 => (
            pick(random, &["image/digests/ingest", "image/digests/stream"]),
            maybe(random, |random| {
                json!(format!("sha256:{:064x}", random.random_range(0..9)))
            }),
        ),
        _ => {
            let (setting, value) = pod_setting(random);
            let sections = ["ingest", "archive", "batch", "emulator", "stream/sinks/0"];
            let section = pick(random, &sections);
            let pointer = format!("/{section}");
            let Some(found) = spec.pointer_mut(&pointer).filter(|found| found.is_object()) else {
                put(spec, &format!("ingest/{setting}"), value);
                return format!("ingest/{setting}");
            };
            put(found, setting, value);
            return format!("{section}/{setting}");
        }
    };
    put(spec, what, value);
    if !spec["archive"].is_object() {
        put(spec, "batch", None);
    }
    what.to_owned()
}

/// A setting of a component's pods.
fn pod_setting(random: &mut StdRng) -> (&'static str, Option<Value>) {
    let failed_node = json!({
        "key": "node.kubernetes.io/not-ready",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 5,
    });
    let spread = json!({
        "topologyKey": "rack",
        "maxSkew": 2,
        "whenUnsatisfiable": "DoNotSchedule",
    });
    let settings = [
        ("podLabels", json!({"team": "pins"})),
        ("podLabels", json!({"team": "data", "tier": "x"})),
        ("podAnnotations", json!({"example.com/note": "a"})),
        ("nodeSelector", json!({"disk": "fast"})),
        ("nodeSelector", json!({"disk": "slow", "rack": "1"})),
        ("tolerations", json!([{"key": "gpu", "operator": "Exists"}])),
        ("tolerations", json!([failed_node])),
        ("tolerations", json!([{"operator": "Exists"}])),
        ("topologySpread", json!([])),
        ("topologySpread", json!([spread])),
        ("serviceAccountName", json!("reader")),
    ];
    let (setting, value) = pick(random, &settings);
    (setting, maybe(random, |_| value))
}

/// A change that the schema or a validation rule rejects.
fn invalid(random: &mut StdRng, from: &Value) -> (String, Value) {
    let postgres = json!({"urlSecretRef": {"name": "warehouse", "key": "url"}});
    let sink = |name: &str| json!({"name": name, "postgres": postgres});
    let mut whole_archive = archive(random);
    whole_archive["prefix"] = json!("runs/x");
    let with_rotate = |rotate: Value| {
        let credentials = json!({"credentialsSecretRef": {"name": "s3"}});
        json!({"bucket": "raw", "s3": credentials, "rotate": rotate})
    };
    let cases = [
        ("ingest/replicas", json!(0)),
        ("ingest/replicas", json!(101)),
        ("ingest/replicas", json!("two")),
        ("ingest/maxRecordBytes", json!(1)),
        (
            "ingest/resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}),
        ),
        ("ingest/resources", json!({"requests": {"memory": "-1"}})),
        ("deadLetters/mode", json!("Drop")),
        ("broker/kafka/bootstrapServers", json!("nonsense")),
        ("broker/kafka/bootstrapServers", Value::Null),
        ("broker/kafka/topics/partitions", json!(0)),
        ("broker/kafka/topics/replicationFactor", json!(0)),
        (
            "broker/kafka/topics/config",
            json!({"cleanup.policy": "compact"}),
        ),
        (
            "broker/kafka/topics/config",
            json!({"message.timestamp.type": "CreateTime"}),
        ),
        ("broker/kafka/topics/deletionPolicy", json!("Sometimes")),
        (
            "broker/kafka/topics/overrides/geo/name",
            json!("another.topic"),
        ),
        ("stream/sinks", json!([])),
        ("stream/sinks", json!([sink("archive")])),
        ("stream/sinks", json!([sink("live"), sink("live")])),
        ("stream/sinks", json!([sink("Live")])),
        ("stream/sinks", json!([{"name": "live"}])),
        ("archive", whole_archive),
        (
            "archive",
            json!({"bucket": "A", "s3": {"credentialsSecretRef": {"name": "s3"}}}),
        ),
        ("archive", json!({"bucket": "raw"})),
        ("archive", with_rotate(json!({"interval": "5 minutes"}))),
        ("archive", with_rotate(json!({"bytes": 1}))),
        ("image/tag", json!("!")),
        ("image/pullPolicy", json!("Sometimes")),
        ("emulator/recordsPerSecond", json!(0)),
    ];
    let mut spec = from.clone();
    if random.random_bool(0.1) {
        // Batch runs need an archive.
        put(&mut spec, "batch", Some(batch(random)));
        put(&mut spec, "archive", None);
        return ("batch without archive".to_owned(), spec);
    }
    if from["archive"].is_object() && random.random_bool(0.15) {
        let (field, value) = pick(
            random,
            &[
                ("bucket", "other"),
                ("prefix", "other"),
                ("compression", "Zstd"),
            ],
        );
        spec["archive"][field] = json!(value);
        return (format!("archive/{field} is immutable"), spec);
    }
    if from["batch"].is_object() && random.random_bool(0.15) {
        spec["batch"]["sinks"][0]["cassandra"]["keyspace"] = json!("another");
        return (
            "batch/sinks/0/cassandra/keyspace is immutable".to_owned(),
            spec,
        );
    }
    let (path, value) = pick(random, &cases);
    put(&mut spec, path, Some(value.clone()));
    (format!("{path}={value}"), spec)
}

fn stream(random: &mut StdRng) -> Value {
    let sinks = names(random, &["live", "log", "a", "b-2", "copy"]);
    let sinks = sinks.as_array().into_iter().flatten().map(|sink| {
        let mut sink = sink.clone();
        // Determined by the name, because it is immutable.
        let mode = if sink["name"] == "log" {
            json!("Append")
        } else {
            json!("Upsert")
        };
        let key = pick(random, &["url", "other"]);
        let url = json!({"name": "warehouse", "key": key});
        sink["postgres"] = json!({"urlSecretRef": url, "writeMode": mode});
        for (field, value) in [
            ("startFrom", one_of(random, &["earliest", "latest"])),
            (
                "replicas",
                maybe(random, |random| json!(random.random_range(1..4))),
            ),
            ("resources", resources(random)),
            (
                "postgres/schema",
                one_of(random, &["public", "live", "_x1"]),
            ),
        ] {
            put(&mut sink, field, value);
        }
        sink
    });
    json!({"sinks": sinks.collect::<Vec<_>>()})
}

fn archive(random: &mut StdRng) -> Value {
    let mut archive = json!({"bucket": "raw", "s3": {"credentialsSecretRef": {"name": "s3"}}});
    for (field, value) in [
        ("rotate", maybe(random, rotate)),
        (
            "s3/endpoint",
            // Immutable, apart from a slash at its end.
            Some(json!(pick(
                random,
                &["http://s3.example:9000", "http://s3.example:9000/"],
            ))),
        ),
        ("s3/region", one_of(random, &["us-east-1", "eu-west-1"])),
        ("resources", resources(random)),
    ] {
        put(&mut archive, field, value);
    }
    archive
}

fn rotate(random: &mut StdRng) -> Value {
    let mut rotate = json!({});
    for (field, value) in [
        (
            "bytes",
            maybe(random, |random| json!(random.random_range(1024..999_999))),
        ),
        (
            "records",
            maybe(random, |random| json!(random.random_range(1..9999))),
        ),
        ("interval", one_of(random, &["90s", "5m", "1h30m", "24h"])),
    ] {
        put(&mut rotate, field, value);
    }
    rotate
}

fn batch(random: &mut StdRng) -> Value {
    let sinks = names(random, &["serving", "second"]);
    let sinks: Vec<_> = sinks
        .as_array()
        .into_iter()
        .flatten()
        .map(|sink| {
            let mut sink = sink.clone();
            let points = pick(random, &[&["a:9042"][..], &["a:9042", "b.example:9042"]]);
            sink["cassandra"] = json!({"contactPoints": points});
            for (field, value) in [
                // Determined by the name, because it is immutable.
                (
                    "cassandra/keyspace",
                    (sink["name"] == "second").then(|| json!("pins")),
                ),
                (
                    "cassandra/replicationFactor",
                    maybe(random, |random| json!(random.random_range(1..4))),
                ),
                (
                    "cassandra/credentialsSecretRef",
                    maybe(random, |_| json!({"name": "cassandra"})),
                ),
            ] {
                put(&mut sink, field, value);
            }
            sink
        })
        .collect();
    let schedule = pick(random, &["0 10 * * *", "@daily", "*/5 1-3 * JAN MON"]);
    let mut batch = json!({"schedule": schedule, "sinks": sinks});
    for (field, value) in [
        (
            "timeZone",
            one_of(random, &["UTC", "Etc/UTC", "Europe/London"]),
        ),
        (
            "scratchSize",
            one_of(random, &["1Gi", "1024Mi", "0.5Gi", "1073741824"]),
        ),
        ("resources", resources(random)),
        (
            "quality/maxRejectedRatio",
            maybe(random, |random| {
                json!(f64::from(random.random_range(0..5)) / 4.0)
            }),
        ),
        (
            "quality/maxRepairedRatio",
            maybe(random, |_| json!({"age": 0.5, "country": 1})),
        ),
    ] {
        put(&mut batch, field, value);
    }
    batch
}

fn emulator(random: &mut StdRng) -> Value {
    let mut emulator = json!({});
    for (field, value) in [
        (
            "recordsPerSecond",
            maybe(random, |random| json!(random.random_range(1..500))),
        ),
        (
            "seed",
            maybe(random, |random| json!(random.random_range(0..9))),
        ),
        ("resources", resources(random)),
    ] {
        put(&mut emulator, field, value);
    }
    emulator
}

fn resources(random: &mut StdRng) -> Option<Value> {
    let all = [
        json!({}),
        json!({"requests": {"cpu": "0.5"}}),
        json!({"requests": {"cpu": ".25", "memory": "1024Mi"}, "limits": {"memory": "1Gi"}}),
        json!({"limits": {"cpu": 2, "memory": "1e9"}}),
        json!({
            "requests": {"cpu": "100m", "memory": "1G"},
            "limits": {"cpu": "1.0", "memory": "1073741824"},
        }),
        json!({"requests": {}, "limits": {"memory": "1048576Ki"}}),
    ];
    maybe(random, |random| pick(random, &all))
}

/// Some of the names, each at most once, in random order.
fn names(random: &mut StdRng, of: &[&str]) -> Value {
    let count = random.random_range(1..=of.len());
    let chosen: Vec<_> = of
        .choose_multiple(random, count)
        .map(|name| json!({"name": name}))
        .collect();
    json!(chosen)
}

fn pick<T: Clone>(random: &mut StdRng, of: &[T]) -> T {
    of[random.random_range(0..of.len())].clone()
}

fn one_of(random: &mut StdRng, of: &[&str]) -> Option<Value> {
    maybe(random, |random| json!(pick(random, of)))
}

/// A value with a probability of 70%.
fn maybe(random: &mut StdRng, value: impl FnOnce(&mut StdRng) -> Value) -> Option<Value> {
    random.random_bool(0.7).then(|| value(random))
}

/// Sets a field, creating its parents, or removes it.
fn put(of: &mut Value, path: &str, value: Option<Value>) {
    let (mut at, mut path) = (of, path);
    while let Some((first, rest)) = path.split_once('/') {
        if value.is_none() && at[first].is_null() {
            return;
        }
        if at[first].is_null() {
            at[first] = Value::Object(Map::new());
        }
        (at, path) = (&mut at[first], rest);
    }
    match value {
        Some(value) => at[path] = value,
        None => {
            if let Some(fields) = at.as_object_mut() {
                fields.remove(path);
            }
        }
    }
}
