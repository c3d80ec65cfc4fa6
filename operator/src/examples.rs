//! What examples/ tell other programs agrees with what the operator makes.

use std::fs;

use k8s_openapi::{api::networking::v1::Ingress, jiff::Timestamp};
use mlua::{Lua, LuaSerdeExt as _};
use pinpipe_config::LAG_METRIC;
use pinpipe_crds::{PinterestRun, RunPhase, condition_types, reasons};
use pinpipe_plan::{
    build::{Object, Observed, build},
    queue::State,
    samples::{pipeline, run, validated, whole},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{finding::Finding, status};

fn documents(example: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("../examples/{example}")).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// What Argo CD says of a pipeline with these findings, whose status is of the generation before or
/// of this one.
fn health(findings: &[Option<(&'static str, Finding)>], seen: i64) -> String {
    let mut resource = pipeline(json!({}));
    let findings = findings.iter().flatten().cloned().collect();
    let mut status = resource.status.take().unwrap_or_default();
    status.conditions = status::conditions(&[], findings, Some(seen), Timestamp::UNIX_EPOCH);
    status.observed_generation = Some(seen);
    resource.status = Some(status);
    argo_cd("PinterestPipeline", &json!(resource))
}

/// What Argo CD says of a resource.
fn argo_cd(kind: &str, resource: &Value) -> String {
    let key = format!("resource.customizations.health.pinpipe.dev_{kind}");
    let script = &documents("gitops/argocd/health.yaml")[0]["data"][key];
    let health = evaluated(script.as_str().unwrap(), resource);
    health["status"].as_str().unwrap().to_owned()
}

/// What a script of Argo CD's returns about a resource.
fn evaluated(script: &str, resource: &Value) -> Value {
    let lua = Lua::new();
    lua.globals()
        .set("obj", lua.to_value(resource).unwrap())
        .unwrap();
    let result: mlua::Value = lua.load(script).eval().unwrap();
    lua.from_value(result).unwrap()
}

#[test]
fn argo_cd_suspends_resumes_and_runs_a_pipeline() {
    let key = "resource.customizations.actions.pinpipe.dev_PinterestPipeline";
    let text = documents("gitops/argocd/actions.yaml")[0]["data"][key].clone();
    let actions: Value = serde_yaml::from_str(text.as_str().unwrap()).unwrap();
    let act = |name: &str, resource: &Value| {
        let mut definitions = actions["definitions"].as_array().unwrap().iter();
        let action = definitions.find(|action| action["name"] == name).unwrap();
        evaluated(action["action.lua"].as_str().unwrap(), resource)
    };
    let disabled = |resource: &Value| {
        let found = evaluated(actions["discovery.lua"].as_str().unwrap(), resource);
        ["suspend", "resume", "run"].map(|name| found[name]["disabled"] == true)
    };
    let running = json!(pipeline(whole()));
    assert_eq!(disabled(&running), [false, true, false]);
    let suspended = act("suspend", &running);
    assert_eq!(disabled(&suspended), [true, false, false]);
    let resumed = act("resume", &suspended);
    assert_eq!(resumed["spec"]["suspend"], false);
    assert!(disabled(&json!(pipeline(json!({}))))[2]);

    let created = act("run", &running);
    assert_eq!(created[0]["operation"], "create");
    let run = created[0]["resource"].clone();
    assert_eq!(pinpipe_crds::check_rules(&run, None), Ok(()));
    let run: PinterestRun = serde_json::from_value(run).unwrap();
    assert_eq!(run.spec.pipeline_ref.name, "pinterest");
    assert_eq!(run.metadata.namespace.as_deref(), Some("data"));
}

#[test]
fn argo_cd_knows_how_a_run_is() {
    let mut run = run("r", json!({"batch": {}}));
    assert_eq!(argo_cd("PinterestRun", &json!(run)), "Progressing");
    for (phase, expected) in [
        (RunPhase::Queued, "Progressing"),
        (RunPhase::Running, "Progressing"),
        (RunPhase::Succeeded, "Healthy"),
        (RunPhase::Failed, "Degraded"),
        (RunPhase::Refused, "Degraded"),
    ] {
        let state = State {
            phase,
            ..State::queued(&run, reasons::RUNNING, "how it is")
        };
        run.status = Some(status::runs::status(&run, &state, Timestamp::UNIX_EPOCH));
        assert_eq!(argo_cd("PinterestRun", &json!(run)), expected, "{phase:?}");
    }
}

#[test]
fn argo_cd_knows_how_a_pipeline_is() {
    let ready = |finding: Finding| {
        let summary = status::summary(finding);
        move |seen| health(&summary.iter().cloned().map(Some).collect::<Vec<_>>(), seen)
    };
    assert_eq!(health(&[], 1), "Progressing");
    let well = ready(Finding::good(reasons::READY, "all is well"));
    assert_eq!([well(1), well(0)], ["Healthy", "Progressing"]);
    let well_but = [
        (
            condition_types::READY,
            Finding::good(reasons::READY, "all is well"),
        ),
        (
            condition_types::BATCH_READY,
            Finding::bad(reasons::RUN_FAILED, "last night"),
        ),
    ];
    assert_eq!(health(&well_but.map(Some), 1), "Healthy");
    let coming = ready(Finding::bad(reasons::PROGRESSING, "pods start"));
    assert_eq!(coming(1), "Progressing");
    let wrong = ready(Finding::bad(reasons::INVALID_SPEC, "spec.x is wrong"));
    assert_eq!([wrong(1), wrong(0)], ["Degraded", "Progressing"]);
    let suspended = [condition_types::READY, condition_types::SUSPENDED]
        .map(|type_| Some((type_, Finding::good(reasons::SUSPENDED, "no pods"))));
    assert_eq!(health(&suspended, 1), "Suspended");
    let paused = [Some((
        condition_types::READY,
        Finding::bad(reasons::PAUSED, "hands off"),
    ))];
    assert_eq!(
        health(&paused, 0),
        "Suspended",
        "no generation is seen meanwhile"
    );
}

#[test]
fn an_ingress_and_a_route_lead_to_the_service() {
    let objects = build(&validated(json!({"ingest": {}})), &Observed::default()).objects;
    let [ingress, route] = &documents("ingress.yaml")[..] else {
        panic!("two documents")
    };
    // The types drop a field they don't know.
    let typed: Ingress = serde_json::from_value(ingress.clone()).unwrap();
    assert_eq!(&serde_json::to_value(typed).unwrap(), ingress);
    let path = &ingress["spec"]["rules"][0]["http"]["paths"][0];
    let backend = &path["backend"]["service"];
    let reference = &route["spec"]["rules"][0]["backendRefs"][0];
    for (name, port) in [
        (&backend["name"], ("name", &backend["port"]["name"])),
        (&reference["name"], ("port", &reference["port"])),
    ] {
        let of = |object: &&Object| object.resource.kind == "Service" && object.name == *name;
        let service = &objects.iter().find(of).unwrap().body;
        assert_eq!(&service["spec"]["ports"][0][port.0], port.1);
    }
    for object in [ingress, route] {
        assert_eq!(object["metadata"]["namespace"], "data");
    }
}

#[test]
fn keda_scales_a_sink_by_its_lag() {
    let mut spec = whole();
    spec["stream"]["sinks"][0]["autoscaling"] = json!({});
    let objects = build(&validated(spec), &Observed::default()).objects;
    let [monitor, scaled] = &documents("keda.yaml")[..] else {
        panic!("two documents")
    };
    let target = scaled["spec"]["scaleTargetRef"]["name"].as_str().unwrap();
    let of = |object: &&Object| object.resource.kind == "Deployment" && object.name == target;
    let deployment = &objects.iter().find(of).unwrap().body;
    assert!(
        deployment["spec"]["replicas"].is_null(),
        "its pods are KEDA's to count"
    );
    let template = &deployment["spec"]["template"];
    for (label, value) in monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .unwrap()
    {
        assert_eq!(&template["metadata"]["labels"][label], value, "{label}");
    }
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    let ports = template["spec"]["containers"][0]["ports"]
        .as_array()
        .unwrap();
    assert!(
        ports.iter().any(|found| &found["name"] == port),
        "{ports:?}"
    );
    let query = scaled["spec"]["triggers"][0]["metadata"]["query"]
        .as_str()
        .unwrap();
    assert!(query.contains(&format!("{LAG_METRIC}{{")), "{query}");
}
