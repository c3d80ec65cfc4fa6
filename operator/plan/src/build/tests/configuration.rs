//! Configurations of workers.

use serde_json::{Value, json};

use super::{objects, with};
use crate::samples::{validated, whole};

#[test]
fn workers_can_read_their_configurations() {
    for object in with(|_| ())
        .iter()
        .filter(|object| object.resource.kind == "ConfigMap")
    {
        assert_eq!(object.body["immutable"], true);
        let yaml = object.body["data"][pinpipe_config::CONFIG_KEY]
            .as_str()
            .unwrap();
        let read = match object.body["metadata"]["labels"]["app.kubernetes.io/component"]
            .as_str()
            .unwrap()
        {
            "ingest" => pinpipe_config::parse::<pinpipe_config::Ingest>(yaml).map(drop),
            "batch" => pinpipe_config::parse::<pinpipe_config::Batch>(yaml).map(drop),
            "emulator" => pinpipe_config::parse::<pinpipe_config::Emulator>(yaml).map(drop),
            _ => pinpipe_config::parse::<pinpipe_config::Stream>(yaml).map(drop),
        };
        read.unwrap();
    }
}

#[test]
fn one_worker_writes_the_dead_letters() {
    let writers = |spec: Value| -> Vec<String> {
        objects(&validated(spec))
            .iter()
            .filter(|object| {
                let yaml = object.body["data"][pinpipe_config::CONFIG_KEY]
                    .as_str()
                    .unwrap_or_default();
                yaml.contains("writesDeadLetters: true")
            })
            .map(|object| object.name[..object.name.len() - 11].to_owned())
            .collect()
    };
    assert_eq!(writers(whole()), ["pinterest-archive"]);
    let url = json!({"name": "w", "key": "url"});
    let sink = |name: &str| json!({"name": name, "postgres": {"urlSecretRef": url}});
    assert_eq!(
        writers(json!({"stream": {"sinks": [sink("b"), sink("a")]}})),
        ["pinterest-stream-a"]
    );
}
