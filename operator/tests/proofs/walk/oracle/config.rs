//! The workers' configuration documents.

use serde_json::{Value, json};

use super::{Oracle, set};

impl Oracle<'_> {
    pub fn ingest_config(&self) -> Value {
        let record = self.max_record_bytes();
        let mut config = self.common_config();
        set(&mut config, "maxRecordBytes", json!(record));
        let request = (record * 64).clamp(1 << 20, 16 << 20);
        set(&mut config, "maxRequestBytes", json!(request));
        let limits = &self.spec["ingest"]["limits"];
        for field in ["requestsPerSecondPerClient", "maxConnections"] {
            if limits[field].is_number() {
                set(&mut config, field, limits[field].clone());
            }
        }
        if let Some(aliases) = self.spec["ingest"]["aliases"].as_array() {
            let of = |alias: &Value| {
                let kind = alias["kind"].as_str().unwrap_or_default().to_lowercase();
                json!({"name": alias["name"], "kind": kind})
            };
            set(&mut config, "aliases", aliases.iter().map(of).collect());
        }
        config
    }

    pub fn stream_config(&self, sink: &Value) -> Value {
        let (name, postgres) = (&sink["name"], &sink["postgres"]);
        let mut document = json!({
            "name": name,
            "urlFile": "/etc/pinpipe/secrets/postgres/url",
            "secret": secret_and_key(&postgres["urlSecretRef"]),
            "schema": or(&postgres["schema"], json!("public")),
            "startFrom": match sink["startFrom"].as_str() {
                Some("Latest") => "latest",
                _ => "earliest",
            },
        });
        if postgres["writeMode"] == "Append" {
            set(&mut document, "writeMode", json!("append"));
        }
        self.consumer_config(
            name.as_str().unwrap_or_default(),
            json!({"postgres": document}),
        )
    }

    pub fn archive_config(&self) -> Value {
        let archive = &self.spec["archive"];
        let rotate = &archive["rotate"];
        let interval = rotate["interval"].as_str().unwrap_or("5m");
        let mut document = json!({
            "zone": self.zone(),
            "rotate": {
                "bytes": rotate["size"].as_str().map_or(134_217_728, bytes),
                "records": or(&rotate["records"], json!(100_000)),
                "intervalSeconds": seconds(interval),
            },
        });
        match archive["compression"].as_str() {
            Some("Gzip") => set(&mut document, "compression", json!("gzip")),
            Some("Zstd") => set(&mut document, "compression", json!("zstd")),
            _ => {}
        }
        self.consumer_config("archive", json!({"archive": document}))
    }

    pub fn batch_config(&self) -> Value {
        let batch = &self.spec["batch"];
        let mut config = self.common_config();
        let sinks = batch["sinks"].as_array().into_iter().flatten();
        let sinks: Vec<_> = sinks.map(batch_sink).collect();
        let own = self.child("batch");
        let control = format!("{}.{}.svc:9091", self.child("archive"), self.namespace);
        for (field, value) in [
            ("maxRecordBytes", json!(self.max_record_bytes())),
            ("zone", self.zone()),
            ("archiveGroup", json!(self.group("archive"))),
            ("archiveControl", json!(control)),
            ("barrierTimeoutSeconds", json!(600)),
            ("lease", json!(own)),
            ("quality", quality(&batch["quality"])),
        ] {
            set(&mut config, field, value);
        }
        if !sinks.is_empty() {
            set(&mut config, "sinks", json!(sinks));
        }
        config
    }

    pub fn emulator_config(&self) -> Value {
        let emulator = &self.spec["emulator"];
        let target = format!(
            "http://{}.{}.svc:8080",
            self.child("ingest"),
            self.namespace
        );
        json!({
            "configVersion": 1,
            "pipeline": self.identity(),
            "target": target,
            "recordsPerSecond": or(&emulator["recordsPerSecond"], json!(100)),
            "seed": or(&emulator["source"]["synthetic"]["seed"], json!(1)),
        })
    }

    /// The configuration of a worker that consumes the topics.
    fn consumer_config(&self, sink: &str, document: Value) -> Value {
        let mut config = self.common_config();
        // One sink writes the dead letters: the archive, or else the first by name.
        let names = self.sinks().iter().filter_map(|sink| sink["name"].as_str());
        let writer = if self.spec["archive"].is_object() {
            Some("archive")
        } else {
            names.min()
        };
        for (field, value) in [
            ("group", json!(self.group(sink))),
            ("maxRecordBytes", json!(self.max_record_bytes())),
            ("writesDeadLetters", json!(writer == Some(sink))),
            ("sink", document),
        ] {
            set(&mut config, field, value);
        }
        config
    }

    /// What the configurations of all workers that connect to the broker share.
    fn common_config(&self) -> Value {
        let mut topics = json!({});
        for kind in super::KINDS {
            let name = self.topic(kind);
            let dead_letter = format!("{name}.dlq");
            set(
                &mut topics,
                kind,
                json!({"name": name, "deadLetter": dead_letter}),
            );
        }
        json!({
            "configVersion": 1,
            "pipeline": self.identity(),
            "kafka": self.kafka(),
            "topics": topics,
        })
    }

    /// How workers reach the broker.
    pub fn kafka(&self) -> Value {
        let kafka = &self.spec["broker"]["kafka"];
        let mut fields = json!({"bootstrapServers": kafka["bootstrapServers"]});
        if kafka["settings"].is_object() {
            set(&mut fields, "settings", kafka["settings"].clone());
        }
        fields
    }

    fn identity(&self) -> Value {
        json!({"namespace": self.namespace, "name": self.name, "uid": self.uid})
    }

    fn group(&self, sink: &str) -> String {
        format!("{}.{}.{sink}", self.namespace, self.name)
    }

    fn max_record_bytes(&self) -> i64 {
        let set = self.spec["ingest"]["maxRecordBytes"].as_i64();
        set.unwrap_or(65_536)
    }

    fn zone(&self) -> Value {
        let archive = &self.spec["archive"];
        let s3 = &archive["s3"];
        let endpoint = s3["endpoint"].as_str();
        json!({
            "bucket": archive["bucket"],
            "prefix": or(&archive["prefix"], json!("topics")),
            "s3": {
                "endpoint": endpoint.map(|url| url.strip_suffix('/').unwrap_or(url)),
                "region": or(&s3["region"], json!("us-east-1")),
                "credentialsDir": "/etc/pinpipe/secrets/s3",
                "kmsKeyId": s3["serverSideEncryption"]["kmsKeyId"],
            },
        })
    }
}

