//! Settings that can't be changed once a pipeline was deployed with them.
//!
//! The CRD's transition rules compare a section with its predecessor, so they don't run when a
//! section is removed and added again. The record, a `ConfigMap` of the pipeline, outlives the
//! section.

use std::collections::BTreeMap;

use pinpipe_crds::Compression;

use super::Problem;
use crate::{
    model::{BatchSink, ValidatedPipeline},
    names::{self, KINDS},
};

const OBJECTS: &str =
    "the names of the archive's objects are its positions, and batch runs read those objects";

/// Key in the record of the archive's endpoint.
const ENDPOINT: &str = "archive.endpoint";

/// A setting that can't be changed.
struct Setting {
    /// Key in the record.
    key: String,
    field: &'static str,
    value: String,
    because: &'static str,
}

impl Setting {
    /// Whether the setting means the same as before. A store keeps its objects whatever the scheme
    /// and the port of its endpoint are: one of them may have been wrong, or TLS was turned on.
    fn is_still(&self, before: &str) -> bool {
        if self.key == ENDPOINT {
            host(&self.value) == host(before)
        } else {
            self.value == before
        }
    }
}

/// The host of an endpoint.
fn host(endpoint: &str) -> &str {
    let (_, address) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let address = address.trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => address,
    }
}

/// Compares the pipeline with its record. Returns the record with the settings that it lacks.
pub(super) fn compare(
    pipeline: &ValidatedPipeline,
    record: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut complete = record.clone();
    for setting in settings(pipeline) {
        match record.get(&setting.key) {
            Some(before) if !setting.is_still(before) => {
                let (field, message) = (setting.field, changed(pipeline, &setting, before));
                problems.push(Problem { field, message });
            }
            Some(_) => {}
            None => {
                complete.insert(setting.key, setting.value);
            }
        }
    }
    complete
}

fn settings(pipeline: &ValidatedPipeline) -> Vec<Setting> {
    let setting = |key: String, field, value: &str, because| Setting {
        key,
        field,
        value: value.to_owned(),
        because,
    };
    let fields = [
        "spec.broker.kafka.topics.overrides.pin.name",
        "spec.broker.kafka.topics.overrides.geo.name",
        "spec.broker.kafka.topics.overrides.user.name",
    ];
    let topics = KINDS.iter().zip(fields).zip(&pipeline.topics);
    let mut settings: Vec<_> = topics
        .map(|((kind, field), topic)| {
            let because = "the workers' positions belong to their topics";
            setting(format!("topics.{kind}"), field, &topic.name, because)
        })
        .collect();
    if let Some(archive) = &pipeline.archive {
        let endpoint = archive.s3.endpoint.as_deref().unwrap_or_default();
        let compression = match archive.compression {
            Compression::None => "None",
            Compression::Gzip => "Gzip",
            Compression::Zstd => "Zstd",
        };
        for (key, field, value) in [
            (
                "archive.bucket",
                "spec.archive.bucket",
                archive.bucket.as_str(),
            ),
            ("archive.prefix", "spec.archive.prefix", &archive.prefix),
            (
                "archive.compression",
                "spec.archive.compression",
                compression,
            ),
            (ENDPOINT, "spec.archive.s3.endpoint", endpoint),
        ] {
            settings.push(setting(key.to_owned(), field, value, OBJECTS));
        }
    }
    for sink in pipeline.batch.iter().flat_map(|batch| &batch.sinks) {
        let BatchSink::Cassandra(sink) = sink else {
            continue;
        };
        settings.push(setting(
            format!("batch.sinks.{}.keyspace", sink.name),
            "spec.batch.sinks",
            &sink.keyspace,
            "the tables in the old one would stay and get no more rows",
        ));
    }
    settings
}

fn changed(pipeline: &ValidatedPipeline, setting: &Setting, before: &str) -> String {
    let Setting {
        key,
        value,
        because,
        ..
    } = setting;
    let (namespace, record) = (&pipeline.namespace, names::record(&pipeline.name));
    format!(
        "{key} is {} and was {} when it was first deployed: {because}; set it back (if that is \
         refused as a change, remove the section and add it again), or create another pipeline \
         under another name; if the data already fits the new value, or to start over on purpose, \
         remove the old value from the record: kubectl -n {namespace} patch configmap {record} \
         --type json -p '[{{\"op\":\"remove\",\"path\":\"/data/{key}\"}}]'",
        shown(value),
        shown(before)
    )
}

