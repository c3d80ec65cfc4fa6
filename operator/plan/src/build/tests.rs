use serde_json::{Value, json};

use super::*;
use crate::{
    model::Images,
    names::{
        CONFIG_ANNOTATION, INSTANCE_LABEL, MANAGED_BY_LABEL, MANAGER, RESET_ANNOTATION,
        SECRETS_ANNOTATION, TEMPLATE_ANNOTATION,
    },
    samples::{all_there, images, pipeline, validated, whole},
    validate::{SecretKey, validate},
};

/// Objects of a pipeline in an empty cluster.
fn objects(pipeline: &ValidatedPipeline) -> Vec<Object> {
    build(pipeline, &Observed::default()).objects
}

fn ids(objects: &[Object]) -> Vec<String> {
    objects
        .iter()
        .map(|object| format!("{}/{}", object.resource.kind, object.name))
        .collect()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Value {
    &objects
        .iter()
        .find(|object| object.resource.kind == kind && object.name == name)
        .unwrap()
        .body
}

/// The kinds and names of what differs, configuration by the child it is for.
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

/// Where `mutate` of the whole spec leads.
fn with(mutate: impl FnOnce(&mut Value)) -> Vec<Object> {
    let mut spec = whole();
    mutate(&mut spec);
    objects(&validated(spec))
}

#[test]
fn each_section_deploys_what_it_names() {
    let config = |child: &str, objects: &[Object]| {
        let prefix = format!("ConfigMap/{child}-");
        ids(objects).iter().any(|id| {
            id.strip_prefix(&prefix)
                .is_some_and(|hash| hash.len() == 10)
        })
    };
    let least = objects(&validated(json!({})));
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

type Change = fn(&mut Value);

#[test]
fn a_child_comes_after_what_it_needs() {
    let ids = ids(&with(|_| ()));
    let at = |prefix: &str| ids.iter().position(|id| id.starts_with(prefix)).unwrap();
    assert!(at("ConfigMap/pinterest-ingest") < at("Deployment/pinterest-ingest"));
    assert!(at("ServiceAccount/") < at("CronJob/") && at("RoleBinding/") < at("CronJob/"));
}

#[test]
fn the_same_pipeline_gives_the_same_bytes() {
    let bytes = |objects: Vec<Object>| {
        serde_json::to_string(&objects.iter().map(|o| &o.body).collect::<Vec<_>>()).unwrap()
    };
    assert_eq!(bytes(with(|_| ())), bytes(with(|_| ())));
}

/// A change → what it concerns; and back again → what was before.
#[test]
fn a_change_concerns_its_component_and_nothing_else() {
    let before = with(|_| ());
    let cases: [(Change, &[&str]); 20] = [
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
            |s| s["archive"]["nodeSelector"] = json!({"disk": "fast"}),
            &["Deployment/pinterest-archive"],
        ),
        (
            |s| s["image"] = json!({"digests": {"emulator": "sha256:a"}}),
            &["Deployment/pinterest-emulator"],
        ),
        (
            |s| s["emulator"] = json!({"seed": 9}),
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
            |s| s["deadLetters"] = json!({"mode": "Fail"}),
            &[
                "ConfigMap/pinterest-archive",
                "ConfigMap/pinterest-stream-live",
                "Deployment/pinterest-archive",
                "Deployment/pinterest-stream-live",
            ],
        ),
        (
            |s| s["batch"]["quality"] = json!({"maxRepairedRatio": {"age": 0.5}}),
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
            |s| s["stream"]["sinks"][0]["resources"] = json!({"limits": {"memory": "1Gi"}}),
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
                s["broker"] = json!({"kafka": {"bootstrapServers": "kafka:9092", "topics": {"partitions": 9}}});
            },
            &[],
        ),
    ];
    for (number, (change, concerned)) in cases.into_iter().enumerate() {
        let after = with(change);
        assert_eq!(changed(&before, &after), concerned, "case {number}");
    }
    assert_eq!(changed(&before, &with(|_| ())), [""; 0]);
}

