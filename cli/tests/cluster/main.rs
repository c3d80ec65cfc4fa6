//! Commands that ask the API server, on one without nodes and without an operator.
#![allow(clippy::unwrap_used)]

mod inspection;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Namespace, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use pinpipe_crds::{PinterestPipeline, PinterestRun};
use pinpipe_plan::{
    build::{Observed, build, run_output},
    run::id,
    samples::{pipeline, validated, whole},
    validate::references,
};
use pinpipe_servers::stores;
use serde_json::{Value, json};

/// How long the API server may take to serve a new kind of object.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);
/// A value of every Secret.
const PLANTED: &str = "planted-value";

/// What a command ended with and printed.
#[derive(Debug)]
struct Printed {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn pinpipe(folder: &Path, arguments: &[&str]) -> Printed {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-pinpipe"))
        .args(arguments)
        .current_dir(folder)
        .env("KUBECONFIG", stores::kubernetes())
        .output()
        .unwrap();
    Printed {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn folder() -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

async fn client() -> Client {
    let kubeconfig = Kubeconfig::read_from(stores::kubernetes()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// Makes the sample pipeline and its objects as an operator would, and what a run leaves.
async fn set_up() {
    let client = client().await;
    let create = PostParams::default();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in pinpipe_crds::crds() {
        definitions.create(&create, &definition).await.unwrap();
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"metadata": {"name": "data"}});
    let namespace = serde_json::from_value(namespace).unwrap();
    namespaces.create(&create, &namespace).await.unwrap();

    let api: Api<PinterestPipeline> = Api::namespaced(client.clone(), "data");
    let begun = Instant::now();
    let mut resource = pipeline(whole());
    resource.metadata.uid = None;
    resource.metadata.generation = None;
    while let Err(error) = api.create(&create, &resource).await {
        assert!(begun.elapsed() < ESTABLISHED_WITHIN, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "why",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let status = json!({"status": {
        "conditions": [
            condition("Ready", "False", "Crashing"),
            condition("IngestReady", "False", "Crashing"),
        ],
        "batch": {"lastSuccessfulTime": "2026-01-01T00:00:00Z",
            "lastRun": {"name": "nightly", "outcome": "Succeeded", "read": 7}},
    }});
    let patch = PatchParams::default();
    api.patch_status("pinterest", &patch, &Patch::Merge(&status))
        .await
        .unwrap();

    let run = json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestRun",
        "metadata": {"name": "nightly"},
        "spec": {"pipelineRef": {"name": "pinterest"}, "batch": {}},
    });
    let runs: Api<PinterestRun> = Api::namespaced(client.clone(), "data");
    let mut run: PinterestRun = serde_json::from_value(run).unwrap();
    run.metadata.namespace = Some("data".to_owned());
    while let Err(error) = runs.create(&create, &run).await {
        assert!(begun.elapsed() < ESTABLISHED_WITHIN, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    leaves_answers(&client, &run).await;

    let secrets: Api<Secret> = Api::namespaced(client.clone(), "data");
    for (name, keys) in references(&resource.spec) {
        let values = keys.iter().map(|key| (key.clone(), Value::from(PLANTED)));
        let values: serde_json::Map<String, Value> = values.collect();
        let secret = json!({"metadata": {"name": name}, "stringData": values});
        let secret = serde_json::from_value(secret).unwrap();
        secrets.create(&create, &secret).await.unwrap();
    }
    let desired = build(&validated(whole()), &Observed::default());
    for object in [desired.record].into_iter().chain(desired.objects) {
        let objects: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), "data", &object.resource);
        let apply = PatchParams::apply("test").force();
        objects
            .patch(&object.name, &apply, &Patch::Apply(&object.body))
            .await
            .unwrap();
    }
}

/// What the operator makes for a run, with what its Job writes, and how the run ended.
async fn leaves_answers(client: &Client, run: &PinterestRun) {
    let job = json!({"metadata": {"name": id(run), "namespace": "data"}});
    let job: Job = serde_json::from_value(job).unwrap();
    // A Role and its binding follow.
    let objects = run_output(&job);
    let output = objects.first().unwrap();
    let outputs: Api<ConfigMap> = Api::namespaced(client.clone(), "data");
    let created = serde_json::from_value(output.body.clone()).unwrap();
    let create = PostParams::default();
    outputs.create(&create, &created).await.unwrap();
    let answer = json!({"popular_category_by_country": {"columns": ["country", "n"],
        "rows": [["Chad", 3]]}});
    let data = json!({"data": {"report": "{}", "answers": answer.to_string()}});
    let patch = PatchParams::default();
    outputs
        .patch(&output.name, &patch, &Patch::Merge(&data))
        .await
        .unwrap();
    let status = json!({"status": {"phase": "Succeeded", "action": "Batch", "job": output.name,
        "completionTime": "2026-01-01T00:00:00Z", "total": {"read": 7},
        "report": {"configMap": output.name}}});
    let runs: Api<PinterestRun> = Api::namespaced(client.clone(), "data");
    runs.patch_status("nightly", &patch, &Patch::Merge(&status))
        .await
        .unwrap();
}

/// A file with the sample pipeline, changed.
fn file(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut spec = whole();
    spec["broker"] = json!({"kafka": {"bootstrapServers": "kafka:9092"}});
    change(&mut spec);
    let resource = json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestPipeline",
        "metadata": {"name": "pinterest", "namespace": "data"},
        "spec": spec,
    });
    fs::write(folder.join(name), resource.to_string()).unwrap();
}

/// One test: the server takes longer to start than all of this.
#[tokio::test(flavor = "multi_thread")]
async fn commands_show_what_the_api_server_has() {
    let folder = folder();
    let unknown = pinpipe(&folder, &["status", "-n", "data"]);
    assert_eq!(unknown.status, Some(3), "{unknown:?}");
    assert!(unknown.stderr.contains("install pinpipe"), "{unknown:?}");
    Box::pin(set_up()).await;

    shows_status(&folder);
    shows_plans(&folder);
    shows_answers(&folder);
    creates_runs(&folder);
    asks_for_resets(&folder);
    writes_a_report(&folder);
    Box::pin(inspection::makes_pods(&folder)).await;
}

fn shows_status(folder: &Path) {
    let one = pinpipe(
        folder,
        &["status", "-n", "data", "pinterest", "--output", "json"],
    );
    assert_eq!(one.status, Some(1), "{one:?}");
    let status: Value = serde_json::from_str(&one.stdout).unwrap();
    let components = status["components"].as_array().unwrap();
    let names: Vec<_> = components
        .iter()
        .map(|it| it["component"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["emulator", "ingest", "stream-live", "archive"]);
    assert_eq!(components[1]["desiredPods"], 2);
    assert_eq!(status["lastRun"]["phase"], "Succeeded");
    assert_eq!(
        status["nextStep"],
        "kubectl pinpipe logs -n data pinterest ingest"
    );
    assert_eq!(status.get("notes"), None);

    let screen = pinpipe(folder, &["status", "-n", "data", "pinterest"]);
    assert!(screen.stdout.contains("IngestReady  False"), "{screen:?}");
    let list = pinpipe(folder, &["status", "-A"]);
    assert_eq!(list.status, Some(1), "{list:?}");
    assert!(
        list.stdout
            .contains("data       pinterest  False  Crashing"),
        "{list:?}"
    );
    let runs = pinpipe(folder, &["runs", "-n", "data", "--output", "csv"]);
    assert!(runs.stdout.contains("nightly,Batch,Succeeded"), "{runs:?}");

    for (arguments, sentence) in [
        (
            &["status", "-n", "data", "other"][..],
            "there is no pipeline other in namespace data",
        ),
        (&["status"], "namespace default has no pipeline"),
        (
            &["logs", "-n", "data", "pinterest", "ingest"],
            "has no pod of ingest",
        ),
    ] {
        let failed = pinpipe(folder, arguments);
        assert_eq!(failed.status, Some(3), "{failed:?}");
        assert!(failed.stderr.contains(sentence), "{failed:?}");
    }
}

fn shows_plans(folder: &Path) {
    file(folder, "same.json", |_| {});
    let same = pinpipe(folder, &["plan", "-f", "same.json"]);
    assert_eq!(same.status, Some(0), "{same:?}");
    assert_eq!(same.stdout, "data/pinterest doesn't change\n");

    file(folder, "changed.json", |spec| {
        spec["ingest"] = json!({"limits": {"maxConnections": 9}});
        spec["emulator"] = Value::Null;
    });
    let changed = pinpipe(folder, &["plan", "-f", "changed.json"]);
    assert_eq!(changed.status, Some(1), "{changed:?}");
    for line in [
        "  emulator: {} → not set\n",
        "  delete Deployment pinterest-emulator\n",
        "  restart ingest: configuration: maxConnections\n",
        "  stop emulator\n",
    ] {
        assert!(changed.stdout.contains(line), "{line}: {}", changed.stdout);
    }

    file(folder, "refused.json", |spec| {
        spec["archive"]["bucket"] = json!("other");
    });
    let refused = pinpipe(folder, &["plan", "-f", "refused.json"]);
    assert_eq!(refused.status, Some(2), "{refused:?}");
    let both = "  spec.archive.bucket: \"raw\" → \"other\": ";
    assert!(refused.stdout.contains(both), "{refused:?}");

    let text = fs::read_to_string(folder.join("same.json")).unwrap();
    let mut paused: Value = serde_json::from_str(&text).unwrap();
    paused["metadata"]["annotations"] = json!({"pinpipe.dev/paused": "true"});
    fs::write(folder.join("paused.json"), paused.to_string()).unwrap();
    let paused = pinpipe(folder, &["plan", "-f", "paused.json"]);
    assert_eq!(paused.status, Some(1), "{paused:?}");
    for line in [
        "annotations:\n  pinpipe.dev/paused: not set → \"true\"\n",
        "the pipeline is paused",
    ] {
        assert!(paused.stdout.contains(line), "{line}: {}", paused.stdout);
    }

    let run = "{apiVersion: pinpipe.dev/v1alpha1, kind: PinterestRun, metadata: {name: pinterest, \
               namespace: data}, spec: {pipelineRef: {name: pinterest}, batch: {}}}";
    fs::write(folder.join("both.yaml"), format!("{text}\n---\n{run}\n")).unwrap();
    let both = pinpipe(folder, &["plan", "-f", "both.yaml"]);
    assert_eq!(both.status, Some(0), "{both:?}");
    assert_eq!(both.stdout, "data/pinterest doesn't change\n");

    fs::write(
        folder.join("new.json"),
        text.replace("\"pinterest\"", "\"second\""),
    )
    .unwrap();
    let new = pinpipe(folder, &["plan", "-f", "new.json", "--output", "json"]);
    assert_eq!(new.status, Some(1), "{new:?}");
    let plans: Value = serde_json::from_str(&new.stdout).unwrap();
    assert_eq!(
        (&plans[0]["new"], &plans[0]["notes"]),
        (&json!(true), &json!([]))
    );
}

fn shows_answers(folder: &Path) {
    let text = pinpipe(folder, &["answers", "-n", "data"]);
    assert_eq!(text.status, Some(0), "{text:?}");
    assert!(
        text.stdout
            .contains("popular_category_by_country\nCOUNTRY  N\nChad     3\n")
    );
    let question = "popular_category_by_country";
    let csv = [
        "answers",
        "-n",
        "data",
        "--question",
        question,
        "--output",
        "csv",
    ];
    assert_eq!(pinpipe(folder, &csv).stdout, "country,n\nChad,3\n");
}

fn creates_runs(folder: &Path) {
    for arguments in [
        &["run", "-n", "data", "pinterest", "--name", "mine", "--full"][..],
        &[
            "run",
            "-n",
            "data",
            "pinterest",
            "--from",
            "2026-01-31T00:00:00Z",
            "--sink",
            "live",
        ],
        &[
            "deadletters",
            "redrive",
            "-n",
            "data",
            "pinterest",
            "--reason",
            "too-large",
        ],
    ] {
        let created = pinpipe(folder, arguments);
        assert_eq!(created.status, Some(0), "{created:?}");
        assert!(created.stdout.starts_with("run "), "{created:?}");
    }
    let runs = pinpipe(folder, &["runs", "-n", "data", "--output", "json"]);
    let runs: Value = serde_json::from_str(&runs.stdout).unwrap();
    let names: Vec<_> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["name"].as_str())
        .collect();
    let begins = |begin: &str| names.iter().flatten().any(|name| name.starts_with(begin));
    for begin in ["mine", "pinterest-backfill-", "pinterest-redrive-"] {
        assert!(begins(begin), "{begin}: {names:?}");
    }
    for (arguments, status, sentence) in [
        (
            &["run", "-n", "data", "pinterest", "--name", "mine"][..],
            3,
            "already exists",
        ),
        (
            &["run", "-n", "data", "pinterest", "--from", "yesterday!"],
            3,
            "RFC 3339",
        ),
        (
            &["run", "-n", "data", "other"],
            3,
            "there is no pipeline other",
        ),
    ] {
        let refused = pinpipe(folder, arguments);
        assert_eq!(refused.status, Some(status), "{refused:?}");
        assert!(refused.stderr.contains(sentence), "{refused:?}");
    }
}

fn asks_for_resets(folder: &Path) {
    let arguments = ["reset", "-n", "data", "pinterest", "live", "--kind", "Pin"];
    let asked = pinpipe(folder, &[&arguments[..], &["--to", "earliest"]].concat());
    assert_eq!(asked.status, Some(0), "{asked:?}");
    assert!(
        asked.stdout.starts_with("run pinterest-reset-"),
        "{asked:?}"
    );
    let refused = pinpipe(folder, &[&arguments[..], &["--to", "yesterday"]].concat());
    assert_eq!(refused.status, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("RFC 3339"), "{refused:?}");
}

fn writes_a_report(folder: &Path) {
    let arguments = ["report", "-n", "data", "--folder", "bundle"];
    let report = pinpipe(folder, &arguments);
    assert_eq!(report.status, Some(0), "{report:?}");
    let files = fs::read_dir(folder.join("bundle")).unwrap();
    let texts = files.map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, fs::read_to_string(file.path()).unwrap())
    });
    let texts: Vec<(String, String)> = texts.collect();
    for name in [
        "pipeline.yaml",
        "deployments.yaml",
        "cronjobs.yaml",
        "versions.txt",
    ] {
        assert!(
            texts
                .iter()
                .any(|(file, text)| file == name && !text.is_empty()),
            "{name}"
        );
    }
    let planted = texts.iter().find(|(_, text)| text.contains(PLANTED));
    assert_eq!(planted, None);
    let again = pinpipe(folder, &arguments);
    assert_eq!(again.status, Some(2), "{again:?}");
    assert!(again.stderr.contains("bundle: File exists"), "{again:?}");
}
