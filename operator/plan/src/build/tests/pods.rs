//! Pods and their settings.

use serde_json::json;

use super::{find, ids, objects, with};
use crate::{
    model::Images,
    names::{CONFIG_ANNOTATION, INSTANCE_LABEL},
    samples::{all_there, images, pipeline, whole},
    validate::validate,
};

#[test]
fn pod_settings_are_in_the_template_of_each_component() {
    let settings = json!({
        "serviceAccountName": "reader",
        "labels": {"team": "data"},
        "annotations": {"note": "x"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{
            "key": "gpu",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 5,
        }],
        "topologySpreadConstraints": [{
            "topologyKey": "rack",
            "maxSkew": 2,
            "whenUnsatisfiable": "DoNotSchedule",
        }],
    });
    let all = with(|spec| {
        spec["ingest"] = json!({});
        for section in [
            "/ingest",
            "/archive",
            "/batch",
            "/emulator",
            "/stream/sinks/0",
        ] {
            spec.pointer_mut(section).unwrap()["template"] = settings.clone();
        }
    });
    let mut components = 0;
    for object in &all {
        let spec = &object.body["spec"];
        let template = match object.resource.kind.as_str() {
            "Deployment" => &spec["template"],
            "CronJob" => &spec["jobTemplate"]["spec"]["template"],
            _ => continue,
        };
        let (name, pod) = (&object.name, &template["spec"]);
        assert_eq!(pod["serviceAccountName"], "reader", "{name}");
        assert_eq!(pod["nodeSelector"], settings["nodeSelector"], "{name}");
        assert_eq!(pod["tolerations"][0], settings["tolerations"][0], "{name}");
        let spread = &pod["topologySpreadConstraints"];
        assert_eq!(
            (
                &spread[0]["topologyKey"],
                &spread[0]["maxSkew"],
                spread.as_array().unwrap().len()
            ),
            (&json!("rack"), &json!(2), 1)
        );
        assert_eq!(
            spread[0]["labelSelector"]["matchLabels"][INSTANCE_LABEL], "pinterest",
            "{name}"
        );
        let metadata = &template["metadata"];
        assert_eq!(
            (
                &metadata["labels"]["team"],
                &metadata["labels"][INSTANCE_LABEL]
            ),
            (&json!("data"), &json!("pinterest"))
        );
        assert_eq!(metadata["annotations"]["note"], "x", "{name}");
        assert!(
            metadata["annotations"][CONFIG_ANNOTATION].is_string(),
            "{name}"
        );
        components += 1;
    }
    assert_eq!(components, 5);
    assert!(
        !ids(&all).contains(&"ServiceAccount/pinterest-batch".to_owned()),
        "the pods use the account that is set"
    );
    assert_eq!(
        find(&all, "RoleBinding", "pinterest-batch")["subjects"][0]["name"],
        "reader"
    );
}

/// What `spec.template` says holds for every component, unless its own says otherwise.
#[test]
fn the_general_template_is_that_of_every_component_without_its_own() {
    let env = |name: &str| json!({"name": name, "value": "1"});
    let from = |reference: &str| json!({reference: {"name": "a", "key": "b"}});
    let secret = json!({"name": "S", "valueFrom": from("secretKeyRef")});
    let map = json!({"name": "M", "valueFrom": from("configMapKeyRef")});
    let all = with(|spec| {
        spec["template"] = json!({
            "env": [env("A"), secret, map, {"name": "EMPTY", "value": ""}],
            "logLevel": "Debug",
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "pull"}],
            "resources": {"limits": {"ephemeral-storage": "1Gi"}},
            "podSecurity": "FromPlatform",
            "labels": {"team": "pins"},
        });
        spec["archive"]["template"] = json!({
            "env": [env("B")],
            "logLevel": "Warn",
            "priorityClassName": "low",
            "podSecurity": "Fixed",
            "labels": {"team": "data"},
        });
    });
    for (name, level, class, team, user, mode) in [
        ("archive", "warn", "low", "data", json!(65_532), 0o440),
        ("ingest", "debug", "high", "pins", json!(null), 0o444),
        ("stream-live", "debug", "high", "pins", json!(null), 0o444),
        ("emulator", "debug", "high", "pins", json!(null), 0o444),
        ("batch", "debug", "high", "pins", json!(null), 0o444),
    ] {
        let child = format!("pinterest-{name}");
        let template = if name == "batch" {
            find(&all, "CronJob", &child)["spec"]["jobTemplate"]["spec"]["template"].clone()
        } else {
            find(&all, "Deployment", &child)["spec"]["template"].clone()
        };
        let (pod, container) = (&template["spec"], &template["spec"]["containers"][0]);
        assert_eq!(template["metadata"]["labels"]["team"], team, "{name}");
        assert_eq!(pod["priorityClassName"], class, "{name}");
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]), "{name}");
        let security = &pod["securityContext"];
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(security[id], user, "{name} {id}");
        }
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        for volume in pod["volumes"].as_array().unwrap() {
            for kind in ["secret", "projected"] {
                let volume = &volume[kind];
                assert!(volume.is_null() || volume["defaultMode"] == mode, "{name}");
            }
        }
        assert_eq!(
            container["resources"],
            json!({"limits": {"ephemeral-storage": "1Gi"}}),
            "{name}"
        );
        let mut expected = vec![
            json!({"name": "RUST_LOG", "value": level}),
            env("A"),
            secret.clone(),
            map.clone(),
            json!({"name": "EMPTY"}),
        ];
        expected.extend((name == "archive").then(|| env("B")));
        let found = container["env"].as_array().unwrap().iter();
        let found: Vec<_> = found
            .filter(|env| env["name"] != "PINPIPE_RUN")
            .cloned()
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// Our preference for several zones stays, unless the affinity has another anti-affinity of pods.
#[test]
fn an_affinity_that_is_set_replaces_only_what_it_is_about() {
    let zone = "topology.kubernetes.io/zone";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}],
    }}});
    let apart = json!({"podAntiAffinity": {preferred: [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "rack"}},
    ]}});
    for (set, key) in [(node.clone(), zone), (apart, "rack")] {
        let all = with(|spec| spec["template"] = json!({"affinity": set}));
        for component in ["ingest", "stream-live"] {
            let name = format!("pinterest-{component}");
            let pod = &find(&all, "Deployment", &name)["spec"]["template"]["spec"];
            let affinity = &pod["affinity"];
            let term = &affinity["podAntiAffinity"][preferred][0]["podAffinityTerm"];
            assert_eq!(term["topologyKey"], key, "{name}");
            assert_eq!(affinity["nodeAffinity"], set["nodeAffinity"], "{name}");
        }
        let archive = &find(&all, "Deployment", "pinterest-archive")["spec"]["template"]["spec"];
        assert_eq!(archive["affinity"], set);
    }
}