#[test]
fn what_is_said_of_pods_stands_in_each_components_template_beside_ours() {
    let settings = json!({
        "serviceAccountName": "reader", "podLabels": {"team": "data"}, "podAnnotations": {"note": "x"},
        "nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        "topologySpread": [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
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
            let section = spec.pointer_mut(section).unwrap().as_object_mut().unwrap();
            section.extend(settings.as_object().unwrap().clone());
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
        "the one named takes its place"
    );
    assert_eq!(
        find(&all, "RoleBinding", "pinterest-batch")["subjects"][0]["name"],
        "reader"
    );
}

#[test]
fn pods_that_may_be_several_are_spread_and_drained_one_by_one() {
    let all = with(|spec| spec["stream"]["sinks"][0]["replicas"] = json!(3));
    for component in ["ingest", "stream-live"] {
        let name = format!("pinterest-{component}");
        let pod = &find(&all, "Deployment", &name)["spec"]["template"]["spec"];
        // One label alone, which every node has: where a node lacks one of several the scheduler
        // heeds none of them.
        let spread = pod["topologySpreadConstraints"].as_array().unwrap();
        let keys: Vec<_> = spread
            .iter()
            .map(|one| one["topologyKey"].as_str().unwrap())
            .collect();
        assert_eq!(keys, ["kubernetes.io/hostname"]);
        assert_eq!(spread[0]["whenUnsatisfiable"], "ScheduleAnyway");
        let apart = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            [0];
        let term = &apart["podAffinityTerm"];
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
    // A budget for one pod would keep its node from ever being drained, or mean nothing.
    assert!(!ids(&all).contains(&"PodDisruptionBudget/pinterest-archive".to_owned()));
    assert!(!ids(&with(|_| ())).contains(&"PodDisruptionBudget/pinterest-stream-live".to_owned()));
}

#[test]
fn an_autoscaler_has_the_say_about_replicas_except_while_suspended() {
    let scaled = |suspend: bool| {
        with(|spec| {
            spec["suspend"] = json!(suspend);
            spec["ingest"] = json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 9, "targetCPUUtilizationPercentage": 50}});
            spec["stream"]["sinks"][0]["autoscaling"] = json!({"targetLag": 1000});
        })
    };
    let all = scaled(false);
    let ingest = &find(&all, "HorizontalPodAutoscaler", "pinterest-ingest")["spec"];
    assert_eq!(
        ingest["scaleTargetRef"],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "pinterest-ingest"})
    );
    assert_eq!(
        (&ingest["minReplicas"], &ingest["maxReplicas"]),
        (&json!(3), &json!(9))
    );
    assert_eq!(
        ingest["metrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
    );
    let live = &find(&all, "HorizontalPodAutoscaler", "pinterest-stream-live")["spec"];
    assert_eq!(
        (&live["minReplicas"], &live["maxReplicas"]),
        (&json!(1), &json!(9)),
        "as many as there are partitions"
    );
    assert_eq!(
        live["metrics"][0]["external"],
        json!({"metric": {"name": "pinpipe_stream_lag_records", "selector": {"matchLabels": {"pipeline": "pinterest", "sink": "live"}}},
            "target": {"type": "AverageValue", "averageValue": "1000"}})
    );
    let by_others = with(|spec| spec["stream"]["sinks"][0]["autoscaling"] = json!({}));
    assert!(
        !ids(&by_others)
            .iter()
            .any(|id| id.starts_with("HorizontalPodAutoscaler/"))
    );
    for (objects, name, replicas) in [
        (&all, "pinterest-ingest", Value::Null),
        (&all, "pinterest-stream-live", Value::Null),
        (&by_others, "pinterest-stream-live", Value::Null),
        (&scaled(true), "pinterest-ingest", json!(0)),
        (&scaled(true), "pinterest-stream-live", json!(0)),
    ] {
        assert_eq!(
            find(objects, "Deployment", name)["spec"]["replicas"],
            replicas,
            "{name}"
        );
    }
}

