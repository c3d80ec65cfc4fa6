//! Random changes that the API server rejects.

use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    random::{pick, put},
    sections::{archive, batch},
};

/// A change that the schema or a validation rule rejects.
pub fn invalid(random: &mut StdRng, from: &Value) -> (String, Value) {
    let postgres = json!({"urlSecretRef": {"name": "warehouse", "key": "url"}});
    let sink = |name: &str| json!({"name": name, "postgres": postgres});
    let scaled =
        |scaling: Value| json!({"name": "live", "postgres": postgres, "autoscaling": scaling});
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
        ("ingest/aliases", json!([{"name": "a/b", "kind": "Pin"}])),
        (
            "ingest/template/resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}),
        ),
        ("template/resources", json!({"requests": {"memory": "-1"}})),
        (
            "template/env",
            json!([{"name": "PINPIPE_RUN", "value": "x"}]),
        ),
        ("ingest/template/logLevel", json!("debug")),
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
        ("archive", with_rotate(json!({"size": "1"}))),
        ("image/tag", json!("!")),
        ("image/pullPolicy", json!("Sometimes")),
        ("emulator/recordsPerSecond", json!(0)),
        ("ingest/autoscaling", json!({"minReplicas": 1})),
        (
            "ingest/autoscaling",
            json!({"minReplicas": 3, "maxReplicas": 2}),
        ),
        ("stream/sinks", json!([scaled(json!({"maxReplicas": 2}))])),
        ("stream/sinks", json!([scaled(json!({"targetLag": 0}))])),
    ];
    let mut spec = from.clone();
    if random.random_bool(0.1) {
        // Batch runs need an archive.
        put(&mut spec, "batch", Some(batch(random)));
        put(&mut spec, "archive", None);
        return ("batch without archive".to_owned(), spec);
    }
    if random.random_bool(0.05) {
        // The emulator needs ingest.
        put(&mut spec, "emulator", Some(json!({})));
        put(&mut spec, "ingest", None);
        return ("emulator without ingest".to_owned(), spec);
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
    let sinks = spec.pointer_mut("/batch/sinks");
    let mut sinks = sinks.and_then(Value::as_array_mut).into_iter().flatten();
    if let Some(sink) = sinks.find(|sink| sink["cassandra"].is_object())
        && random.random_bool(0.15)
    {
        sink["cassandra"]["keyspace"] = json!("another");
        let what = format!("keyspace of {} is immutable", sink["name"]);
        return (what, spec);
    }
    if from["batch"].is_object() && random.random_bool(0.1) {
        let (field, value) = pick(
            random,
            &[("deadline", json!("59s")), ("deadline", json!("6 hours"))],
        );
        spec["batch"][field] = value;
        return (format!("batch/{field}"), spec);
    }
    let (path, value) = pick(random, &cases);
    put(&mut spec, path, Some(value.clone()));
    (format!("{path}={value}"), spec)
}
