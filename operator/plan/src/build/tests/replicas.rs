//! Number of pods, and who sets it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{find, ids, with};
use crate::{
    build::{Observed, build},
    component::Component,
    model::ValidatedPipeline,
    samples::{validated, whole},
};

#[test]
fn an_autoscaler_sets_replicas_except_while_suspended() {
    let scaled = |suspend: bool| {
        with(|spec| {
            spec["suspend"] = json!(suspend);
            spec["ingest"] = json!({"autoscaling": {
                "minReplicas": 3,
                "maxReplicas": 9,
                "targetCPUUtilizationPercentage": 50,
            }});
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
        json!([{"type": "Resource", "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50},
        }}])
    );
    let live = &find(&all, "HorizontalPodAutoscaler", "pinterest-stream-live")["spec"];
    assert_eq!(
        (&live["minReplicas"], &live["maxReplicas"]),
        (&json!(1), &json!(9)),
        "as many as there are partitions"
    );
    assert_eq!(
        live["metrics"][0]["external"],
        json!({
            "metric": {
                "name": "pinpipe_stream_lag_records",
                "selector": {"matchLabels": {"pipeline": "pinterest", "sink": "live"}},
            },
            "target": {"type": "AverageValue", "averageValue": "1000"},
        })
    );
    let by_keda = with(|spec| spec["stream"]["sinks"][0]["autoscaling"] = json!({}));
    assert!(
        !ids(&by_keda)
            .iter()
            .any(|id| id.starts_with("HorizontalPodAutoscaler/"))
    );
    for (objects, name, replicas) in [
        (&all, "pinterest-ingest", Value::Null),
        (&all, "pinterest-stream-live", Value::Null),
        (&by_keda, "pinterest-stream-live", Value::Null),
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

/// A sink's autoscaling, and the applied replicas while its Deployment has no pods.
#[test]
fn a_deployment_at_zero_gets_min_replicas_because_its_autoscaler_ignores_it() {
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