#[test]
fn several_pods_of_a_component_are_spread_and_evicted_one_by_one() {
    let all = with(|spec| spec["stream"]["sinks"][0]["replicas"] = json!(3));
    for component in ["ingest", "stream-live"] {
        let name = format!("pinterest-{component}");
        let pod = &find(&all, "Deployment", &name)["spec"]["template"]["spec"];
        // A single constraint, on a label that every node has: the scheduler leaves out nodes that
        // lack the label of any constraint.
        let spread = pod["topologySpreadConstraints"].as_array().unwrap();
        let keys: Vec<_> = spread
            .iter()
            .map(|one| one["topologyKey"].as_str().unwrap())
            .collect();
        assert_eq!(keys, ["kubernetes.io/hostname"]);
        assert_eq!(spread[0]["whenUnsatisfiable"], "ScheduleAnyway");
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let term = &pod["affinity"]["podAntiAffinity"][preferred][0]["podAffinityTerm"];
        assert_eq!(term["topologyKey"], "topology.kubernetes.io/zone");
        assert_eq!(term["labelSelector"], spread[0]["labelSelector"]);
        let budget = &find(&all, "PodDisruptionBudget", &name)["spec"];
        assert_eq!(
            (
                &budget["maxUnavailable"],
                &budget["unhealthyPodEvictionPolicy"]
            ),
            (&json!(1), &json!("AlwaysAllow"))
        );
    }
    // A budget for a single pod would either block the drain of its node or permit everything.
    assert!(!ids(&all).contains(&"PodDisruptionBudget/pinterest-archive".to_owned()));
    assert!(!ids(&with(|_| ())).contains(&"PodDisruptionBudget/pinterest-stream-live".to_owned()));
}

#[test]
fn a_digest_pins_the_image_of_its_worker() {
    let operators = Images {
        digests: [("stream".to_owned(), "sha256:0a".to_owned())].into(),
        ..images()
    };
    let pipeline = pipeline(whole());
    let all = objects(&validate(&pipeline, &all_there(&pipeline), &operators).unwrap());
    let image = |name: &str| {
        find(&all, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!(
        image("pinterest-archive"),
        "ghcr.io/pinpipe/stream:0.1.0@sha256:0a"
    );
    assert_eq!(
        image("pinterest-stream-live"),
        "ghcr.io/pinpipe/stream:0.1.0@sha256:0a"
    );
    assert_eq!(image("pinterest-ingest"), "ghcr.io/pinpipe/ingest:0.1.0");
}

#[test]
fn pods_comply_with_the_restricted_profile() {
    for object in with(|_| ()) {
        let spec = &object.body["spec"];
        let pod = match object.resource.kind.as_str() {
            "Deployment" => &spec["template"]["spec"],
            "CronJob" => &spec["jobTemplate"]["spec"]["template"]["spec"],
            _ => continue,
        };
        let name = &object.name;
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        assert_eq!(
            pod["automountServiceAccountToken"],
            name == "pinterest-batch",
            "{name}"
        );
        let container = &pod["containers"][0];
        assert_eq!(
            container["securityContext"]["allowPrivilegeEscalation"], false,
            "{name}"
        );
        assert_eq!(
            container["securityContext"]["readOnlyRootFilesystem"], true,
            "{name}"
        );
        assert_eq!(
            container["securityContext"]["capabilities"]["drop"],
            json!(["ALL"]),
            "{name}"
        );
        assert!(container["resources"]["requests"].is_object(), "{name}");
    }
}

#[test]
fn an_image_has_the_operators_name_for_it_unless_the_pipeline_names_a_registry() {
    let operators = Images {
        digests: [("stream".to_owned(), "sha256:0a".to_owned())].into(),
        repositories: [("stream".to_owned(), "mirror.example/pins-stream".to_owned())].into(),
        ..images()
    };
    for (set, archive, ingest) in [
        (
            json!({}),
            "mirror.example/pins-stream:0.1.0@sha256:0a",
            "ghcr.io/pinpipe/ingest:0.1.0",
        ),
        (
            json!({"registry": "r", "tag": "2"}),
            "r/stream:2",
            "r/ingest:2",
        ),
    ] {
        let mut spec = whole();
        spec["image"] = set;
        let pipeline = pipeline(spec);
        let validated = validate(&pipeline, &all_there(&pipeline), &operators).unwrap();
        let all = objects(&validated);
        for (name, expected) in [("pinterest-archive", archive), ("pinterest-ingest", ingest)] {
            let pods = &find(&all, "Deployment", name)["spec"]["template"]["spec"];
            assert_eq!(pods["containers"][0]["image"], expected);
        }
    }
}
