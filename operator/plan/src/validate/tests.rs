use pinpipe_crds::{Compression, PullPolicy, WriteMode};
use serde_json::json;

use super::*;
use crate::{
    component::Component,
    model::Replicas,
    samples::{all_there, images, pipeline, validated, whole},
};

/// The defaults of v1alpha1 are frozen: a change of this file would change pipelines that nobody
/// touched.
#[test]
fn defaults_are_those_of_the_golden_file() {
    let golden = include_str!("defaults.yaml");
    let yaml = serde_yaml::to_string(&validated(whole())).unwrap();
    assert_eq!(yaml, golden, "\n{yaml}");
}

#[test]
fn what_is_said_stands() {
    let validated = validated(json!({
        "suspend": true,
        "drainDeadline": "90s",
        "broker": {"kafka": {"bootstrapServers": "k:1", "topics": {
            "partitions": 5, "replicationFactor": 3, "config": {"retention.ms": "1"},
            "overrides": {"geo": {"name": "places", "partitions": 7}}}}},
        "ingest": {"replicas": 4, "maxRecordBytes": 1000,
            "template": {"resources": {"limits": {"cpu": 1}}}},
        "stream": {"sinks": [{"name": "log", "postgres": {
            "urlSecretRef": {"name": "w", "key": "u"}, "writeMode": "Append"}}]},
        "batch": {"schedule": "@daily", "deadline": "1h30m", "sinks": [],
            "quality": {"maxRejected": "1%", "maxRepaired": [{"field": "age", "limit": "50%"}]}},
        "archive": {"bucket": "b", "prefix": "raw/zone", "compression": "Gzip",
            "rotate": {"size": "2Ki", "records": 10, "interval": "1h1m1s"},
            "s3": {"endpoint": "http://s3:9000/", "region": "eu-west-1",
                "credentialsSecretRef": {"name": "s3"}}},
        "image": {"registry": "r/p", "tag": "", "pullPolicy": "Always"},
    }));
    assert!(validated.suspend);
    assert_eq!(validated.drain_seconds, 90);
    let [pin, geo, _] = &validated.topics;
    assert_eq!(
        (pin.name.as_str(), pin.partitions, pin.replication_factor),
        ("data.pinterest.pin", 5, 3)
    );
    assert_eq!((geo.name.as_str(), geo.partitions), ("places", 7));
    let ingest = validated.ingest.unwrap();
    assert_eq!(
        (ingest.replicas, validated.max_record_bytes),
        (Replicas::Fixed(4), 1000)
    );
    assert_eq!(
        ingest.pods.resources.requests, None,
        "nothing of the defaults is added to what is set"
    );
    assert_eq!(validated.sinks[0].write_mode, WriteMode::Append);
    let batch = validated.batch.unwrap();
    assert_eq!(batch.deadline_seconds, 5400);
    let quality = serde_json::to_value(batch.quality).unwrap();
    assert_eq!(
        quality,
        json!({"maxRejected": "1%", "maxRepaired": {"age": "50%"}})
    );
    let archive = validated.archive.unwrap();
    assert_eq!(archive.compression, Compression::Gzip);
    assert_eq!(
        (
            archive.rotate_bytes,
            archive.rotate_records,
            archive.rotate_seconds
        ),
        (2048, 10, 3661)
    );
    assert_eq!(
        (archive.prefix.as_str(), archive.s3.endpoint.as_deref()),
        ("raw/zone", Some("http://s3:9000"))
    );
    assert_eq!(
        (validated.image.tag.as_str(), validated.image.pull_policy),
        ("0.1.0", PullPolicy::Always)
    );
}

#[test]
fn a_percentage_that_cant_be_read_is_a_problem_of_its_field() {
    for (pointer, field) in [
        (
            "/batch/quality/maxRejected",
            "spec.batch.quality.maxRejected",
        ),
        (
            "/batch/quality/maxRepaired/0/limit",
            "spec.batch.quality.maxRepaired",
        ),
    ] {
        let mut spec = whole();
        spec["batch"]["quality"] = json!({
            "maxRejected": "5%", "maxRepaired": [{"field": "age", "limit": "20%"}],
        });
        *spec.pointer_mut(pointer).unwrap() = json!("0.05");
        let pipeline = pipeline(spec);
        let problems = validate(&pipeline, &all_there(&pipeline), &images()).unwrap_err();
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        assert_eq!(problem.field, field);
        assert!(
            problem.message.contains("`0.05` is not a percentage"),
            "{problem}"
        );
    }
}

