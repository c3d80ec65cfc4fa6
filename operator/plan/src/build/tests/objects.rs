//! Which objects there are, and their labels, owners and order.

use pinpipe_crds::PinterestPipeline;
use serde_json::{Value, json};

use super::{find, ids, objects, with};
use crate::{
    build::{Object, Observed, build, topics},
    names::{INSTANCE_LABEL, MANAGED_BY_LABEL, MANAGER, TEMPLATE_ANNOTATION},
    samples::{all_there, images, validated, whole},
    validate::validate,
};

#[test]
fn each_section_has_its_objects() {
    let config = |child: &str, objects: &[Object]| {
        let prefix = format!("ConfigMap/{child}-");
        ids(objects).iter().any(|id| {
            id.strip_prefix(&prefix)
                .is_some_and(|hash| hash.len() == 10)
        })
    };
    let least = objects(&validated(json!({})));
    assert_eq!(ids(&least), [""; 0]);
    let least = objects(&validated(json!({"ingest": {}})));
    assert_eq!(least.len(), 4);
    for id in [
        "Service/pinterest-ingest",
        "Deployment/pinterest-ingest",
        "PodDisruptionBudget/pinterest-ingest",
    ] {
        assert!(ids(&least).contains(&id.to_owned()), "{id}");
    }
    let all = with(|_| ());
    for id in [
        "Service/pinterest-ingest",
        "Deployment/pinterest-ingest",
        "Deployment/pinterest-stream-live",
        "Service/pinterest-archive",
        "Deployment/pinterest-archive",
        "ServiceAccount/pinterest-batch",
        "Lease/pinterest-batch",
        "Role/pinterest-batch",
        "RoleBinding/pinterest-batch",
        "CronJob/pinterest-batch",
        "Deployment/pinterest-emulator",
    ] {
        assert!(ids(&all).contains(&id.to_owned()), "{id}");
    }
    for child in [
        "pinterest-ingest",
        "pinterest-stream-live",
        "pinterest-archive",
        "pinterest-batch",
        "pinterest-emulator",
    ] {
        assert!(config(child, &all), "{child}");
    }
    assert_eq!(all.len(), 17);
}

#[test]
fn a_child_comes_after_what_it_needs() {
    let ids = ids(&with(|_| ()));
    let at = |prefix: &str| ids.iter().position(|id| id.starts_with(prefix)).unwrap();
    assert!(at("ConfigMap/pinterest-ingest") < at("Deployment/pinterest-ingest"));
    assert!(at("ServiceAccount/") < at("CronJob/") && at("RoleBinding/") < at("CronJob/"));
}

/// The hash of a configuration names its `ConfigMap`, so another order would roll every pod.
#[test]
fn the_order_of_a_map_in_the_resource_changes_no_byte() {
    let built = |keys: &[char]| {
        let map = |value: &str| {
            let fields = keys.iter().map(|key| format!("\"{key}\": {value}"));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        };
        let spec = json!({
            "broker": {"kafka": {"bootstrapServers": "k:1", "topics": {"config": "TEXTS"}}},
            "ingest": {"template": {
                "labels": "TEXTS", "annotations": "TEXTS", "nodeSelector": "TEXTS",
            }},
            "archive": whole()["archive"],
        });
        let metadata = json!({"name": "pinterest", "namespace": "data", "uid": "1"});
        let text = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": metadata,
            "spec": spec,
        });
        let text = text.to_string();
        let text = text.replace("\"TEXTS\"", &map("\"x\""));
        let pipeline: PinterestPipeline = serde_json::from_str(&text).unwrap();
        let validated = validate(&pipeline, &all_there(&pipeline), &images()).unwrap();
        let bodies: Vec<_> = objects(&validated)
            .into_iter()
            .map(|object| object.body)
            .collect();
        (serde_json::to_string(&bodies).unwrap(), topics(&validated))
    };
    let keys: Vec<_> = ('a'..='p').collect();
    let reversed: Vec<_> = keys.iter().rev().copied().collect();
    assert_eq!(built(&keys), built(&reversed));
}

#[test]
fn selectors_contain_only_name_instance_and_component() {
    for object in with(|_| ()) {
        let selector = match object.resource.kind.as_str() {
            "Deployment" | "PodDisruptionBudget" => &object.body["spec"]["selector"]["matchLabels"],
            "Service" => &object.body["spec"]["selector"],
            _ => continue,
        };
        let mut keys: Vec<_> = selector.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(
            keys,
            [
                "app.kubernetes.io/component",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/name"
            ],
            "{}",
            object.name
        );
    }
}