/// What a sink's autoscaling is → the replicas sent while its Deployment has no pods.
#[test]
fn a_deployment_without_pods_is_given_the_fewest_since_its_autoscaler_leaves_it_alone() {
    for (autoscaling, at_zero) in [
        (json!({"targetLag": 1000, "minReplicas": 2}), json!(2)),
        (json!({}), Value::Null),
        (Value::Null, json!(1)),
    ] {
        let mut spec = whole();
        if autoscaling.is_object() {
            spec["stream"]["sinks"][0]["autoscaling"] = autoscaling.clone();
        }
        let mut pipeline = validated(spec);
        let replicas = |pipeline: &ValidatedPipeline, observed: &Observed| {
            let objects = build(pipeline, observed).objects;
            find(&objects, "Deployment", "pinterest-stream-live")["spec"]["replicas"].clone()
        };
        let live = BTreeSet::from([Component::stream("live")]);
        let zero = Observed {
            at_zero: live.clone(),
            ..Observed::default()
        };
        assert_eq!(replicas(&pipeline, &zero), at_zero, "{autoscaling}");
        pipeline.suspend = true;
        assert_eq!(replicas(&pipeline, &zero), 0, "{autoscaling}");
        let draining = Observed {
            draining: live,
            ..Observed::default()
        };
        let expected = if autoscaling.is_object() {
            Value::Null
        } else {
            json!(1)
        };
        assert_eq!(replicas(&pipeline, &draining), expected, "{autoscaling}");
    }
}

