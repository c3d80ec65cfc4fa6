//! Tests of the committed definition and of its rules.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs};

use pinpipe_core::{Kind, clean};
use pinpipe_crds::{REPAIRABLE_FIELDS, check_rules, run_schema, schema};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// A pipeline with the given spec.
fn pipeline(spec: &Value) -> Value {
    json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestPipeline",
        "metadata": {"name": "p"},
        "spec": spec,
    })
}

fn committed(path: &str) -> String {
    fs::read_to_string(path).unwrap()
}

/// Calls `visit` with the path and the schema of every node of both kinds.
fn walk_all(visit: &mut impl FnMut(&str, &Value)) {
    walk("", &schema(), visit);
    walk("", &run_schema(), visit);
}

/// Calls `visit` with the path and the schema of every node.
fn walk(path: &str, node: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, node);
    if let Some(properties) = node["properties"].as_object() {
        properties
            .iter()
            .for_each(|(name, property)| walk(&format!("{path}.{name}"), property, visit));
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if node[key].is_object() {
            walk(&format!("{path}{suffix}"), &node[key], visit);
        }
    }
}

struct Example {
    name: String,
    expect: String,
    refused_by_schema: bool,
    documents: Vec<Value>,
}

fn invalid_examples() -> Vec<Example> {
    let mut examples: Vec<_> = fs::read_dir("tests/invalid")
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            Example {
                name: path.file_stem().unwrap().to_string_lossy().into_owned(),
                expect: text
                    .lines()
                    .next()
                    .unwrap()
                    .strip_prefix("# expect: ")
                    .unwrap()
                    .to_owned(),
                refused_by_schema: text.lines().nth(1) == Some("# refused-by: schema"),
                documents: serde_yaml::Deserializer::from_str(&text)
                    .map(|d| Value::deserialize(d).unwrap())
                    .collect(),
            }
        })
        .collect();
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    examples
}

#[test]
fn committed_definitions_are_up_to_date() {
    for crd in pinpipe_crds::crds() {
        let yaml = pinpipe_crds::yaml(&crd).unwrap();
        for folder in [".", "../charts/pinpipe/files"] {
            let copy = format!("{folder}/{}.yaml", crd.spec.names.plural);
            assert_eq!(
                yaml,
                committed(&copy),
                "{copy} is out of date: cargo run -p pinpipe-crds --bin crdgen -- --write"
            );
        }
    }
}

#[test]
fn each_invalid_example_is_refused_with_its_message_alone() {
    for example in invalid_examples()
        .iter()
        .filter(|example| !example.refused_by_schema)
    {
        let (refused, stored) = match example.documents.as_slice() {
            [only] => (only, None),
            [stored, change] => {
                assert_eq!(
                    check_rules(stored, None),
                    Ok(()),
                    "{}: the stored document is valid",
                    example.name
                );
                (change, Some(stored))
            }
            _ => panic!("{}: one document, or two for a change", example.name),
        };
        let messages = check_rules(refused, stored).expect_err(&example.name);
        assert_eq!(messages.len(), 1, "{}: {messages:?}", example.name);
        assert!(
            messages[0].message.contains(&example.expect),
            "{}: {messages:?}",
            example.name
        );
    }
}

#[test]
fn every_rule_has_an_invalid_example() {
    let examples = invalid_examples();
    let mut unproven = BTreeSet::new();
    walk_all(&mut |_, node| {
        for rule in node["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let message = rule["message"].as_str().expect("every rule has a message");
            if !examples
                .iter()
                .any(|example| message.contains(&example.expect))
            {
                unproven.insert(message.to_owned());
            }
        }
    });
    assert!(
        unproven.is_empty(),
        "no example in tests/invalid is refused by: {unproven:#?}"
    );
}

