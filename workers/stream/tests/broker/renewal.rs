//! Secrets that are renewed while a worker runs: the same process goes on with the new ones, and
//! with the old ones while the new ones can't be used.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use pinpipe_config::Kafka;
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::{admin::Admin, failure::Refusal, kafka::Access, outage::Outage};
use pinpipe_servers::{
    acls,
    process::Process,
    stores::{folder, port, postgres, s3_server},
};
use pinpipe_stream::{
    dead_letter::{Acknowledgement as _, DeadLetters, Pending, Writer as _},
    log::Topic,
    sink::Source,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use crate::{
    pin,
    pipeline::{Pipeline, USER, Worker, broker, eventually},
};

/// A mounted Secret.
struct Secret(PathBuf);

impl Secret {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let secret = Self(folder().join(name));
        fs::create_dir_all(&secret.0).unwrap();
        for (name, content) in files {
            secret.renew(name, content);
        }
        secret
    }

    fn renew(&self, name: &str, content: &str) {
        let new = self.0.join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.0.join(name)).unwrap();
    }
}

async fn is_unusable(worker: &Worker, field: &str) {
    let says = format!("200 degraded: SecretUnusable: {field}: ");
    eventually(
        "the worker says that the Secret can't be used",
        async || worker.readyz().contains(&says),
    )
    .await;
}

async fn logs(pipeline: &Pipeline, line: &str) {
    eventually(line, async || pipeline.log().contains(line)).await;
}

