//! The children that a pipeline requires, computed from the resource as its user wrote it.
//!
//! This is an oracle for the operator's validate and build phases. It therefore uses none of their
//! code: it works on JSON, and its rules and defaults are those of the reference documentation,
//! written down a second time. All Secrets are expected to exist, and no sink to be reset.

mod children;
mod compare;
mod config;
mod pods;

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use compare::compare;

/// The kinds of record.
const KINDS: [&str; 3] = ["pin", "geo", "user"];
/// The key of a worker's configuration in its `ConfigMap`.
const CONFIG: &str = "config.yaml";

/// The images that an operator uses unless a pipeline chooses others.
pub struct Images<'a> {
    pub registry: &'a str,
    pub tag: &'a str,
    /// Digests by worker.
    pub digests: &'a [(&'a str, &'a str)],
}

/// How the children of a pipeline differ from those that its resource requires, one line for each
/// difference. `cron_job_refused`: the API server refuses the required `CronJob`, so that there is
/// none, or an older one with the `ConfigMap` that it uses.
pub fn differences(
    pipeline: &Value,
    images: &Images<'_>,
    children: &[Value],
    cron_job_refused: bool,
) -> Vec<String> {
    let metadata = &pipeline["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let mut oracle = Oracle {
        pipeline,
        spec: &pipeline["spec"],
        namespace: text("namespace"),
        name: text("name"),
        uid: text("uid"),
        images,
        found: BTreeMap::new(),
        hashes: BTreeMap::new(),
        required: BTreeMap::new(),
    };
    for child in children {
        oracle.find(child);
    }
    oracle.require();
    let mut lines = Vec::new();
    if cron_job_refused {
        oracle.leave_cron_job();
    }
    for (key, required) in &oracle.required {
        match oracle.found.get(key) {
            Some(found) => compare(key, required, found, &mut lines),
            None => lines.push(format!("{key}: missing")),
        }
    }
    let mut unexpected = oracle.found.keys();
    while let Some(key) = unexpected.find(|key| !oracle.required.contains_key(*key)) {
        lines.push(format!("{key}: unexpected"));
    }
    lines
}

struct Oracle<'a> {
    pipeline: &'a Value,
    spec: &'a Value,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    images: &'a Images<'a>,
    /// The existing children by kind and name. A configuration is parsed.
    found: BTreeMap<String, Value>,
    /// The hash of the configuration in each `ConfigMap`, by its key in `found`.
    hashes: BTreeMap<String, String>,
    /// The required children by kind and name.
    required: BTreeMap<String, Value>,
}

/// The name and hash that a configuration has in its pods.
pub struct Config {
    name: String,
    hash: String,
}

impl<'a> Oracle<'a> {
    fn find(&mut self, child: &Value) {
        let kind = child["kind"].as_str().unwrap_or_default();
        if kind == "PinterestPipeline" {
            return;
        }
        let key = key(kind, child["metadata"]["name"].as_str().unwrap_or_default());
        let mut child = child.clone();
        if let Some(text) = child["data"][CONFIG].as_str().map(ToOwned::to_owned) {
            self.hashes.insert(key.clone(), hash(&text));
            child["data"][CONFIG] = config::from_yaml(&text);
        }
        self.found.insert(key, child);
    }

    /// Expects the existing `CronJob` and its `ConfigMap` as they are.
    fn leave_cron_job(&mut self) {
        let key = key("CronJob", &self.child("batch"));
        self.required.remove(&key);
        let Some(cron_job) = self.found.remove(&key) else {
            return;
        };
        let text = cron_job["spec"].to_string();
        let required = &self.required;
        self.found.retain(|key, _| {
            let name = key.strip_prefix("ConfigMap ");
            let is_used = name.is_some_and(|name| text.contains(name));
            required.contains_key(key) || !is_used
        });
    }

    fn require(&mut self) {
        self.require_record();
        self.require_ingest();
        for sink in self.sinks() {
            self.require_stream(sink);
        }
        if self.spec["archive"].is_object() {
            self.require_archive();
        }
        if self.spec["batch"].is_object() {
            self.require_batch();
        }
        if self.spec["emulator"].is_object() {
            self.require_emulator();
        }
    }