#[test]
fn every_field_is_described_and_bounded() {
    walk_all(&mut |path, node| {
        assert!(
            node["description"].is_string() || path.ends_with("[]") || path.ends_with("{}"),
            "{path} has no description"
        );
        let bound = match node["type"].as_str() {
            Some("array") => "maxItems",
            Some("object") if node["additionalProperties"].is_object() => "maxProperties",
            Some("string") if node["enum"].is_null() && node["format"].is_null() => "maxLength",
            Some("integer" | "number") if path.starts_with(".spec") || path.ends_with("{}") => {
                "maximum"
            }
            _ => return,
        };
        assert!(!node[bound].is_null(), "{path} has no {bound}");
    });
}

/// A rule has a message that says what to do; a pattern has none.
#[test]
fn no_field_that_a_user_writes_has_a_pattern() {
    for schema in [schema(), run_schema()] {
        walk("", &schema["properties"]["spec"], &mut |path, node| {
            assert!(node["pattern"].is_null(), "{path} has a pattern");
        });
    }
}

#[test]
fn the_schema_has_no_floats_and_pascal_case_values() {
    walk_all(&mut |path, node| {
        assert_ne!(node["type"], json!("number"), "{path}");
        for value in node["enum"].as_array().into_iter().flatten() {
            let value = value.as_str().unwrap();
            let is_pascal = value.starts_with(|first: char| first.is_ascii_uppercase())
                && value.chars().all(|c| c.is_ascii_alphanumeric());
            assert!(is_pascal, "{path}: {value}");
        }
    });
}

#[test]
fn the_schema_has_no_defaults() {
    walk_all(&mut |path, node| {
        assert!(node["default"].is_null(), "{path} has a default");
    });
}

#[test]
fn shipped_examples_are_valid() {
    let (mut pipelines, mut runs) = (0, 0);
    for entry in fs::read_dir("../examples").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for document in serde_yaml::Deserializer::from_str(&fs::read_to_string(&path).unwrap()) {
            let document = Value::deserialize(document).unwrap();
            if document["kind"] == json!("PinterestPipeline") {
                assert_eq!(check_rules(&document, None), Ok(()), "{}", path.display());
                serde_json::from_value::<pinpipe_crds::PinterestPipeline>(document).unwrap();
                pipelines += 1;
            } else if document["kind"] == json!("PinterestRun") {
                assert_eq!(check_rules(&document, None), Ok(()), "{}", path.display());
                serde_json::from_value::<pinpipe_crds::PinterestRun>(document).unwrap();
                runs += 1;
            }
        }
    }
    assert!(pipelines > 0 && runs > 0);
}

#[test]
fn mutable_fields_may_change() {
    let before = pipeline(&json!({
        "broker": {"kafka": {
            "bootstrapServers": "k:9092",
            "topics": {"overrides": {"pin": {"name": "pins"}}},
        }},
        "archive": {
            "bucket": "data",
            "prefix": "raw",
            "s3": {"credentialsSecretRef": {"name": "s3"}},
        },
    }));
    let mut after = before.clone();
    after["spec"]["broker"]["kafka"]["bootstrapServers"] = json!("other:9092");
    after["spec"]["broker"]["kafka"]["topics"]["overrides"]["pin"]["partitions"] = json!(6);
    after["spec"]["archive"]["rotate"] = json!({"interval": "1h30m"});
    assert_eq!(check_rules(&after, Some(&before)), Ok(()));
}

#[test]
fn servers_may_have_ipv6_addresses() {
    for endpoint in ["http://[fd00::2]:9000", "https://[fd00::2]/"] {
        let six = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "[fd00::1]:9092"}},
            "archive": {
                "bucket": "data",
                "s3": {"endpoint": endpoint, "credentialsSecretRef": {"name": "s3"}},
            },
            "batch": {
                "schedule": "@daily",
                "sinks": [{"name": "serving", "cassandra": {"contactPoints": ["[fd00::3]:9042"]}}],
            },
        }));
        assert_eq!(check_rules(&six, None), Ok(()), "{endpoint}");
    }
}

