//! The Service in front of ingest, its Secrets, the control port, and `NetworkPolicies`.

use serde_json::{Value, json};

use super::{find, ids, with};
use crate::{
    build::{Object, Observed, build},
    model::ValidatedPipeline,
    names::COMPONENT_LABEL,
    samples::{all_there, images, pipeline, validated, whole},
    validate::validate,
};

/// A pipeline of every section, of an operator in the namespace `operators`.
fn with_policy(policy: Value) -> ValidatedPipeline {
    let mut spec = whole();
    spec["networkPolicy"] = policy;
    let pipeline = pipeline(spec);
    let mut inputs = all_there(&pipeline);
    inputs.operator_namespace = "operators".to_owned();
    validate(&pipeline, &inputs, &images()).unwrap()
}

fn objects(pipeline: &ValidatedPipeline) -> Vec<Object> {
    build(pipeline, &Observed::default()).objects
}

/// The numbers of the ports and the sources of each rule of a component's policy.
fn rules(objects: &[Object], name: &str) -> Vec<(Vec<u64>, Value)> {
    let policy = find(objects, "NetworkPolicy", name);
    let pods = &policy["spec"]["podSelector"]["matchLabels"][COMPONENT_LABEL];
    assert_eq!(*pods, json!(name.trim_start_matches("pinterest-")));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    let rules = policy["spec"]["ingress"].as_array().unwrap().iter();
    rules
        .map(|rule| {
            let ports = rule["ports"].as_array().unwrap().iter();
            let ports = ports.map(|port| port["port"].as_u64().unwrap()).collect();
            (ports, rule["from"].clone())
        })
        .collect()
}

fn operators() -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operators"}}})
}

fn pods(component: &str) -> Value {
    json!({"podSelector": {"matchLabels": {
        "app.kubernetes.io/name": "pinpipe",
        "app.kubernetes.io/instance": "pinterest",
        "app.kubernetes.io/component": component,
    }}})
}

#[test]
fn the_control_port_is_closed_and_the_others_are_open() {
    let objects = objects(&with_policy(json!({})));
    let control = json!([operators(), pods("batch")]);
    assert_eq!(
        rules(&objects, "pinterest-ingest"),
        [(vec![8080, 9090], json!(null))]
    );
    assert_eq!(
        rules(&objects, "pinterest-emulator"),
        [(vec![9090], json!(null))]
    );
    for component in ["pinterest-archive", "pinterest-stream-live"] {
        assert_eq!(
            rules(&objects, component),
            [(vec![9090], json!(null)), (vec![9091], control.clone())]
        );
    }
}

#[test]
fn with_sources_named_only_they_the_operator_and_the_emulator_may_connect() {
    let monitoring = json!({"namespaceSelector": {"matchLabels": {"name": "monitoring"}}});
    let balancer = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    let clients = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}});
    let allow_from = json!([monitoring, balancer, clients]);
    let objects = objects(&with_policy(json!({"allowFrom": allow_from})));
    let named = json!([operators(), monitoring, balancer, clients]);
    assert_eq!(
        rules(&objects, "pinterest-ingest"),
        [
            (vec![8080, 9090], named.clone()),
            (vec![8080], json!([pods("emulator")]))
        ]
    );
    let archive = rules(&objects, "pinterest-archive");
    assert_eq!(archive[0], (vec![9090], named));
    assert_eq!(archive[1].1, json!([operators(), pods("batch")]));
}

#[test]
fn there_is_no_policy_unless_it_is_asked_for() {
    let without = with(|_| ());
    assert!(
        !ids(&without)
            .iter()
            .any(|id| id.starts_with("NetworkPolicy/"))
    );
}

#[test]
fn the_services_ports_are_those_of_their_pods() {
    let objects = with(|spec| {
        spec["ingest"] = json!({
            "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
        });
    });
    let service = find(&objects, "Service", "pinterest-ingest");
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    let annotations = &service["metadata"]["annotations"];
    assert_eq!(*annotations, json!({"example.com/internal": "true"}));
    for (name, port, target) in [
        ("pinterest-ingest", 8080, "http"),
        ("pinterest-archive", 9091, "control"),
    ] {
        let service = find(&objects, "Service", name);
        let ports = &service["spec"]["ports"];
        assert_eq!(ports[0]["port"], port);
        let container = find(&objects, "Deployment", name);
        let ports = &container["spec"]["template"]["spec"]["containers"][0]["ports"];
        let mut ports = ports.as_array().unwrap().iter();
        assert!(ports.any(|found| found["name"] == target && found["containerPort"] == port));
    }
}

#[test]
fn ingest_mounts_all_tokens_and_the_emulator_no_private_key() {
    let objects = objects(&validated(json!({"emulator": {}, "ingest": {
        "authentication": {"bearerTokensSecretRef": {"name": "tokens"}},
        "tls": {"certificateSecretRef": {"name": "tls"}},
        "limits": {"requestsPerSecondPerClient": 5, "maxConnections": 7},
    }})));
    let volumes = |name: &str| {
        let deployment = find(&objects, "Deployment", name);
        let volumes = &deployment["spec"]["template"]["spec"]["volumes"];
        let volumes = volumes.as_array().unwrap().iter();
        let secrets = volumes.filter(|volume| volume["secret"].is_object());
        let secrets = secrets.map(|volume| {
            let secret = &volume["secret"];
            (secret["secretName"].clone(), secret["items"].clone())
        });
        secrets.collect::<Vec<_>>()
    };
    let item = |key: &str| json!({"key": key, "path": key});
    let all = (json!("tokens"), json!(null));
    let pair = json!([item("tls.crt"), item("tls.key")]);
    assert_eq!(
        volumes("pinterest-ingest"),
        [all.clone(), (json!("tls"), pair)]
    );
    let certificate = json!([item("tls.crt")]);
    assert_eq!(
        volumes("pinterest-emulator"),
        [all, (json!("tls"), certificate)]
    );
    let config = |component: &str| {
        let prefix = format!("pinterest-{component}-");
        let map = objects
            .iter()
            .find(|object| object.resource.kind == "ConfigMap" && object.name.starts_with(&prefix));
        map.unwrap().body["data"]["config.yaml"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (ingest, emulator) = (config("ingest"), config("emulator"));
    for line in [
        "tokensDir: /etc/pinpipe/secrets/ingest-tokens\n",
        "certificateDir: /etc/pinpipe/secrets/ingest-certificate\n",
        "requestsPerSecondPerClient: 5\n",
        "maxConnections: 7\n",
    ] {
        assert!(ingest.contains(line), "{line} in {ingest}");
    }
    for line in [
        "target: https://pinterest-ingest.data.svc:8080\n",
        "certificateFile: /etc/pinpipe/secrets/ingest-certificate/tls.crt\n",
        "tokensDir: /etc/pinpipe/secrets/ingest-tokens\n",
    ] {
        assert!(emulator.contains(line), "{line} in {emulator}");
    }
}
