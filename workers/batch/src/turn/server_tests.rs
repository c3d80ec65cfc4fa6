//! Whole runs, with real servers.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1, core::v1::ConfigMap};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::time::timeout;

use super::*;
use crate::testing::{self, TestDir, json_pin};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_started_again_ends_with_the_same_words() {
    let (client, folder) = (testing::kubernetes().await, TestDir::new());
    let mut config = testing::pipeline("again");
    config.scratch_dir = folder.path().to_owned();
    testing::post(
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
        let (work, client) = (Work::Batch(Request::Incremental), client.clone());
        let ended = execute(&config, client, name, &work, output, &stop).await;
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
    let (work, stop) = (Work::Batch(Request::Full), CancellationToken::new());
    let output = Some("again-batch-output");
    let failed = execute(&config, client.clone(), "third", &work, output, &stop).await;
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