#[test]
fn every_object_is_labelled_and_owned_by_the_pipeline() {
    for object in with(|_| ()) {
        let metadata = &object.body["metadata"];
        assert_eq!(
            metadata["labels"][MANAGED_BY_LABEL], MANAGER,
            "{}",
            object.name
        );
        assert_eq!(
            metadata["labels"][INSTANCE_LABEL], "pinterest",
            "{}",
            object.name
        );
        assert_eq!(
            metadata["ownerReferences"][0]["uid"], "0001",
            "{}",
            object.name
        );
        assert!(object.name.len() <= 63, "{}", object.name);
    }
}

#[test]
fn the_batch_worker_may_hold_its_lease_and_nothing_else() {
    let all = with(|_| ());
    assert_eq!(
        find(&all, "Role", "pinterest-batch")["rules"],
        json!([
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["get", "update"],
                "resourceNames": ["pinterest-batch"],
            },
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["create"],
            },
        ])
    );
    let cron = &find(&all, "CronJob", "pinterest-batch")["spec"];
    assert_eq!(
        (&cron["concurrencyPolicy"], &cron["timeZone"]),
        (&json!("Forbid"), &json!("UTC"))
    );
}

#[test]
fn a_run_has_a_deadline_and_retries_only_what_may_succeed_then() {
    let job = |change: fn(&mut Value)| {
        let all = with(change);
        find(&all, "CronJob", "pinterest-batch")["spec"]["jobTemplate"].clone()
    };
    let spec = job(|_| ())["spec"].clone();
    assert_eq!(spec["activeDeadlineSeconds"], 21_600);
    assert_eq!(
        job(|s| s["batch"]["deadline"] = json!("90m"))["spec"]["activeDeadlineSeconds"],
        5400
    );
    // The API server accepts a policy only for pods that never restart.
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    let rules = &spec["podFailurePolicy"]["rules"];
    assert_eq!(
        rules[0],
        json!({"action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})
    );
    let codes = json!({"containerName": pod["containers"][0]["name"], "operator": "In",
        "values": [pinpipe_config::EXIT_PERMANENT_FAILURE]});
    assert_eq!(rules[1], json!({"action": "FailJob", "onExitCodes": codes}));
    assert_eq!(
        (&spec["backoffLimit"], &rules[2]),
        (&json!(2), &Value::Null)
    );
}

#[test]
fn the_hash_of_a_job_changes_with_its_template_only() {
    let digest = |change: fn(&mut Value)| {
        let all = with(change);
        let job = &find(&all, "CronJob", "pinterest-batch")["spec"]["jobTemplate"];
        job["metadata"]["annotations"][TEMPLATE_ANNOTATION].clone()
    };
    let same = digest(|_| ());
    assert!(same.is_string(), "{same}");
    assert_eq!(digest(|s| s["batch"]["schedule"] = json!("@hourly")), same);
    assert_ne!(
        digest(|s| s["batch"]["template"]["resources"] = json!({"limits": {"memory": "500Gi"}})),
        same
    );
}

/// Paths of empty maps and lists.
fn empty(path: &str, value: &Value, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(list) => (0..).map(|at: usize| at.to_string()).zip(list).collect(),
        _ => return,
    };
    // An empty volume is one.
    if children.is_empty() && !path.ends_with("/emptyDir") {
        found.push(path.to_owned());
    }
    for (key, value) in children {
        empty(&format!("{path}/{key}"), value, found);
    }
}

/// The API server drops them from what the operator owns, so they would be sent again and again.
#[test]
fn nothing_that_is_built_has_an_empty_map_or_list() {
    let with_empty = |resources: Value| {
        let nothing = json!({
            "labels": {}, "annotations": {}, "nodeSelector": {}, "tolerations": [], "env": [],
            "topologySpreadConstraints": [], "resources": resources, "imagePullSecrets": [],
            "affinity": {},
        });
        let mut spec = whole();
        spec["ingest"] = json!({});
        spec["image"] = json!({});
        spec["batch"]["quality"] = json!({"maxRepaired": []});
        for path in [
            "",
            "/ingest",
            "/stream/sinks/0",
            "/archive",
            "/batch",
            "/emulator",
        ] {
            spec.pointer_mut(path).unwrap()["template"] = nothing.clone();
        }
        spec
    };
    for spec in [
        json!({}),
        whole(),
        with_empty(json!({})),
        with_empty(json!({"requests": {}, "limits": {}})),
    ] {
        let pipeline = validated(spec);
        let built = build(&pipeline, &Observed::default());
        let mut found = Vec::new();
        for object in built.objects.iter().chain([&built.record]) {
            let id = format!("{}/{}", object.resource.kind, object.name);
            empty(&id, &object.body, &mut found);
        }
        assert_eq!(found, [""; 0]);
    }
}
