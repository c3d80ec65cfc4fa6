//! What a run writes into a `ConfigMap` of a real API server.

use std::collections::BTreeMap;

use kube::api::{ObjectMeta, PostParams};

use super::*;
use crate::{progress::Step, testing};

/// The object's data, once it is as it is waited for.
async fn data(
    api: &Api<ConfigMap>,
    name: &str,
    is_there: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, String> {
    let reading = async {
        loop {
            let data = api.get(name).await.unwrap().data.unwrap_or_default();
            if is_there(&data) {
                return data;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), reading).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_writes_how_far_it_is_and_how_it_ended() {
    let client = testing::kubernetes().await;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "data");
    let empty = ConfigMap {
        metadata: ObjectMeta {
            name: Some("written".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    api.create(&PostParams::default(), &empty).await.unwrap();
    let progress = Progress::default();
    progress.step(Step::Clean);
    progress.read(7);
    let output = Output::new(client, "data", "written", "nightly-0123456789");
    let reporting = output.report(progress);
    let shown = data(&api, "written", |data| data.contains_key("progress")).await;
    assert_eq!(shown["run"], "nightly-0123456789");
    assert!(
        shown["progress"].starts_with(r#"{"read":7,"since":""#),
        "{shown:?}"
    );
    assert!(shown["progress"].contains(r#""step":"Clean""#), "{shown:?}");
    let report = json!({"run": "nightly-0123456789", "read": 7, "answers": {}});
    reporting.end(report).await;
    let ended = data(&api, "written", |data| data.contains_key("report")).await;
    let expected = [
        ("run", "nightly-0123456789"),
        ("report", r#"{"read":7,"run":"nightly-0123456789"}"#),
        ("answers", "{}"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(ended, expected.into());

    let report = json!({"run": "nightly-0123456789", "message": "no"});
    output.end(report).await;
    let ended = data(&api, "written", |data| !data.contains_key("answers")).await;
    assert!(ended["report"].contains(r#""message":"no""#), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_written_is_explained_in_the_server_s_words() {
    let output = Output::new(testing::kubernetes().await, "data", "missing", "a");
    let problem = output.patch(&json!({"run": "a"})).await.unwrap_err();
    assert_eq!(
        problem.to_string(),
        "the ConfigMap missing can't be written: configmaps \"missing\" not found (the operator \
         makes it: check that it runs)"
    );
    assert!(problem.is_final);
    output.end(json!({"run": "a"})).await;
}
