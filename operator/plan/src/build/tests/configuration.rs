//! Configurations of workers.

use serde_json::{Value, json};

use super::{Object, find, objects, with};
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

#[test]
fn every_client_of_kafka_gets_its_certificates_and_credentials() {
    let objects = with(|spec| {
        spec["broker"]["kafka"] = json!({
            "bootstrapServers": "kafka:9093",
            "tls": {
                "caSecretRef": {"name": "kafka-ca", "key": "ca.pem"},
                "clientCertificateSecretRef": {"name": "kafka-client"},
            },
            "authentication": {"scramSha512": {"credentialsSecretRef": {"name": "kafka-user"}}},
            "settings": {"linger.ms": "20"},
        });
    });
    let folder = "/etc/pinpipe/secrets";
    let mut clients = 0;
    for object in &objects {
        let component = &object.body["metadata"]["labels"]["app.kubernetes.io/component"];
        let pod = match object.resource.kind.as_str() {
            "Deployment" if component != "emulator" => &object.body["spec"]["template"]["spec"],
            "CronJob" => &object.body["spec"]["jobTemplate"]["spec"]["template"]["spec"],
            _ => continue,
        };
        clients += 1;
        for (secret, name, items) in [
            (
                "kafka-ca",
                "ca-kafka",
                json!([{"key": "ca.pem", "path": "ca.crt"}]),
            ),
            (
                "kafka-client",
                "certificate-kafka",
                json!([
                    {"key": "tls.crt", "path": "tls.crt"},
                    {"key": "tls.key", "path": "tls.key"},
                ]),
            ),
            (
                "kafka-user",
                "kafka",
                json!([
                    {"key": "username", "path": "username"},
                    {"key": "password", "path": "password"},
                ]),
            ),
        ] {
            let volumes = pod["volumes"].as_array().unwrap().iter();
            let volume = volumes
                .clone()
                .find(|volume| volume["secret"]["secretName"] == secret)
                .unwrap();
            assert_eq!(volume["secret"]["items"], items, "{component}");
            let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
            let path = format!("{folder}/{name}");
            let is_mounted = |mount: &Value| {
                mount["name"] == volume["name"] && mount["mountPath"] == path.as_str()
            };
            assert!(mounts.iter().any(is_mounted), "{component}: {mounts:?}");
        }
    }
    assert_eq!(clients, 4);
    let config: pinpipe_config::Ingest = read(&objects, "ingest");
    let expected = pinpipe_config::Kafka {
        bootstrap_servers: "kafka:9093".to_owned(),
        tls: Some(pinpipe_config::Tls {
            ca_file: Some(format!("{folder}/ca-kafka/ca.crt").into()),
            certificate_dir: Some(format!("{folder}/certificate-kafka").into()),
            trusted_ca: None,
        }),
        authentication: Some(pinpipe_config::Authentication {
            mechanism: pinpipe_config::SaslMechanism::ScramSha512,
            credentials_dir: format!("{folder}/kafka").into(),
        }),
        aws_msk_iam: None,
        settings: [("linger.ms".to_owned(), "20".to_owned())].into(),
    };
    assert_eq!(config.kafka, expected);
}

#[test]
fn an_identity_of_aws_needs_no_secret() {
    let objects = with(|spec| {
        spec["broker"]["kafka"] = json!({
            "bootstrapServers": "b-1.c.kafka.eu-west-1.amazonaws.com:9098",
            "tls": {},
            "authentication": {"awsMskIam": {"region": "eu-west-1"}},
        });
    });
    let config: pinpipe_config::Ingest = read(&objects, "ingest");
    assert_eq!(config.kafka.authentication, None);
    let region = config.kafka.aws_msk_iam.map(|iam| iam.region);
    assert_eq!(region.as_deref(), Some("eu-west-1"));
    let ingest = &find(&objects, "Deployment", "pinterest-ingest")["spec"]["template"];
    let volumes = ingest["spec"]["volumes"].as_array().unwrap();
    assert!(
        volumes.iter().all(|volume| volume["secret"].is_null()),
        "{volumes:?}"
    );
}