fn shown(value: &str) -> String {
    if value.is_empty() {
        "not set".to_owned()
    } else {
        format!("`{value}`")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        samples::{all_there, images, pipeline, validated, whole},
        validate::validate,
    };

    fn problems(record: &BTreeMap<String, String>, spec: Value) -> Vec<String> {
        let pipeline = pipeline(spec);
        let mut inputs = all_there(&pipeline);
        inputs.record = record.clone();
        let problems = validate(&pipeline, &inputs, &images()).err();
        let problems = problems.into_iter().flatten();
        problems.map(|problem| problem.to_string()).collect()
    }

    /// Change, field, key of the record, and values in the message.
    type Case = (
        fn(&mut Value),
        &'static str,
        &'static str,
        [&'static str; 2],
    );

    #[test]
    fn a_removed_section_can_only_be_added_again_as_it_was() {
        let before = validated(whole()).record;
        let mut without = whole();
        without["archive"] = Value::Null;
        without["batch"] = Value::Null;
        let pipeline = pipeline(without);
        let mut inputs = all_there(&pipeline);
        inputs.record = before.clone();
        let removed = validate(&pipeline, &inputs, &images()).unwrap().record;
        assert_eq!(removed, before, "the record outlives the section");
        assert_eq!(problems(&removed, whole()), [""; 0]);

        let cases: [Case; 6] = [
            (
                |spec| spec["archive"]["bucket"] = json!("other"),
                "spec.archive.bucket",
                "archive.bucket",
                ["`other`", "`raw`"],
            ),
            (
                |spec| spec["archive"]["prefix"] = json!("x"),
                "spec.archive.prefix",
                "archive.prefix",
                ["`x`", "`topics`"],
            ),
            (
                |spec| spec["archive"]["compression"] = json!("Zstd"),
                "spec.archive.compression",
                "archive.compression",
                ["`Zstd`", "`None`"],
            ),
            (
                |spec| spec["archive"]["s3"]["endpoint"] = json!("http://s3:9000"),
                "spec.archive.s3.endpoint",
                "archive.endpoint",
                ["`http://s3:9000`", "not set"],
            ),
            (
                |spec| spec["batch"]["sinks"][0]["cassandra"]["keyspace"] = json!("k"),
                "spec.batch.sinks",
                "batch.sinks.serving.keyspace",
                ["`k`", "`pinterest_data`"],
            ),
            (
                |spec| {
                    spec["broker"] = json!({"kafka": {
                        "bootstrapServers": "kafka:9092",
                        "topics": {"overrides": {"geo": {"name": "places"}}},
                    }});
                },
                "spec.broker.kafka.topics.overrides.geo.name",
                "topics.geo",
                ["`places`", "`data.pinterest.geo`"],
            ),
        ];
        for (change, field, key, values) in cases {
            let mut spec = whole();
            change(&mut spec);
            let found = problems(&removed, spec.clone());
            let [problem] = found.as_slice() else {
                panic!("{field}: {found:?}")
            };
            assert!(problem.starts_with(&format!("{field}: ")), "{problem}");
            for part in values.iter().chain(&["pinterest-record", key]) {
                assert!(problem.contains(part), "{part}: {problem}");
            }
            let mut released = removed.clone();
            released.remove(key).unwrap();
            assert_eq!(problems(&released, spec), [""; 0], "{field}");
        }
    }

    #[test]
    fn the_scheme_and_the_port_of_the_endpoint_can_be_corrected_and_the_host_can_t() {
        for (first, same, others) in [
            (
                "http://s3:9000",
                ["https://s3:9443", "https://s3", "http://s3:9000/"],
                ["http://s4:9000", "http://s3.example:9000"],
            ),
            (
                "https://[fd00::1]:9000",
                [
                    "https://[fd00::1]",
                    "http://[fd00::1]:80",
                    "https://[fd00::1]:9443/",
                ],
                ["https://[fd00::2]:9000", "https://[fd00::]"],
            ),
        ] {
            let with = |endpoint: &str| {
                let mut spec = whole();
                spec["archive"]["s3"]["endpoint"] = json!(endpoint);
                spec
            };
            let before = validated(with(first)).record;
            assert_eq!(before["archive.endpoint"], first);
            for endpoint in same {
                assert_eq!(problems(&before, with(endpoint)), [""; 0], "{endpoint}");
            }
            for endpoint in others {
                let found = problems(&before, with(endpoint));
                let [problem] = found.as_slice() else {
                    panic!("{endpoint}: {found:?}")
                };
                for part in [endpoint, first, "kubectl -n data patch configmap"] {
                    assert!(problem.contains(part), "{part}: {problem}");
                }
            }
        }
    }

    #[test]
    fn a_sink_with_another_name_changes_nothing() {
        let mut spec = whole();
        let before = validated(spec.clone()).record;
        let cassandra = &mut spec["batch"]["sinks"][0];
        cassandra["name"] = json!("second");
        cassandra["cassandra"]["keyspace"] = json!("k");
        assert_eq!(problems(&before, spec), [""; 0]);
    }
}
