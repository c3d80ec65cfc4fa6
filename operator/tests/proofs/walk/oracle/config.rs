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
        config
    }

    pub fn stream_config(&self, sink: &Value) -> Value {
        let (name, postgres) = (&sink["name"], &sink["postgres"]);
        let secret = &postgres["urlSecretRef"];
        let secret = format!(
            "Secret {}, key {}",
            secret["name"].as_str().unwrap_or_default(),
            secret["key"].as_str().unwrap_or_default()
        );
        let mut document = json!({
            "name": name,
            "urlFile": "/etc/pinpipe/secrets/postgres/url",
            "secret": secret,
            "schema": or(&postgres["schema"], json!("public")),
            "startFrom": or(&sink["startFrom"], json!("earliest")),
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
                "bytes": or(&rotate["bytes"], json!(134_217_728)),
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
        let sinks = sinks.map(|sink| {
            let (name, cassandra) = (&sink["name"], &sink["cassandra"]);
            let credentials = cassandra["credentialsSecretRef"].is_object().then(|| {
                let name = name.as_str().unwrap_or_default();
                format!("/etc/pinpipe/secrets/cassandra-{name}")
            });
            json!({"name": name, "cassandra": {
                "contactPoints": cassandra["contactPoints"],
                "keyspace": or(&cassandra["keyspace"], json!("pinterest_data")),
                "replicationFactor": or(&cassandra["replicationFactor"], json!(1)),
                "credentialsDir": credentials,
            }})
        });
        let sinks: Vec<_> = sinks.collect();
        let own = self.child("batch");
        let admin = format!("{}.{}.svc:9090", self.child("archive"), self.namespace);
        for (field, value) in [
            ("maxRecordBytes", json!(self.max_record_bytes())),
            ("zone", self.zone()),
            ("archiveGroup", json!(self.group("archive"))),
            ("archiveAdmin", json!(admin)),
            ("barrierTimeoutSeconds", json!(600)),
            ("lease", json!(own)),
            ("sinks", json!(sinks)),
            ("quality", batch["quality"].clone()),
        ] {
            set(&mut config, field, value);
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
            "seed": or(&emulator["seed"], json!(1)),
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
        match self.spec["deadLetters"]["mode"].as_str() {
            Some("RejectAndLogRepairs") => {
                set(&mut config, "deadLetterMode", json!("rejectAndLogRepairs"));
            }
            Some("Fail") => set(&mut config, "deadLetterMode", json!("fail")),
            _ => {}
        }
        config
    }

    /// What the configurations of all workers that connect to the broker share.
    fn common_config(&self) -> Value {
        let kafka = &self.spec["broker"]["kafka"];
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
            "kafka": {"bootstrapServers": kafka["bootstrapServers"]},
            "topics": topics,
        })
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
            },
        })
    }
}

fn or(value: &Value, default: Value) -> Value {
    if value.is_null() {
        default
    } else {
        value.clone()
    }
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
