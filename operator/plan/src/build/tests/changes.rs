//! Which objects change with a spec, a reset or a Secret.

use pinpipe_config::{Reset, ResetTo};
use serde_json::{Value, json};

use super::{objects, with};
use crate::{
    build::{Object, Observed, build},
    component::Component,
    samples::{all_there, images, pipeline, validated, whole},
    validate::validate,
};

/// Kinds and names of objects that differ; `ConfigMaps` without the hash in their names.
fn changed(before: &[Object], after: &[Object]) -> Vec<String> {
    let mut changed: Vec<String> = before
        .iter()
        .filter(|object| !after.contains(object))
        .chain(after.iter().filter(|object| !before.contains(object)))
        .map(|object| match object.resource.kind.as_str() {
            "ConfigMap" => format!("ConfigMap/{}", &object.name[..object.name.len() - 11]),
            kind => format!("{kind}/{}", object.name),
        })
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

/// A change of the whole spec.
type Change = fn(&mut Value);

/// A change of the spec, and the objects that it changes.
#[test]
fn a_change_of_a_component_changes_only_its_objects() {
    let before = with(|_| ());
    let cases: [(Change, &[&str]); 19] = [
        (
            |s| s["ingest"] = json!({"replicas": 3}),
            &["Deployment/pinterest-ingest"],
        ),
        (
            |s| s["ingest"] = json!({"replicas": 1}),
            &[
                "Deployment/pinterest-ingest",
                "PodDisruptionBudget/pinterest-ingest",
            ],
        ),
        (
            |s| s["ingest"] = json!({"autoscaling": {"maxReplicas": 9}}),
            &[
                "Deployment/pinterest-ingest",
                "HorizontalPodAutoscaler/pinterest-ingest",
            ],
        ),
        (
            |s| s["stream"]["sinks"][0]["autoscaling"] = json!({"targetLag": 1000}),
            &[
                "Deployment/pinterest-stream-live",
                "HorizontalPodAutoscaler/pinterest-stream-live",
                "PodDisruptionBudget/pinterest-stream-live",
            ],
        ),
        (
            |s| s["archive"]["template"] = json!({"nodeSelector": {"disk": "fast"}}),
            &["Deployment/pinterest-archive"],
        ),
        (
            |s| s["emulator"] = json!({"template": {"logLevel": "Warn"}}),
            &["Deployment/pinterest-emulator"],
        ),
        (
            |s| s["emulator"] = json!({"source": {"synthetic": {"seed": 9}}}),
            &[
                "ConfigMap/pinterest-emulator",
                "Deployment/pinterest-emulator",
            ],
        ),
        (
            |s| s["stream"]["sinks"][0]["postgres"]["schema"] = json!("live"),
            &[
                "ConfigMap/pinterest-stream-live",
                "Deployment/pinterest-stream-live",
            ],
        ),
        (
            |s| s["archive"]["rotate"] = json!({"records": 5}),
            &[
                "ConfigMap/pinterest-archive",
                "Deployment/pinterest-archive",
            ],
        ),
        (
            |s| s["stream"]["sinks"][0]["postgres"]["writeMode"] = json!("Append"),
            &[
                "ConfigMap/pinterest-stream-live",
                "Deployment/pinterest-stream-live",
            ],
        ),
        (
            |s| s["archive"]["compression"] = json!("Zstd"),
            &[
                "ConfigMap/pinterest-archive",
                "Deployment/pinterest-archive",
            ],
        ),
        (
            |s| s["batch"]["quality"] = json!({"maxRejected": "0.5%"}),
            &["ConfigMap/pinterest-batch", "CronJob/pinterest-batch"],
        ),
        (
            |s| s["batch"]["scratchSize"] = json!("20Gi"),
            &["CronJob/pinterest-batch"],
        ),
        (
            |s| s["batch"]["deadline"] = json!("2h"),
            &["CronJob/pinterest-batch"],
        ),
        (
            |s| s["batch"]["schedule"] = json!("@hourly"),
            &["CronJob/pinterest-batch"],
        ),
        (
            |s| s["batch"]["sinks"][0]["cassandra"]["keyspace"] = json!("k"),
            &["ConfigMap/pinterest-batch", "CronJob/pinterest-batch"],
        ),
        (
            |s| s["stream"]["sinks"][0]["template"] = json!({"env": [{"name": "A", "value": "b"}]}),
            &["Deployment/pinterest-stream-live"],
        ),
        (
            |s| s["suspend"] = json!(true),
            &[
                "CronJob/pinterest-batch",
                "Deployment/pinterest-archive",
                "Deployment/pinterest-emulator",
                "Deployment/pinterest-ingest",
                "Deployment/pinterest-stream-live",
            ],
        ),
        (
            |s| {
                s["broker"] = json!({"kafka": {
                    "bootstrapServers": "kafka:9092",
                    "topics": {"partitions": 9},
                }});
            },
            &[],
        ),
    ];
    for (number, (change, changes)) in cases.into_iter().enumerate() {
        let after = with(change);
        assert_eq!(changed(&before, &after), changes, "case {number}");
    }
}

#[test]
fn a_reset_rolls_only_the_worker_of_its_sink() {
    let pipeline = validated(whole());
    let before = objects(&pipeline);
    for component in [Component::stream("live"), Component::Archive] {
        let reset = Reset {
            id: "r".to_owned(),
            topics: Vec::new(),
            to: ResetTo::Latest,
        };
        let observed = Observed {
            reset: Some((component.clone(), reset)),
            ..Observed::default()
        };
        let after = build(&pipeline, &observed).objects;
        let changes =
            ["ConfigMap", "Deployment"].map(|kind| format!("{kind}/pinterest-{component}"));
        assert_eq!(changed(&before, &after), changes);
    }
}

#[test]
fn without_a_secret_new_pods_wait_and_running_ones_stay() {
    let pipeline = pipeline(whole());
    let before = objects(&validate(&pipeline, &all_there(&pipeline), &images()).unwrap());
    let mut found = all_there(&pipeline);
    found.secrets.retain(|(name, _), _| name != "s3");
    let without = objects(&validate(&pipeline, &found, &images()).unwrap());
    assert_eq!(
        changed(&before, &without),
        ["CronJob/pinterest-batch", "Deployment/pinterest-archive"]
    );

    found.deployed = ["pinterest-archive", "pinterest-batch"]
        .map(str::to_owned)
        .into();
    let kept = objects(&validate(&pipeline, &found, &images()).unwrap());
    assert_eq!(changed(&before, &kept), [""; 0]);
}