    /// Requires a `ConfigMap` with this configuration, named by its hash. YAML has many spellings,
    /// so the hash is that of an existing `ConfigMap`, of the right content if there is one.
    fn require_config(&mut self, component: &str, config: &Value) -> Config {
        let data = json!({CONFIG: config});
        let prefix = format!("{}-", key("ConfigMap", &self.child(component)));
        let candidates = self.found.iter().filter(|(key, found)| {
            let label = &found["metadata"]["labels"]["app.kubernetes.io/component"];
            key.starts_with(&prefix) && label == component
        });
        let is_right = |found: &Value| {
            let mut lines = Vec::new();
            compare("data", &data, &found["data"], &mut lines);
            lines.is_empty()
        };
        let chosen = candidates.max_by_key(|(_, found)| is_right(found));
        let hash = chosen.and_then(|(key, _)| self.hashes.get(key).cloned());
        let hash = hash.unwrap_or_else(|| "?".repeat(32));
        let suffix = format!("{component}-{}", &hash[..10]);
        let name = self.child(&suffix);
        let body = json!({"immutable": true, "data": data});
        self.add_named("ConfigMap", component, &name, body);
        Config { name, hash }
    }

    /// Requires an object with a component's name.
    fn add(&mut self, kind: &str, component: &str, body: Value) {
        let name = self.child(component);
        self.add_named(kind, component, &name, body);
    }

    fn add_named(&mut self, kind: &str, component: &str, name: &str, body: Value) {
        let labels = self.labels(component);
        self.add_labelled(kind, name, &labels, body);
    }

    fn add_labelled(&mut self, kind: &str, name: &str, labels: &Value, mut body: Value) {
        let owner = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "name": self.name,
            "uid": self.uid,
            "controller": true,
        });
        let metadata = json!({
            "name": name,
            "namespace": self.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        });
        set(&mut body, "metadata", metadata);
        self.required.insert(key(kind, name), body);
    }

    fn sinks(&self) -> &'a [Value] {
        let sinks = self.spec["stream"]["sinks"].as_array();
        sinks.map_or(&[], Vec::as_slice)
    }

    fn child(&self, component: &str) -> String {
        format!("{}-{component}", self.name)
    }

    fn selector(&self, component: &str) -> Value {
        json!({
            "app.kubernetes.io/name": "pinpipe",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": component,
        })
    }

    fn labels(&self, component: &str) -> Value {
        json!({
            "app.kubernetes.io/name": "pinpipe",
            "app.kubernetes.io/managed-by": "pinpipe-operator",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": component,
        })
    }

    fn is_suspended(&self) -> bool {
        self.spec["suspend"] == true
    }

    fn topic(&self, kind: &str) -> String {
        let set = &self.spec["broker"]["kafka"]["topics"]["overrides"][kind]["name"];
        set.as_str().map_or_else(
            || format!("{}.{}.{kind}", self.namespace, self.name),
            ToOwned::to_owned,
        )
    }

    /// The partitions of the three topics together: as observed, or else as required.
    fn partitions(&self) -> i64 {
        let topics = &self.spec["broker"]["kafka"]["topics"];
        let required = |kind: &str| {
            let own = topics["overrides"][kind]["partitions"].as_i64();
            own.or(topics["partitions"].as_i64()).unwrap_or(3)
        };
        let observed = |name: &str| {
            let topics = self.pipeline["status"]["topics"].as_array();
            let mut topics = topics.into_iter().flatten();
            topics
                .find(|topic| topic["name"] == name && !topic["id"].is_null())
                .and_then(|topic| topic["partitions"].as_i64())
        };
        KINDS
            .iter()
            .map(|kind| observed(&self.topic(kind)).unwrap_or(required(kind)))
            .sum()
    }
}

fn key(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

/// Sets a field of an object.
/// The first 32 hex digits of a text's SHA-256.
fn hash(text: &str) -> String {
    let mut hash = String::new();
    for byte in &Sha256::digest(text)[..16] {
        // Writing to a String can't fail.
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

fn set(of: &mut Value, field: &str, value: Value) {
    of[field] = value;
}