#[test]
fn an_image_has_the_operators_name_for_it_unless_the_pipeline_names_a_registry() {
    let operators = Images {
        repositories: [("stream".to_owned(), "mirror.example/pins-stream".to_owned())].into(),
        ..images()
    };
    for (set, archive, ingest) in [
        (
            json!({"digests": {"stream": "sha256:0a"}}),
            "mirror.example/pins-stream:0.1.0@sha256:0a",
            "ghcr.io/pinpipe/ingest:0.1.0",
        ),
        (json!({"registry": "r"}), "r/stream:0.1.0", "r/ingest:0.1.0"),
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

#[test]
fn sinks_of_unsuitable_topics_have_no_pods() {
    let observed = Observed {
        unsuitable_topics: true,
        ..Observed::default()
    };
    let objects = build(&validated(whole()), &observed).objects;
    for (name, stopped) in [("archive", true), ("stream-live", true), ("ingest", false)] {
        let deployment = find(&objects, "Deployment", &format!("pinterest-{name}"));
        assert_eq!(deployment["spec"]["replicas"] == 0, stopped, "{name}");
    }
}

#[test]
fn a_digest_pins_the_image_of_its_worker() {
    let all = with(|spec| spec["image"] = json!({"digests": {"stream": "sha256:0a"}}));
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
fn a_reset_rolls_the_worker_of_its_sink_and_nothing_else() {
    let before = with(|_| ());
    for (annotation, component) in [
        ("live/pin=earliest", "stream-live"),
        ("archive=latest", "archive"),
    ] {
        let mut pipeline = pipeline(whole());
        pipeline.metadata.annotations = Some(
            [(
                RESET_ANNOTATION.to_owned(),
                format!("{annotation},lake=earliest"),
            )]
            .into(),
        );
        let validated = validate(&pipeline, &all_there(&pipeline), &images()).unwrap();
        assert_eq!(
            validated.reset_problems.len(),
            1,
            "the other request names no sink, and holds nothing up"
        );
        let after = objects(&validated);
        let concerned =
            ["ConfigMap", "Deployment"].map(|kind| format!("{kind}/pinterest-{component}"));
        assert_eq!(changed(&before, &after), concerned);
    }
}

#[test]
fn a_secret_rolls_those_that_use_it() {
    let pipeline = pipeline(whole());
    let before = objects(&validate(&pipeline, &all_there(&pipeline), &images()).unwrap());
    for (secret, key, concerned) in [
        (
            "warehouse",
            "uri",
            &["Deployment/pinterest-stream-live"][..],
        ),
        (
            "s3",
            "accessKeyId",
            &["CronJob/pinterest-batch", "Deployment/pinterest-archive"][..],
        ),
        ("cassandra", "password", &["CronJob/pinterest-batch"][..]),
    ] {
        let mut found = all_there(&pipeline);
        found.secrets.insert(
            (secret.into(), key.into()),
            SecretKey::Digest("rotated".into()),
        );
        let after = objects(&validate(&pipeline, &found, &images()).unwrap());
        assert_eq!(changed(&before, &after), concerned, "{secret}");
    }
}

#[test]
fn a_missing_secret_holds_back_pods_that_never_ran_and_leaves_those_that_do() {
    let pipeline = pipeline(whole());
    let before = objects(&validate(&pipeline, &all_there(&pipeline), &images()).unwrap());
    let mut found = all_there(&pipeline);
    found.secrets.retain(|(name, _), _| name != "s3");
    let without = objects(&validate(&pipeline, &found, &images()).unwrap());
    assert_eq!(
        changed(&before, &without),
        ["CronJob/pinterest-batch", "Deployment/pinterest-archive"]
    );

    let digest = |name: &str| {
        let spec = &find(
            &before,
            if name == "pinterest-batch" {
                "CronJob"
            } else {
                "Deployment"
            },
            name,
        )["spec"];
        let template = spec
            .pointer("/jobTemplate/spec/template")
            .unwrap_or(&spec["template"]);
        let annotations = &template["metadata"]["annotations"];
        (
            name.to_owned(),
            annotations[SECRETS_ANNOTATION].as_str().unwrap().to_owned(),
        )
    };
    found.previous = ["pinterest-archive", "pinterest-batch"].map(digest).into();
    let kept = objects(&validate(&pipeline, &found, &images()).unwrap());
    assert_eq!(changed(&before, &kept), [""; 0]);
}

#[test]
fn pods_keep_to_the_restricted_profile() {
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
fn selectors_hold_name_instance_and_component_alone() {
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
fn every_object_is_labelled_and_owned() {
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
    let sink = |name: &str| json!({"name": name, "postgres": {"urlSecretRef": {"name": "w", "key": "url"}}});
    assert_eq!(
        writers(json!({"stream": {"sinks": [sink("b"), sink("a")]}})),
        ["pinterest-stream-a"]
    );
}

#[test]
fn the_batch_worker_may_hold_its_lease_and_nothing_else() {
    let all = with(|_| ());
    assert_eq!(
        find(&all, "Role", "pinterest-batch")["rules"],
        json!([
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "update"], "resourceNames": ["pinterest-batch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
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
fn a_job_tells_by_its_hash_whether_it_is_what_is_wanted_now() {
    let digest = |change: fn(&mut Value)| {
        let all = with(change);
        let job = &find(&all, "CronJob", "pinterest-batch")["spec"]["jobTemplate"];
        job["metadata"]["annotations"][TEMPLATE_ANNOTATION].clone()
    };
    let same = digest(|_| ());
    assert!(same.is_string(), "{same}");
    assert_eq!(digest(|s| s["batch"]["schedule"] = json!("@hourly")), same);
    assert_ne!(
        digest(|s| s["batch"]["resources"] = json!({"limits": {"memory": "500Gi"}})),
        same
    );
}

#[test]
fn topics_are_stamped_by_the_broker_and_dead_letters_have_room() {
    let wishes = topics(&validated(
        json!({"broker": {"kafka": {"bootstrapServers": "k:1", "topics": {
        "partitions": 4, "config": {"retention.ms": "5", "max.message.bytes": "2000000"}}}}}),
    ));
    let names: Vec<_> = wishes
        .iter()
        .map(|wish| (wish.name.as_str(), wish.partitions))
        .collect();
    assert_eq!(
        names,
        [
            ("data.pinterest.pin", 4),
            ("data.pinterest.pin.dlq", 1),
            ("data.pinterest.geo", 4),
            ("data.pinterest.geo.dlq", 1),
            ("data.pinterest.user", 4),
            ("data.pinterest.user.dlq", 1),
        ]
    );
    let config = |wish: &DesiredTopic, key: &str| {
        wish.config
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    for wish in &wishes {
        assert_eq!(
            config(wish, "message.timestamp.type").as_deref(),
            Some("LogAppendTime")
        );
        assert_eq!(config(wish, "retention.ms").as_deref(), Some("5"));
    }
    assert_eq!(
        config(&wishes[0], "max.message.bytes").as_deref(),
        Some("2000000")
    );
    assert_eq!(
        config(&wishes[1], "max.message.bytes").as_deref(),
        Some("2065536")
    );
}