#[test]
fn partitions_that_are_there_bound_a_sinks_pods() {
    let mut spec = whole();
    spec["stream"]["sinks"][0]["replicas"] = json!(8);
    assert_eq!(
        validated(spec.clone()).sinks[0].replicas,
        Replicas::Fixed(8),
        "9 are desired for"
    );
    let mut pipeline = pipeline(spec);
    let topic = |kind: &str, id: Option<&str>, partitions: i32| {
        let name = format!("data.pinterest.{kind}");
        json!({"name": name, "id": id, "partitions": partitions, "created": "Other"})
    };
    let topics = json!([
        topic("pin", Some("a"), 1),
        topic("geo", Some("b"), 1),
        topic("user", None, 1)
    ]);
    pipeline.status = Some(serde_json::from_value(json!({"topics": topics})).unwrap());
    let sink = validate(&pipeline, &all_there(&pipeline), &images())
        .unwrap()
        .sinks
        .remove(0);
    assert_eq!(
        sink.replicas,
        Replicas::Fixed(5),
        "two topics have one, and the third will have three"
    );
    assert!(sink.held_back.unwrap().contains("5 pods, not 8"));
}

#[test]
fn digests_are_the_operators_unless_the_pipeline_has_a_tag() {
    let operators = Images {
        digests: [
            ("ingest".into(), "sha256:a".into()),
            ("batch".into(), "sha256:b".into()),
        ]
        .into(),
        ..images()
    };
    for (image, expected) in [
        (
            json!({}),
            vec![("batch", "sha256:b"), ("ingest", "sha256:a")],
        ),
        (
            json!({"registry": "mirror/p"}),
            vec![("batch", "sha256:b"), ("ingest", "sha256:a")],
        ),
        (json!({"tag": "0.2.0"}), vec![]),
    ] {
        let pipeline = pipeline(json!({"image": image}));
        let digests = validate(&pipeline, &all_there(&pipeline), &operators)
            .unwrap()
            .image
            .digests;
        let digests: Vec<_> = digests
            .iter()
            .map(|(worker, digest)| (worker.as_str(), digest.as_str()))
            .collect();
        assert_eq!(digests, expected, "{image}");
    }
}

#[test]
fn problems_name_their_field() {
    let mut wrong = whole();
    wrong["archive"]["rotate"] = json!({"interval": "soon", "size": "much"});
    wrong["batch"]["deadline"] = json!("at noon");
    wrong["stream"]["sinks"][0]
        .as_object_mut()
        .unwrap()
        .remove("postgres");
    wrong["batch"]["sinks"][0]
        .as_object_mut()
        .unwrap()
        .remove("cassandra");
    let overrides = json!({"pin": {"name": "data.pinterest.geo"}});
    wrong["broker"] =
        json!({"kafka": {"bootstrapServers": "k:1", "topics": {"overrides": overrides}}});
    let wrong = pipeline(wrong);
    let problems = validate(&wrong, &all_there(&wrong), &images()).unwrap_err();
    let mut fields: Vec<_> = problems.iter().map(|problem| problem.field).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "spec.archive.rotate.interval",
            "spec.archive.rotate.size",
            "spec.batch.deadline",
            "spec.batch.sinks",
            "spec.broker.kafka.topics.overrides",
            "spec.stream.sinks"
        ]
    );

    let alone = pipeline(json!({"batch": whole()["batch"]}));
    let problems = validate(&alone, &all_there(&alone), &images()).unwrap_err();
    assert!(
        problems[0].to_string().starts_with("spec.batch: "),
        "{problems:?}"
    );
}