#[test]
fn pods_have_the_secrets_of_the_object_store_that_are_named() {
    let folder = "/etc/pinpipe/secrets";
    let config = |credentials: Option<&str>, ca: Option<&str>| pinpipe_config::S3 {
        endpoint: None,
        region: "us-east-1".to_owned(),
        credentials_dir: credentials.map(|name| format!("{folder}/{name}").into()),
        ca_file: ca.map(|name| format!("{folder}/{name}").into()),
        trusted_ca: None,
        kms_key_id: None,
    };
    let credentials = json!({"name": "s3"});
    let ca = json!({"name": "s3-ca", "key": "ca.pem"});
    for (s3, secrets, expected) in [
        (json!({}), &[][..], config(None, None)),
        (
            json!({"credentialsSecretRef": credentials}),
            &["s3"],
            config(Some("s3"), None),
        ),
        (
            json!({"caSecretRef": ca}),
            &["s3-ca"],
            config(None, Some("ca-s3/ca.crt")),
        ),
        (
            json!({"serverSideEncryption": {"kmsKeyId": "alias/pinterest"}}),
            &[],
            pinpipe_config::S3 {
                kms_key_id: Some("alias/pinterest".to_owned()),
                ..config(None, None)
            },
        ),
    ] {
        let objects = with(|spec| {
            spec["archive"]["s3"] = s3;
            spec["archive"]["template"] = json!({"serviceAccountName": "reader"});
            spec["batch"]["template"] = json!({"serviceAccountName": "reader"});
        });
        let archive = &find(&objects, "Deployment", "pinterest-archive")["spec"];
        let batch = &find(&objects, "CronJob", "pinterest-batch")["spec"]["jobTemplate"]["spec"];
        for pods in [archive, batch].map(|of| &of["template"]["spec"]) {
            let volumes = pods["volumes"].as_array().unwrap().iter();
            let mounted = volumes.filter_map(|volume| {
                let required = &volume["projected"]["sources"][0]["secret"]["name"];
                let name = volume["secret"]["secretName"].as_str();
                name.or(required.as_str())
            });
            let mounted: Vec<&str> = mounted.filter(|name| *name != "cassandra").collect();
            assert_eq!(mounted, secrets);
            assert_eq!(pods["serviceAccountName"], "reader");
        }
        let archive: pinpipe_config::Stream = read(&objects, "archive");
        let batch: pinpipe_config::Batch = read(&objects, "batch");
        let pinpipe_config::StreamSink::Archive(archive) = archive.sink else {
            panic!("not an archive");
        };
        assert_eq!(
            [archive.zone.s3, batch.zone.s3],
            [expected.clone(), expected]
        );
    }
}

/// The configuration of a component.
fn read<T: pinpipe_config::WorkerConfig>(objects: &[Object], component: &str) -> T {
    let config = objects.iter().find(|object| {
        object.resource.kind == "ConfigMap"
            && object.body["metadata"]["labels"]["app.kubernetes.io/component"] == component
            && !object.body["data"][pinpipe_config::CONFIG_KEY].is_null()
    });
    let yaml = config.unwrap().body["data"][pinpipe_config::CONFIG_KEY].as_str();
    pinpipe_config::parse(yaml.unwrap()).unwrap()
}

/// The batch worker's configuration with these sinks, and its pod.
fn batch(sinks: Option<Value>) -> (pinpipe_config::Batch, Value) {
    let objects = with(|spec| {
        let batch = spec["batch"].as_object_mut().unwrap();
        batch.remove("sinks");
        batch.extend(sinks.map(|sinks| ("sinks".to_owned(), sinks)));
    });
    let job = &find(&objects, "CronJob", "pinterest-batch")["spec"]["jobTemplate"]["spec"];
    (read(&objects, "batch"), job["template"]["spec"].clone())
}

#[test]
fn a_batch_sink_in_postgresql_gets_its_url_from_a_secret() {
    let sink = json!({"name": "serving", "postgres": {
        "urlSecretRef": {"name": "dw", "key": "uri"},
        "caSecretRef": {"name": "dw-ca", "key": "ca.pem"},
    }});
    let (config, pod) = batch(Some(json!([sink])));
    let [sink] = &config.sinks[..] else {
        panic!("{:?}", config.sinks)
    };
    let folder = "/etc/pinpipe/secrets/postgres-serving";
    let expected = pinpipe_config::BatchPostgres {
        url_file: format!("{folder}/url").into(),
        secret: Some("Secret dw, key uri".into()),
        tls: Some(pinpipe_config::Tls {
            ca_file: Some("/etc/pinpipe/secrets/ca-postgres-serving/ca.crt".into()),
            ..pinpipe_config::Tls::default()
        }),
        schema: "batch".into(),
    };
    assert_eq!(sink.postgres.as_ref(), Some(&expected));
    let volume = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["secret"]["secretName"] == "dw")
        .unwrap();
    assert_eq!(
        volume["secret"]["items"],
        json!([{"key": "uri", "path": "url"}])
    );
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|mount| mount["name"] == volume["name"] && mount["mountPath"] == folder),
        "{mounts:?}"
    );
}

