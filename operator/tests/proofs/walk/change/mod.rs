//! Random changes of a pipeline over all optional fields, valid and invalid, with the expected
//! outcome.

mod invalid;
mod random;
mod sections;

use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};

use invalid::invalid;
use random::{maybe, names, one_of, pick, put};
use sections::{archive, batch, emulator, ingest_scaling, resources, rotate, stream};

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
                    ("reset-sink", "live=earliest", "AnnotationRemoved"),
                    ("forget-topic", "none@x", "AnnotationRemoved"),
                    ("run-batch", "full", "AnnotationRemoved"),
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
    let (what, value) = match random.random_range(0..28) {
        0 => (
            "suspend",
            maybe(random, |random| json!(random.random_bool(0.5))),
        ),
        1 => ("drainDeadline", one_of(random, &["90s", "5m", "1h30m"])),
        2 => (
            "ingest/replicas",
            maybe(random, |random| json!(random.random_range(1..6))),
        ),
        3 => (
            "ingest/maxRecordBytes",
            maybe(random, |random| json!(random.random_range(256..9999))),
        ),
        4 => ("ingest/template/resources", resources(random)),
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
            "template/imagePullSecrets",
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
        27 => (
            "broker/kafka/settings",
            maybe(
                random,
                |random| json!({"linger.ms": random.random_range(0..99).to_string()}),
            ),
        ),
        19 => (
            "broker/kafka/topics/overrides/pin/partitions",
            maybe(random, |random| json!(random.random_range(1..4))),
        ),
        20 => ("template/resources", resources(random)),
        21 | 22 => ("ingest/autoscaling", maybe(random, ingest_scaling)),
        23 => (
            "archive/rotate",
            maybe(random, rotate).filter(|_| spec["archive"].is_object()),
        ),
        _ => {
            let (setting, value) = pod_setting(random);
            let path = format!("template/{setting}");
            let sections = ["ingest", "archive", "batch", "emulator", "stream/sinks/0"];
            let section = pick(random, &sections);
            let pointer = format!("/{section}");
            let Some(found) = spec.pointer_mut(&pointer).filter(|found| found.is_object()) else {
                put(spec, &path, value);
                return path;
            };
            put(found, &path, value);
            return format!("{section}/{path}");
        }
    };
    put(spec, what, value);
    keep_scalable(spec, what);
    if !spec["archive"].is_object() {
        put(spec, "batch", None);
    }
    if !spec["ingest"].is_object() {
        put(spec, "emulator", None);
    }
    what.to_owned()
}

/// Removes what an autoscaler of ingest can't be combined with, or the autoscaler, so that the last
/// change stays.
fn keep_scalable(spec: &mut Value, changed: &str) {
    let ingest = &spec["ingest"];
    if ingest["autoscaling"].is_null() {
        return;
    }
    let lacks_cpu = |resources: &Value| {
        let amounts = ["requests", "limits"].map(|amounts| &resources[amounts]["cpu"]);
        resources.is_object() && amounts.iter().all(|cpu| cpu.is_null())
    };
    let own = &ingest["template"]["resources"];
    let obstacles = [
        ("ingest/replicas", !ingest["replicas"].is_null()),
        ("ingest/template/resources", lacks_cpu(own)),
        (
            "template/resources",
            (!own.is_object() || lacks_cpu(own)) && lacks_cpu(&spec["template"]["resources"]),
        ),
    ];
    for (obstacle, _) in obstacles.into_iter().filter(|(_, is_there)| *is_there) {
        let removed = if changed == obstacle {
            "ingest/autoscaling"
        } else {
            obstacle
        };
        put(spec, removed, None);
    }
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
    let terms = json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let affinity = json!({"nodeAffinity": {required: {"nodeSelectorTerms": terms}}});
    let settings = [
        ("labels", json!({"team": "pins"})),
        ("labels", json!({"team": "data", "tier": "x"})),
        ("annotations", json!({"example.com/note": "a"})),
        ("nodeSelector", json!({"disk": "fast"})),
        ("nodeSelector", json!({"disk": "slow", "rack": "1"})),
        ("tolerations", json!([{"key": "gpu", "operator": "Exists"}])),
        ("tolerations", json!([failed_node])),
        ("tolerations", json!([{"operator": "Exists"}])),
        ("topologySpreadConstraints", json!([])),
        ("topologySpreadConstraints", json!([spread])),
        ("serviceAccountName", json!("reader")),
        (
            "env",
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": ""}]),
        ),
        ("logLevel", json!("Debug")),
        ("priorityClassName", json!("high")),
        ("affinity", affinity),
        ("podSecurity", json!("FromPlatform")),
        ("podSecurity", json!("Fixed")),
    ];
    let (setting, value) = pick(random, &settings);
    (setting, maybe(random, |_| value))
}