async fn stores_pin(pipeline: &Pipeline, key: &str) {
    pipeline.produce("pin", &pin(key, "t")).await;
    eventually(&format!("{key} is stored"), async || {
        pipeline.title(key).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_password_of_the_broker_is_taken_up_by_the_same_process() {
    let mut pipeline = Pipeline::new("password", &[]).await;
    let (user, first) = USER;
    let secret = Secret::new("password-kafka", &[("username", user), ("password", "\n")]);
    pipeline.kafka = format!(
        "{{bootstrapServers: \"127.0.0.1:{}\", authentication: {{mechanism: scramSha512, \
         credentialsDir: {}}}}}",
        broker().sasl,
        secret.0.display()
    );
    let field = "spec.broker.kafka.authentication";
    let mut worker = pipeline.worker();
    let says = format!("not ready: SecretUnusable: {field}: ");
    eventually("the worker waits for a password", async || {
        worker.readyz().contains(&says)
    })
    .await;
    secret.renew("password", "wrong");
    eventually("the worker says that no broker takes it", async || {
        let says = worker.readyz();
        says.starts_with("200 degraded: BrokerUnavailable: ")
            && says.contains("SASL authentication error")
    })
    .await;
    secret.renew("password", first);
    pipeline.produce("pin", "rejected with the first").await;
    stores_pin(&pipeline, "first").await;

    secret.renew("password", "\n");
    is_unusable(&worker, field).await;
    stores_pin(&pipeline, "unusable").await;

    acls::set_password(broker().clients, user, "second");
    logs(&pipeline, "Authentication failed").await;
    secret.renew("password", "second");
    logs(&pipeline, &format!("{field}: renewed credentials taken up")).await;
    pipeline.produce("pin", "rejected with the second").await;
    stores_pin(&pipeline, "second").await;
    let letters = pipeline.dead_letters("pin", 2).await;
    let letters: Vec<_> = letters.iter().map(|(value, ..)| value.as_str()).collect();
    assert_eq!(
        letters,
        ["rejected with the first", "rejected with the second"]
    );
    eventually("the worker is ready", async || {
        worker.readyz().contains("200 ready")
    })
    .await;
    worker.must_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_url_of_the_database_is_taken_up_by_the_same_process() {
    let mut pipeline = Pipeline::new("url", &[]).await;
    let url = |password: &str| {
        let port = postgres();
        format!("postgresql://renewed:{password}@127.0.0.1:{port}/postgres")
    };
    let rules = folder().join("postgres/pg_hba.conf");
    let others = fs::read_to_string(&rules).unwrap();
    let rule = "host all renewed 127.0.0.1/32 scram-sha-256";
    fs::write(&rules, format!("{rule}\n{others}")).unwrap();
    let user = "SELECT pg_reload_conf(); \
         CREATE ROLE renewed LOGIN PASSWORD 'first'; \
         CREATE SCHEMA url AUTHORIZATION renewed";
    pipeline.sql.batch_execute(user).await.unwrap();
    let secret = Secret::new("url-postgres", &[("url", &url("first"))]);
    pipeline.sink = Pipeline::postgres(pipeline.name, &secret.0.join("url"));
    let end_connections = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE usename = 'renewed'";
    let field = "spec.stream.sinks, live: postgres.urlSecretRef";
    let mut worker = pipeline.worker();
    stores_pin(&pipeline, "first").await;

    secret.renew("url", "no URL");
    is_unusable(&worker, field).await;
    pipeline.sql.batch_execute(end_connections).await.unwrap();
    stores_pin(&pipeline, "unusable").await;

    let change = format!("ALTER ROLE renewed PASSWORD 'second'; {end_connections}");
    pipeline.sql.batch_execute(&change).await.unwrap();
    pipeline.produce("pin", &pin("refused", "t")).await;
    logs(&pipeline, "password authentication failed").await;
    secret.renew("url", &url("second"));
    logs(&pipeline, &format!("{field}: renewed credentials taken up")).await;
    stores_pin(&pipeline, "second").await;
    assert!(pipeline.title("refused").await.is_some());
    eventually("the worker is ready", async || {
        worker.readyz().contains("200 ready")
    })
    .await;
    worker.must_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_keys_of_the_object_store_are_taken_up_by_the_same_process() {
    let mut pipeline = Pipeline::new("keys", &[]).await;
    let own = folder().join("keys-s3");
    fs::create_dir_all(&own).unwrap();
    let server = s3_server(&own, true).unwrap();
    let mut process = Process::start(&mut server.prepare().unwrap(), own.join("log")).unwrap();
    process.wait_until(|| server.is_ready()).unwrap();
    let keys = [
        ("accessKeyId", "local"),
        ("secretAccessKey", "local-secret"),
    ];
    let secret = Secret::new("keys-secret", &keys);
    pipeline.sink = format!(
        "!archive {{zone: {{bucket: keys, prefix: topics, s3: {{endpoint: \
         \"http://127.0.0.1:{}\", region: us-east-1, credentialsDir: {}}}}}, rotate: {{bytes: \
         1000000, records: 1, intervalSeconds: 1}}}}",
        server.ports.gateway,
        secret.0.display()
    );
    let field = "spec.archive.s3.credentialsSecretRef";
    let mut worker = pipeline.worker();
    let stores = async |records: u64| {
        pipeline.produce("pin", &pin("k", "t")).await;
        eventually("the record is archived", async || {
            worker.committed() >= records
        })
        .await;
    };
    stores(1).await;

    secret.renew("secretAccessKey", "");
    is_unusable(&worker, field).await;
    stores(2).await;

    server.write_identity("local", "second").unwrap();
    let reload = Command::new("kill")
        .args(["-HUP", &process.id().to_string()])
        .status();
    assert!(reload.unwrap().success());
    // Its old keys are refused.
    pipeline.produce("pin", &pin("k", "t")).await;
    logs(&pipeline, "SignatureDoesNotMatch").await;
    secret.renew("secretAccessKey", "second");
    logs(&pipeline, &format!("{field}: renewed credentials taken up")).await;
    stores(4).await;
    worker.must_run();
}

#[tokio::test]
async fn dead_letters_that_no_broker_takes_are_reported_and_sent_with_the_renewed_secret() {
    let pipeline = Pipeline::new("way", &[]).await;
    let access = |port: u16| {
        Access::read(&Kafka {
            bootstrap_servers: format!("127.0.0.1:{port}"),
            ..Kafka::default()
        })
    };
    let (renewed, current) = watch::channel(access(port()).unwrap());
    let readiness = Admin::new().readiness();
    let outage = Outage::new(readiness.clone(), "DeadLettersUnavailable");
    let up = Gauge::default();
    let dead_letters = DeadLetters::new(current, "way", up.clone(), outage);
    let topic = Topic {
        kind: Kind::Pin,
        name: format!("{}.pin", pipeline.name),
        cluster_id: "c".into(),
        id: "t".into(),
    };
    let source = Source {
        topic: Arc::new(topic),
        partition: 0,
    };
    // More than a producer's queue takes: some letters are in it, others wait for room.
    let value = vec![b'x'; 900_000];
    let send = |offset| {
        let position = Order {
            time: 1,
            partition: 0,
            offset,
        };
        let letter = ((&Refusal::new("c", "s")).into(), None);
        let (topic, record) = (format!("{}.pin.dlq", pipeline.name), (None, Some(&*value)));
        dead_letters.send(&topic, &source, position, record, letter, None)
    };
    let pending: Vec<Pending> = (0..60).map(send).collect();
    eventually("it is said that no broker takes them", async || {
        let says = readiness.degradation();
        says.is_some_and(|says| {
            says.starts_with("DeadLettersUnavailable: ") && says.contains("Connection refused")
        })
    })
    .await;
    assert_eq!(up.get(), 0);
    renewed.send_replace(access(broker().clients).unwrap());
    for (offset, mut pending) in pending.into_iter().enumerate() {
        let acknowledged = tokio::time::timeout(Duration::from_mins(1), pending.acknowledged());
        acknowledged
            .await
            .unwrap_or_else(|_| panic!("the dead letter of the offset {offset} is not written"));
    }
    assert_eq!((readiness.degradation(), up.get()), (None, 1));
}