/// Kafka writes ids by the URL-safe alphabet of base64, librdkafka by the other.
#[test]
fn ids_of_topics_are_base64_of_either_alphabet() {
    for id in [
        "P4CFbPjfTcKtGlA2vX9NHw",
        "/DeBzm/rQZ+d6dIN/yu/Nw",
        "-eBzm_rQ==",
    ] {
        let topic = json!({"kind": "Geo", "action": "Forget", "id": id});
        let run = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestRun",
            "metadata": {"name": "r"},
            "spec": {"pipelineRef": {"name": "p"}, "topic": topic},
        });
        assert_eq!(check_rules(&run, None), Ok(()), "{id}");
    }
}

#[test]
fn a_key_of_encryption_is_an_id_an_arn_or_an_alias() {
    for (key, valid) in [
        ("1234abcd-12ab-34cd-56ef-1234567890ab", true),
        ("alias/pinterest", true),
        ("arn:aws:kms:eu-west-1:111122223333:key/1234abcd", true),
        ("my key", false),
        ("", false),
    ] {
        let pipeline = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "k:9092"}},
            "archive": {
                "bucket": "data",
                "s3": {"serverSideEncryption": {"kmsKeyId": key}},
            },
        }));
        assert_eq!(check_rules(&pipeline, None).is_ok(), valid, "{key}");
    }
}

#[test]
fn tokens_are_sent_to_msk_alone() {
    let host = |name: &str| format!("b-1.{name}:9098");
    let msk = host("c.abc.c2.kafka.eu-west-1.amazonaws.com");
    for (servers, tls, valid) in [
        (msk.clone(), true, true),
        (format!("{msk},{msk}"), true, true),
        (
            host("abc.c2.kafka-serverless.eu-west-1.amazonaws.com"),
            true,
            true,
        ),
        (msk.clone(), false, false),
        (host("c.abc.c2.kafka.eu-west-2.amazonaws.com"), true, false),
        (host("kafka.eu-west-1.amazonaws.com.example"), true, false),
        (format!("{msk},kafka.example:9098"), true, false),
        (format!("kafka.example:9098,{msk}"), true, false),
    ] {
        let mut kafka = json!({
            "bootstrapServers": servers,
            "authentication": {"awsMskIam": {"region": "eu-west-1"}},
        });
        if tls {
            kafka["tls"] = json!({});
        }
        let found = check_rules(&pipeline(&json!({"broker": {"kafka": kafka}})), None);
        assert_eq!(found.is_ok(), valid, "{servers} {found:?}");
    }
}

#[test]
fn a_batch_needs_no_sink_and_may_load_postgresql() {
    for sinks in [
        json!(null),
        json!([]),
        json!([{"name": "serving", "postgres": {"urlSecretRef": {"name": "w", "key": "url"}}}]),
    ] {
        let mut batch = json!({"schedule": "@daily"});
        if !sinks.is_null() {
            batch["sinks"] = sinks;
        }
        let valid = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "k:9092"}},
            "archive": {"bucket": "data", "s3": {"credentialsSecretRef": {"name": "s3"}}},
            "batch": batch,
        }));
        assert_eq!(check_rules(&valid, None), Ok(()), "{valid}");
        serde_json::from_value::<pinpipe_crds::PinterestPipeline>(valid).unwrap();
    }
}

#[test]
fn a_default_may_be_added_or_removed() {
    let before = pipeline(&json!({
        "broker": {"kafka": {"bootstrapServers": "k:9092"}},
        "stream": {"sinks": [{
            "name": "live",
            "postgres": {"urlSecretRef": {"name": "w", "key": "url"}},
        }]},
        "archive": {"bucket": "data", "s3": {"credentialsSecretRef": {"name": "s3"}}},
        "batch": {
            "schedule": "@daily",
            "sinks": [{"name": "serving", "cassandra": {"contactPoints": ["c:9042"]}}],
        },
    }));
    let mut after = before.clone();
    after["spec"]["archive"]["prefix"] = json!("topics");
    after["spec"]["batch"]["sinks"][0]["cassandra"]["keyspace"] = json!("pinterest_data");
    after["spec"]["stream"]["sinks"][0]["postgres"]["writeMode"] = json!("Upsert");
    after["spec"]["archive"]["compression"] = json!("None");
    assert_eq!(check_rules(&after, Some(&before)), Ok(()));
    assert_eq!(check_rules(&before, Some(&after)), Ok(()));
}

