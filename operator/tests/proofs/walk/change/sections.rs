//! Random sections of a spec, all of them valid.

use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::random::{maybe, names, one_of, pick, put};

pub fn stream(random: &mut StdRng) -> Value {
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
            ("startFrom", one_of(random, &["Earliest", "Latest"])),
            sink_scaling(random),
            ("template/resources", resources(random)),
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

/// The number of a sink's pods, or what scales it: at most 3 pods. The topics together have at
/// least as many partitions, and a larger limit would depend on the partitions of earlier states,
/// which topics keep.
fn sink_scaling(random: &mut StdRng) -> (&'static str, Option<Value>) {
    if random.random_bool(0.5) {
        let replicas = maybe(random, |random| json!(random.random_range(1..4)));
        return ("replicas", replicas);
    }
    let least = random.random_range(1..3);
    let all = [
        json!({}),
        json!({"targetLag": random.random_range(1..9999), "maxReplicas": 3}),
        json!({"targetLag": 500, "maxReplicas": least + random.random_range(0..2)}),
        json!({"targetLag": 500, "minReplicas": least, "maxReplicas": least + 1}),
    ];
    ("autoscaling", maybe(random, |random| pick(random, &all)))
}

pub fn ingest_scaling(random: &mut StdRng) -> Value {
    let mut scaling = json!({"maxReplicas": random.random_range(2..6)});
    for (field, value) in [
        (
            "minReplicas",
            maybe(random, |random| json!(random.random_range(1..3))),
        ),
        (
            "targetCPUUtilizationPercentage",
            maybe(random, |random| json!(random.random_range(1..200))),
        ),
    ] {
        put(&mut scaling, field, value);
    }
    scaling
}

pub fn archive(random: &mut StdRng) -> Value {
    let mut archive = json!({"bucket": "raw", "s3": {"credentialsSecretRef": {"name": "s3"}}});
    for (field, value) in [
        ("rotate", maybe(random, rotate)),
        (
            "s3/endpoint",
            // The host is immutable, and the record keeps what was written first.
            Some(json!(pick(
                random,
                &["http://s3.example:9000", "http://s3.example:9000/"],
            ))),
        ),
        ("s3/region", one_of(random, &["us-east-1", "eu-west-1"])),
        (
            "s3/serverSideEncryption/kmsKeyId",
            one_of(random, &["alias/pinterest"]),
        ),
        ("template/resources", resources(random)),
    ] {
        put(&mut archive, field, value);
    }
    archive
}

pub fn rotate(random: &mut StdRng) -> Value {
    let mut rotate = json!({});
    for (field, value) in [
        ("size", one_of(random, &["1024", "65536", "64Ki", "128Mi"])),
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

pub fn batch(random: &mut StdRng) -> Value {
    let schedule = pick(random, &["0 10 * * *", "@daily", "*/5 1-3 * JAN MON"]);
    let mut batch = json!({"schedule": schedule});
    for (field, value) in [
        ("sinks", batch_sinks(random)),
        (
            "timeZone",
            one_of(random, &["UTC", "Etc/UTC", "Europe/London"]),
        ),
        (
            "scratchSize",
            one_of(random, &["1Gi", "1024Mi", "0.5Gi", "1073741824"]),
        ),
        ("template/resources", resources(random)),
        ("deadline", one_of(random, &["1m", "90m", "6h", "720h"])),
        (
            "quality/maxRejected",
            one_of(random, &["0%", "0.5%", "12.5%", "100%"]),
        ),
        (
            "quality/maxRepaired",
            maybe(
                random,
                |_| json!([{"field": "age", "limit": "50%"}, {"field": "country", "limit": "1%"}]),
            ),
        ),
    ] {
        put(&mut batch, field, value);
    }
    batch
}

/// Sinks of batch runs: absent, none, or some of three whose kind and keyspace, which is immutable,
/// are determined by their names.
fn batch_sinks(random: &mut StdRng) -> Option<Value> {
    if random.random_bool(0.2) {
        return maybe(random, |_| json!([]));
    }
    let sinks = names(random, &["serving", "second", "warehouse"]);
    let sinks = sinks.as_array().into_iter().flatten().map(|sink| {
        let mut sink = sink.clone();
        if sink["name"] == "warehouse" {
            let key = pick(random, &["url", "other"]);
            sink["postgres"] = json!({"urlSecretRef": {"name": "warehouse", "key": key}});
            put(
                &mut sink,
                "postgres/schema",
                one_of(random, &["batch", "answers"]),
            );
            return sink;
        }
        let points = pick(random, &[&["a:9042"][..], &["a:9042", "b.example:9042"]]);
        sink["cassandra"] = json!({"contactPoints": points});
        for (field, value) in [
            (
                "cassandra/keyspace",
                (sink["name"] == "second").then(|| json!("pins")),
            ),
            (
                "cassandra/replication",
                maybe(random, |random| json!({"dc1": random.random_range(1..4)})),
            ),
            (
                "cassandra/credentialsSecretRef",
                maybe(random, |_| json!({"name": "cassandra"})),
            ),
        ] {
            put(&mut sink, field, value);
        }
        sink
    });
    Some(json!(sinks.collect::<Vec<_>>()))
}

pub fn emulator(random: &mut StdRng) -> Value {
    let mut emulator = json!({});
    for (field, value) in [
        (
            "recordsPerSecond",
            maybe(random, |random| json!(random.random_range(1..500))),
        ),
        (
            "source/synthetic/seed",
            maybe(random, |random| json!(random.random_range(0..9))),
        ),
        ("template/resources", resources(random)),
    ] {
        put(&mut emulator, field, value);
    }
    emulator
}

pub fn resources(random: &mut StdRng) -> Option<Value> {
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