fn batch_sink(sink: &Value) -> Value {
    let (name, postgres) = (sink["name"].as_str().unwrap_or_default(), &sink["postgres"]);
    if postgres.is_object() {
        let secret = &postgres["urlSecretRef"];
        return json!({"name": name, "postgres": {
            "urlFile": format!("/etc/pinpipe/secrets/postgres-{name}/url"),
            "secret": secret_and_key(secret),
            "schema": or(&postgres["schema"], json!("batch")),
        }});
    }
    let cassandra = &sink["cassandra"];
    let credentials = cassandra["credentialsSecretRef"].is_object();
    let credentials = credentials.then(|| format!("/etc/pinpipe/secrets/cassandra-{name}"));
    json!({"name": name, "cassandra": {
        "contactPoints": cassandra["contactPoints"],
        "keyspace": or(&cassandra["keyspace"], json!("pinterest_data")),
        "replication": cassandra["replication"],
        "credentialsDir": credentials,
    }})
}

/// A Secret and its key as the workers' messages name them.
fn secret_and_key(reference: &Value) -> String {
    let [name, key] = ["name", "key"].map(|field| reference[field].as_str().unwrap_or_default());
    format!("Secret {name}, key {key}")
}

/// Quality limits, of which those by field are a map.
fn quality(quality: &Value) -> Value {
    let mut document = json!({});
    if !quality["maxRejected"].is_null() {
        set(&mut document, "maxRejected", quality["maxRejected"].clone());
    }
    let mut repaired = json!({});
    for limit in quality["maxRepaired"].as_array().into_iter().flatten() {
        let field = limit["field"].as_str().unwrap_or_default();
        set(&mut repaired, field, limit["limit"].clone());
    }
    if repaired != json!({}) {
        set(&mut document, "maxRepaired", repaired);
    }
    if document == json!({}) {
        Value::Null
    } else {
        document
    }
}

fn or(value: &Value, default: Value) -> Value {
    if value.is_null() {
        default
    } else {
        value.clone()
    }
}

/// The bytes of one of the quantities that are drawn: a number, or one of `Ki` or `Mi`.
fn bytes(quantity: &str) -> i64 {
    let digits = quantity.trim_end_matches(char::is_alphabetic);
    let unit = match &quantity[digits.len()..] {
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        _ => 1,
    };
    digits.parse::<i64>().unwrap_or_default() * unit
}

/// The seconds of a duration such as `1h30m`.
pub fn seconds(duration: &str) -> i64 {
    let (mut total, mut number) = (0, 0);
    for c in duration.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = number * 10 + i64::from(digit);
            continue;
        }
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            _ => 1,
        };
        total += number * unit;
        number = 0;
    }
    total
}

/// A YAML document as JSON, in which an enum variant with a value, `!variant value`, is an object
/// `{"variant": value}`.
pub fn from_yaml(text: &str) -> Value {
    serde_yaml::from_str(text).map_or(Value::Null, json_of)
}

fn json_of(value: serde_yaml::Value) -> Value {
    match value {
        serde_yaml::Value::Tagged(tagged) => {
            let variant = tagged.tag.to_string();
            json!({variant.trim_start_matches('!'): json_of(tagged.value)})
        }
        serde_yaml::Value::Mapping(fields) => {
            let fields = fields.into_iter();
            let fields = fields.map(|(key, value)| {
                let key = key.as_str().unwrap_or_default().to_owned();
                (key, json_of(value))
            });
            Value::Object(fields.collect())
        }
        serde_yaml::Value::Sequence(items) => items.into_iter().map(json_of).collect(),
        plain => serde_json::to_value(plain).unwrap_or_default(),
    }
}