/// Raw records in which every field except the keys is unreadable.
#[test]
fn repairable_fields_are_those_that_cleaning_repairs() {
    let pin = json!({
        "unique_id": "u", "index": 1, "title": {}, "description": {}, "poster_name": {},
        "follower_count": {}, "tag_list": {}, "is_image_or_video": {}, "image_src": {},
        "downloaded": {}, "save_location": {}, "category": {},
    });
    let geo = json!({"ind": 1, "timestamp": {}, "latitude": {}, "longitude": {}, "country": {}});
    let user = json!({
        "ind": 1, "first_name": {}, "last_name": {}, "age": {}, "date_joined": {},
    });
    let repaired: BTreeSet<_> = [(Kind::Pin, pin), (Kind::Geo, geo), (Kind::User, user)]
        .into_iter()
        .flat_map(|(kind, record)| {
            let raw = record.to_string();
            clean(kind, raw.as_bytes(), raw.len())
                .unwrap()
                .repairs
                .iter()
                .map(|repair| repair.field)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(repaired, REPAIRABLE_FIELDS.into());
}

#[test]
fn quantities_may_be_integers_or_strings() {
    for (cpu, limit) in [
        (json!(1), json!("1")),
        (json!("0.5"), json!("500m")),
        (json!("250m"), json!(1)),
    ] {
        let resource = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "k:9092"}},
            "template": {"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": limit}}},
        }));
        assert_eq!(check_rules(&resource, None), Ok(()), "{cpu} {limit}");
        serde_json::from_value::<pinpipe_crds::PinterestPipeline>(resource).unwrap();
    }
    for cpu in [
        json!("-1"),
        json!("+1"),
        json!(-1),
        json!("1 GB"),
        json!(""),
    ] {
        let resource = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "k:9092"}},
            "ingest": {"template": {"resources": {"limits": {"cpu": cpu}}}},
        }));
        let broken = check_rules(&resource, None).unwrap_err();
        assert_eq!(broken.len(), 1, "{cpu}: {broken:?}");
        assert_eq!(broken[0].field, "spec.ingest.template.resources.limits.cpu");
    }
}

/// The CPU request may be ingest's own, everybody's, or the default.
#[test]
fn ingest_may_be_scaled_wherever_its_cpu_request_comes_from() {
    let cpu = json!({"resources": {"requests": {"cpu": "1"}}});
    let memory = json!({"resources": {"limits": {"memory": "1Gi"}}});
    for (general, own) in [
        (json!({}), json!({})),
        (cpu.clone(), json!({})),
        (memory.clone(), cpu.clone()),
        (json!({}), json!({"resources": {"limits": {"cpu": "1"}}})),
    ] {
        let resource = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "k:9092"}},
            "ingest": {"autoscaling": {"maxReplicas": 3}, "template": own},
            "template": general,
        }));
        assert_eq!(check_rules(&resource, None), Ok(()), "{resource}");
    }
    for (general, own) in [(cpu, memory.clone()), (memory, json!({}))] {
        let resource = pipeline(&json!({
            "broker": {"kafka": {"bootstrapServers": "k:9092"}},
            "ingest": {"autoscaling": {"maxReplicas": 3}, "template": own},
            "template": general,
        }));
        assert_eq!(
            check_rules(&resource, None).unwrap_err().len(),
            1,
            "{resource}"
        );
    }
}