#[test]
fn a_missing_secret_is_named_and_awaited_unless_its_component_is_deployed() {
    let pipeline = pipeline(whole());
    let mut found = all_there(&pipeline);
    found
        .secrets
        .insert(("s3".into(), "accessKeyId".into()), SecretKey::NoKey);
    found
        .secrets
        .insert(("warehouse".into(), "uri".into()), SecretKey::NoSecret);
    found.deployed.insert("pinterest-archive".into());
    let validated = validate(&pipeline, &found, &images()).unwrap();

    let live = &validated.sinks[0].secrets;
    assert_eq!(
        (live.awaited(), live.missing.as_slice()),
        (
            true,
            &["Secret warehouse is missing: create it with the key uri".to_owned()][..]
        )
    );
    let archive = validated.archive.unwrap().secrets;
    assert_eq!(
        (archive.awaited(), archive.missing[0].as_str()),
        (false, "Secret s3 has no key accessKeyId: add it")
    );
}

#[test]
fn a_missing_secret_is_to_be_created_with_all_keys_that_are_needed() {
    let pipeline = pipeline(whole());
    let mut found = all_there(&pipeline);
    for ((secret, _), state) in &mut found.secrets {
        if secret == "s3" {
            *state = SecretKey::NoSecret;
        }
    }
    let validated = validate(&pipeline, &found, &images()).unwrap();
    assert_eq!(
        validated.archive.unwrap().secrets.missing,
        ["Secret s3 is missing: create it with the keys accessKeyId and secretAccessKey"]
    );
}

#[test]
fn everything_mounted_was_read() {
    let mut spec = whole();
    spec["archive"]["template"] =
        json!({"trustedCASecretRef": {"name": "company", "key": "ca.crt"}});
    let pipeline = pipeline(spec);
    let references = references(&pipeline.spec);
    let validated = validate(&pipeline, &all_there(&pipeline), &images()).unwrap();
    let components = [
        Component::stream("live"),
        Component::Archive,
        Component::Batch,
    ];
    let secrets = components
        .iter()
        .filter_map(|component| validated.secrets(component));
    let mounts: Vec<_> = secrets.flat_map(|secrets| secrets.mounts.clone()).collect();
    assert_eq!(mounts.len(), 5);
    for mount in mounts {
        let keys = mount.files.into_iter().map(|(key, _)| key);
        for key in keys {
            assert!(
                references[&mount.secret].contains(&key),
                "{} {key}",
                mount.secret
            );
        }
    }
}

/// The general template and `broker.kafka.tls` → the Secrets that the operator needs, and the one
/// that it trusts besides the public authorities.
#[test]
fn the_operator_trusts_what_the_general_template_trusts_unless_kafka_has_an_authority_of_its_own() {
    let company = json!({"trustedCASecretRef": {"name": "company", "key": "ca.crt"}});
    let own = json!({"caSecretRef": {"name": "kafka-ca", "key": "ca.crt"}});
    for (general, tls, secrets, trusted) in [
        (json!({}), json!({}), &[][..], None),
        (
            company.clone(),
            json!({}),
            &["company"],
            Some("Secret company, key ca.crt"),
        ),
        (company.clone(), own, &["kafka-ca"], None),
        (company, json!(null), &[], None),
    ] {
        let mut kafka = json!({
            "bootstrapServers": "k:1",
            "authentication": {"awsMskIam": {"region": "eu-west-1"}},
        });
        if !tls.is_null() {
            kafka["tls"] = tls;
        }
        let of_ingest = json!({"trustedCASecretRef": {"name": "of-ingest", "key": "ca.crt"}});
        let pipeline = pipeline(json!({
            "broker": {"kafka": kafka},
            "template": general,
            "ingest": {"template": of_ingest},
        }));
        let (kafka, mounts) = kafka_for_operator(&pipeline.spec);
        let mounted: Vec<_> = mounts.iter().map(|mount| mount.secret.as_str()).collect();
        assert_eq!(mounted, secrets);
        let found = kafka.tls.and_then(|tls| tls.trusted_ca);
        assert_eq!(found.map(|found| found.secret).as_deref(), trusted);
        assert_eq!(kafka.aws_msk_iam.unwrap().trusted_ca, None);
    }
}