#[test]
fn batch_runs_need_no_sink() {
    for sinks in [None, Some(json!([]))] {
        assert_eq!(batch(sinks).0.sinks, []);
    }
}

/// What `spec.template` trusts counts for every connection of every component, unless its own
/// template trusts something else.
#[test]
fn each_connection_trusts_what_its_components_template_trusts() {
    let trusted = |secret: &str| pinpipe_config::TrustedCa {
        file: "/etc/pinpipe/secrets/trusted-ca/ca.crt".into(),
        secret: format!("Secret {secret}, key bundle.pem"),
    };
    let company = Some(trusted("company"));
    let objects = with(|spec| {
        spec["template"] = json!({"trustedCASecretRef": {"name": "company", "key": "bundle.pem"}});
        spec["batch"]["template"] =
            json!({"trustedCASecretRef": {"name": "proxy", "key": "bundle.pem"}});
        spec["broker"]["kafka"] = json!({
            "bootstrapServers": "kafka:9098",
            "tls": {},
            "authentication": {"awsMskIam": {"region": "eu-west-1"}},
        });
        let serving = json!({"contactPoints": ["c:9042"], "tls": {}});
        let warehouse = json!({"urlSecretRef": {"name": "dw", "key": "uri"}});
        spec["batch"]["sinks"] = json!([
            {"name": "serving", "cassandra": serving},
            {"name": "warehouse", "postgres": warehouse},
        ]);
    });

    let ingest: pinpipe_config::Ingest = read(&objects, "ingest");
    assert_eq!(ingest.kafka.tls.unwrap().trusted_ca, company);
    assert_eq!(ingest.kafka.aws_msk_iam.unwrap().trusted_ca, company);
    let live: pinpipe_config::Stream = read(&objects, "stream-live");
    let pinpipe_config::StreamSink::Postgres(postgres) = live.sink else {
        panic!("not a database");
    };
    assert_eq!(live.kafka.tls.unwrap().trusted_ca, company);
    assert_eq!(postgres.tls.unwrap().trusted_ca, company);
    let archive: pinpipe_config::Stream = read(&objects, "archive");
    let pinpipe_config::StreamSink::Archive(archive) = archive.sink else {
        panic!("not an archive");
    };
    assert_eq!(archive.zone.s3.trusted_ca, company);

    let batch: pinpipe_config::Batch = read(&objects, "batch");
    let proxy = Some(trusted("proxy"));
    assert_eq!(batch.kafka.tls.unwrap().trusted_ca, proxy);
    assert_eq!(batch.zone.s3.trusted_ca, proxy);
    let [serving, warehouse] = &batch.sinks[..] else {
        panic!("{:?}", batch.sinks)
    };
    let of_serving = serving.cassandra.as_ref().and_then(|sink| sink.tls.clone());
    let of_warehouse = warehouse
        .postgres
        .as_ref()
        .and_then(|sink| sink.tls.clone());
    for tls in [of_serving, of_warehouse] {
        assert_eq!(tls.unwrap().trusted_ca, proxy);
    }

    for (kind, name, secret) in [
        ("Deployment", "ingest", Some("company")),
        ("Deployment", "stream-live", Some("company")),
        ("Deployment", "archive", Some("company")),
        ("CronJob", "batch", Some("proxy")),
        // It has no TLS connections.
        ("Deployment", "emulator", None),
    ] {
        let spec = &find(&objects, kind, &format!("pinterest-{name}"))["spec"];
        let job = &spec["jobTemplate"]["spec"];
        let pod = &if kind == "CronJob" { job } else { spec }["template"]["spec"];
        let mut volumes = pod["volumes"].as_array().unwrap().iter();
        let volume = volumes.find(|volume| volume["name"] == "secret-trusted-ca");
        let found = volume.map(|volume| volume["secret"]["secretName"].as_str().unwrap());
        assert_eq!(found, secret, "{name}");
        if let Some(volume) = volume {
            let items = json!([{"key": "bundle.pem", "path": "ca.crt"}]);
            assert_eq!(volume["secret"]["items"], items, "{name}");
        }
    }
}
