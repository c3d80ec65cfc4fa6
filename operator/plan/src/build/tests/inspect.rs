//! The pod of an inspection.

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::CronJob, core::v1::Pod};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::objects;
use crate::{
    build::{Inspection, InspectionPod, Object, inspection_pod, registry_and_tag},
    samples::{pipeline, validated, whole},
};

fn of_kind<T: serde::de::DeserializeOwned>(objects: &[Object], kind: &str) -> Vec<T> {
    let found = objects.iter().filter(|object| object.resource.kind == kind);
    found
        .map(|object| serde_json::from_value(object.body.clone()).unwrap())
        .collect()
}

/// The pod for a pipeline with this spec, with a change of what is asked for.
fn pod_of(spec: &Value, change: impl FnOnce(&mut Inspection<'_>)) -> Result<InspectionPod, String> {
    let objects = objects(&validated(spec.clone()));
    let cron_jobs: Vec<CronJob> = of_kind(&objects, "CronJob");
    let deployments: Vec<Deployment> = of_kind(&objects, "Deployment");
    let command = ["trace", "--", "pin", "7"].map(ToOwned::to_owned);
    let mut inspection = Inspection {
        pipeline: &pipeline(spec.clone()),
        cron_job: cron_jobs.first(),
        deployments: &deployments,
        sink: None,
        image: None,
        memory: "512Mi",
        command: &command,
        deadline_seconds: 300,
    };
    change(&mut inspection);
    inspection_pod(&inspection)
}

fn value(pod: &Pod) -> Value {
    serde_json::to_value(pod).unwrap()
}

/// Names and folders of the pod's mounts.
fn folders(pod: &Value) -> Vec<(String, String)> {
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mounts = mounts.unwrap().iter();
    mounts
        .map(|mount| (text(&mount["name"]), text(&mount["mountPath"])))
        .collect()
}

/// A second sink, of another database.
fn two_databases() -> Value {
    let mut spec = whole();
    let other = json!({"name": "other", "postgres": {"schema": "o",
        "urlSecretRef": {"name": "other", "key": "uri"}}});
    let sinks = spec["stream"]["sinks"].as_array_mut().unwrap();
    sinks.push(other);
    spec
}

#[test]
fn the_pod_has_the_configurations_and_secrets_of_all_components() {
    let InspectionPod { pod, left_out } = pod_of(&whole(), |_| {}).unwrap();
    assert_eq!(left_out, Vec::<String>::new());
    let pod = value(&pod);
    let folders = folders(&pod);
    let expected = [
        ("tmp", "/tmp"),
        ("config-0", "/etc/pinpipe/inspect/batch"),
        ("config-1", "/etc/pinpipe/inspect/archive"),
        ("secret-postgres", "/etc/pinpipe/secrets/postgres"),
        ("config-2", "/etc/pinpipe/inspect/sinks/live"),
    ];
    for (name, folder) in expected {
        let found = folders.iter().filter(|(volume, _)| volume == name);
        let found: Vec<_> = found.map(|(_, folder)| folder.as_str()).collect();
        assert_eq!(found, [folder], "{name}: {folders:?}");
    }
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), folders.len(), "{volumes:?}");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "ghcr.io/pinpipe/batch:0.1.0");
    let quiet = json!([{"name": "RUST_LOG", "value": "warn"}]);
    assert_eq!(container["env"], quiet);
    let args = json!([
        "inspect",
        "--folder",
        "/etc/pinpipe/inspect",
        "trace",
        "--",
        "pin",
        "7"
    ]);
    assert_eq!(container["args"], args);
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 300);
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("PinterestPipeline"), &json!("0001"))
    );
}

#[test]
fn nothing_of_the_pipeline_selects_the_pod() {
    let mut spec = whole();
    spec["networkPolicy"] = json!({});
    spec["ingest"] = json!({"replicas": 3});
    let labels = pod_of(&spec, |_| {}).unwrap().pod.labels().clone();
    let is_selected = |selector: &Value| {
        let mut pairs = selector.as_object().unwrap().iter();
        pairs.all(|(key, wanted)| labels.get(key).map(String::as_str) == wanted.as_str())
    };
    let mut selectors = 0;
    for Object { body, name, .. } in objects(&validated(spec)) {
        let of_object = &body["spec"];
        for selector in [
            &of_object["selector"]["matchLabels"],
            &of_object["podSelector"]["matchLabels"],
            &of_object["selector"],
        ] {
            if selector
                .as_object()
                .is_some_and(|it| it.values().all(Value::is_string))
            {
                selectors += 1;
                assert!(!is_selected(selector), "{name}: {selector}");
            }
        }
    }
    assert!(selectors > 8, "{selectors}");
}

#[test]
fn what_is_set_for_pods_is_kept() {
    let mut spec = whole();
    spec["template"] = json!({
        "labels": {"team": "pins"},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "nodeSelector": {"disk": "ssd"},
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "reader",
        "logLevel": "Debug",
    });
    let pod = value(&pod_of(&spec, |_| {}).unwrap().pod);
    assert_eq!(pod["metadata"]["labels"]["team"], "pins");
    assert_eq!(pod["spec"]["nodeSelector"]["disk"], "ssd");
    assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "registry");
    assert_eq!(pod["spec"]["serviceAccountName"], "reader");
    let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    let names: Vec<_> = env.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["RUST_LOG", "HTTPS_PROXY"]);
}

#[test]
fn without_batch_runs_the_image_is_beside_the_stream_workers() {
    let mut spec = whole();
    spec["batch"] = Value::Null;
    let pod = value(&pod_of(&spec, |_| {}).unwrap().pod);
    assert_eq!(
        pod["spec"]["containers"][0]["image"],
        "ghcr.io/pinpipe/batch:0.1.0"
    );
    let own = pod_of(&spec, |inspection| inspection.image = Some("r.io/b:2"));
    let own = value(&own.unwrap().pod);
    assert_eq!(own["spec"]["containers"][0]["image"], "r.io/b:2");
    let none = pod_of(&spec, |inspection| inspection.deployments = &[]);
    assert!(none.unwrap_err().contains("nothing to look into"));

    for (image, parts) in [
        ("r.io:5000/p/stream:1@sha256:ab", Some(("r.io:5000/p", "1"))),
        ("r.io/pins-stream:1", None),
        ("stream", None),
    ] {
        assert_eq!(registry_and_tag(image, "stream"), parts);
    }
}

#[test]
fn sinks_of_several_databases_are_looked_at_one_by_one() {
    let all = pod_of(&two_databases(), |_| {}).unwrap();
    let [left_out] = all.left_out.as_slice() else {
        panic!("{:?}", all.left_out)
    };
    assert!(
        left_out.starts_with("stream-other is left out: ") && left_out.ends_with("--sink other"),
        "{left_out}"
    );
    let mounted = folders(&value(&all.pod));
    assert!(
        !mounted
            .iter()
            .any(|(_, folder)| folder.ends_with("sinks/other"))
    );

    let one = pod_of(&two_databases(), |inspection| {
        inspection.sink = Some("other");
    })
    .unwrap();
    assert_eq!(one.left_out, Vec::<String>::new());
    let mounted = folders(&value(&one.pod));
    assert!(
        mounted
            .iter()
            .any(|(_, folder)| folder.ends_with("sinks/other"))
    );
    let none = pod_of(&whole(), |inspection| inspection.sink = Some("none"));
    assert!(
        none.unwrap_err()
            .contains("no Deployment of a stream sink none")
    );
}
