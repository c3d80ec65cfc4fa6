//! Whole runs, with real servers.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1, core::v1::ConfigMap};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};
use tokio::time::timeout;

use super::*;
use crate::testing::{self, TestDir, archive_pins, json_pin};

/// Posts pins, archives them, and commits the archive's position behind them.
async fn post(config: &Batch, pins: &[String]) {
    testing::create_topics(config).await;
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.kafka.bootstrap_servers)
        .set("group.id", &config.archive_group);
    let producer: FutureProducer = client.create().unwrap();
    for pin in pins {
        let record = FutureRecord::<(), _>::to(&config.topics.pin.name).payload(pin);
        let sent = producer.send(record, Duration::from_secs(10)).await;
        sent.unwrap();
    }
    let store = Store::open(&config.zone).await.unwrap();
    archive_pins(config, &store, 0, pins, None).await;
    let consumer: BaseConsumer = client.create().unwrap();
    let mut ends = TopicPartitionList::new();
    let end = Offset::Offset(i64::try_from(pins.len()).unwrap());
    ends.add_partition_offset(&config.topics.pin.name, 0, end)
        .unwrap();
    for topic in [&config.topics.geo, &config.topics.user] {
        ends.add_partition_offset(&topic.name, 0, Offset::Offset(0))
            .unwrap();
    }
    tokio::task::block_in_place(|| consumer.commit(&ends, CommitMode::Sync)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_started_again_ends_with_the_same_words() {
    let (client, folder) = (testing::kubernetes().await, TestDir::new());
    let mut config = testing::pipeline("again");
    config.scratch_dir = folder.path().to_owned();
    post(
        &config,
        &[json_pin("a", "A"), "{}".to_owned(), json_pin("b", "B")],
    )
    .await;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "data");
    let output = ConfigMap {
        metadata: ObjectMeta {
            name: Some("again-batch-output".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    api.create(&PostParams::default(), &output).await.unwrap();
    let run = async |name: &str| {
        let (stop, output) = (CancellationToken::new(), Some("again-batch-output"));
        let (request, client) = (Request::Incremental, client.clone());
        let ended = execute(&config, client, name, &request, output, &stop).await;
        let written = api.get("again-batch-output").await.unwrap();
        (ended, written.data.unwrap_or_default())
    };

    let (first, written) = run("first-0123456789").await;
    let first = first.unwrap().termination_message();
    let counts = r#""counts":[{"kind":"Pin","read":3,"clean":2,"repaired":0,"rejected":1,"#;
    assert!(first.contains(counts), "{first}");
    let place = r#""report":"s3://pipeline-again/runs/data.again/first-0123456789/report.json""#;
    assert!(first.contains(place), "{first}");
    let report: Value = serde_json::from_str(&written["report"]).unwrap();
    assert_eq!(
        (&report["run"], &report["read"]),
        (&json!("first-0123456789"), &json!(3))
    );
    let answers: Value = serde_json::from_str(&written["answers"]).unwrap();
    assert_eq!(answers.as_object().unwrap().len(), 8, "{answers}");

    let second = run("second-0123456789").await.0.unwrap();
    assert_eq!((&*second.run, second.read), ("second-0123456789", 0));
    let (again, written_again) = run("first-0123456789").await;
    assert_eq!(again.unwrap().termination_message(), first);
    assert_eq!(written_again, written);

    config.zone.prefix = "elsewhere".to_owned();
    let (request, stop) = (Request::Full, CancellationToken::new());
    let output = Some("again-batch-output");
    let failed = execute(&config, client.clone(), "third", &request, output, &stop).await;
    let failed = failed.unwrap_err().to_string();
    let written = api.get("again-batch-output").await.unwrap().data.unwrap();
    assert_eq!(written["run"], "third");
    assert!(!written.contains_key("answers"), "{written:?}");
    let report: Value = serde_json::from_str(&written["report"]).unwrap();
    assert_eq!(report["outcome"], "Failed");
    assert!(
        report["message"].as_str().unwrap().contains(&failed),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_another_as_long_as_that_one_works() {
    let leases: Api<v1::Lease> = Api::namespaced(testing::kubernetes().await, "data");
    let acquire = |identity| {
        let leases = leases.clone();
        async move { lease::acquire(leases, "patient", identity, Some(Duration::ZERO)).await }
    };
    let first = acquire("first").await.unwrap();
    let waiting = tokio::spawn(acquire("second"));
    let version = async || {
        leases
            .get("patient")
            .await
            .unwrap()
            .metadata
            .resource_version
    };
    let begun = version().await;
    let renewed = async {
        while version().await == begun {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), renewed).await.unwrap();
    assert!(!waiting.is_finished(), "it asks every second");
    first.release().await;
    let second = timeout(Duration::from_secs(30), waiting).await.unwrap();
    second.unwrap().unwrap().release().await;
}
