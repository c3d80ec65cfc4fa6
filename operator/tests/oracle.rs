//! The oracle of the proof `walk` accepts what the build phase makes of sample specs, and reports
//! each of many mutants of it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "proofs/walk/oracle/mod.rs"]
mod oracle;
#[path = "proofs/specs.rs"]
mod specs;

use oracle::{Images, differences};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{
    build::{Observed, build},
    model,
    names::hash,
    samples::all_there,
    validate::validate,
};
use serde_json::{Value, json};

/// The operator's images, of which one is pinned.
const IMAGES: Images<'_> = Images {
    registry: "registry.test/pinpipe",
    tag: "1",
    digests: &[("batch", "sha256:0b")],
};
const BROKER: &str = "kafka:9092";

/// A pipeline with this spec.
fn pipeline(spec: &Value) -> Value {
    let mut pipeline = specs::pipeline("data", "pinterest", &json!({}), spec);
    pipeline["metadata"]["uid"] = json!("0001");
    pipeline
}

/// The children that the operator builds for a pipeline.
fn built(pipeline: &Value) -> Vec<Value> {
    let pipeline: PinterestPipeline = serde_json::from_value(pipeline.clone()).unwrap();
    let digests = IMAGES.digests.iter();
    let images = model::Images {
        registry: IMAGES.registry.to_owned(),
        tag: IMAGES.tag.to_owned(),
        digests: digests
            .map(|(worker, digest)| ((*worker).to_owned(), (*digest).to_owned()))
            .collect(),
        ..model::Images::default()
    };
    let validated = validate(&pipeline, &all_there(&pipeline), &images).unwrap();
    let desired = build(&validated, &Observed::default());
    let objects = [desired.record].into_iter().chain(desired.objects);
    let children = objects.map(|object| {
        let mut child = object.body;
        child["kind"] = json!(object.resource.kind);
        child
    });
    children.collect()
}

/// Specs that together use every section, with and without its optional fields.
fn samples() -> Vec<(&'static str, Value)> {
    let minimal = json!({"broker": {"kafka": {"bootstrapServers": BROKER}}});
    let mut suspended = specs::whole(BROKER);
    suspended["suspend"] = json!(true);
    let mut scaled = specs::thorough(BROKER);
    let sinks = &mut scaled["stream"]["sinks"];
    for sink in sinks.as_array_mut().unwrap() {
        sink.as_object_mut().unwrap().remove("replicas");
    }
    sinks[0]["autoscaling"] = json!({"targetLag": 500, "minReplicas": 2, "maxReplicas": 50});
    sinks[1]["autoscaling"] = json!({});
    let mut capped = specs::whole(BROKER);
    capped["stream"]["sinks"][0]["replicas"] = json!(50);
    let mut pods = specs::whole(BROKER);
    for section in ["/archive", "/batch", "/emulator", "/stream/sinks/1"] {
        pods.pointer_mut(section).unwrap()["template"] = json!({
            "labels": {"team": "pins"},
            "annotations": {"example.com/a": "b"},
            "nodeSelector": {"disk": "fast"},
            "serviceAccountName": "reader",
            "topologySpreadConstraints": [
                {"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
            ],
            "tolerations": [
                {
                    "key": "node.kubernetes.io/unreachable",
                    "operator": "Exists",
                    "effect": "NoExecute",
                },
                {"key": "gpu", "operator": "Exists"},
            ],
        });
    }
    pods["template"] = specs::general_template();
    let mut answers = specs::whole(BROKER);
    answers["batch"]["sinks"] = json!([]);
    let mut sinks = specs::whole(BROKER);
    for section in ["archive", "batch"] {
        sinks.as_object_mut().unwrap().remove(section);
    }
    vec![
        ("minimal", minimal),
        ("whole", specs::whole(BROKER)),
        ("changed", specs::changed(BROKER)),
        ("thorough", specs::thorough(BROKER)),
        ("suspended", suspended),
        ("scaled", scaled),
        ("capped", capped),
        ("pods", pods),
        ("sinks", sinks),
        ("answers", answers),
    ]
}

fn sample(name: &str) -> Value {
    let mut samples = samples().into_iter();
    samples.find(|(found, _)| *found == name).unwrap().1
}

/// A field that is unknown would be ignored here, and refused by an API server.
#[test]
fn the_samples_have_only_fields_of_the_resource() {
    for (name, spec) in samples() {
        let read: PinterestPipeline = serde_json::from_value(pipeline(&spec)).unwrap();
        let written = serde_json::to_value(read.spec).unwrap();
        assert_eq!(unknown(&spec, &written), None, "{name}");
    }
}

/// Path of the first field that was read, but isn't written. Empty lists may be left out.
fn unknown(read: &Value, written: &Value) -> Option<String> {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            read.iter()
                .find_map(|(name, value)| match written.get(name) {
                    Some(written) => unknown(value, written).map(|below| format!("{name}.{below}")),
                    None => (value != &json!([])).then(|| name.clone()),
                })
        }
        (Value::Array(read), Value::Array(written)) => {
            let mut pairs = read.iter().zip(written);
            pairs.find_map(|(read, written)| unknown(read, written))
        }
        _ => None,
    }
}

#[test]
fn the_oracle_accepts_what_is_built() {
    for (name, spec) in samples() {
        let pipeline = pipeline(&spec);
        let found = differences(&pipeline, &IMAGES, &built(&pipeline), false);
        assert!(found.is_empty(), "{name}:\n{}", found.join("\n"));
    }
}

/// Sample, kind, component, pointer to a field, and the wrong value; null removes the field. `POD`
/// is the pod's spec, `C` its container.
const WRONG_FIELDS: &str = r#"
whole Deployment ingest C/image "registry.test/pinpipe/ingest:2"
whole CronJob batch C/image "registry.test/pinpipe/batch:1"
whole Deployment ingest /spec/replicas 3
capped Deployment stream-live /spec/replicas 50
suspended Deployment archive /spec/replicas 1
scaled Deployment stream-log /spec/replicas 1
whole Deployment archive /spec/strategy/type "RollingUpdate"
whole Deployment stream-live POD/volumes/1/secret/items/0/key "password"
whole Deployment archive POD/volumes/1/projected/sources/0/secret/name "other"
whole Deployment archive POD/volumes/1/projected/sources/1/secret/optional null
whole Deployment archive C/volumeMounts/1/mountPath "/etc/pinpipe/secrets"
whole CronJob batch POD/volumes/2/secret/items/1/path "pass"
whole CronJob batch POD/volumes/3/emptyDir/sizeLimit "1Gi"
whole Deployment ingest POD/volumes/0/configMap/name "pinterest-ingest-0123456789"
whole Deployment ingest C/readinessProbe/httpGet/path "/healthz"
whole Deployment emulator C/livenessProbe/httpGet/port "http"
whole Deployment ingest C/ports/0/containerPort 8081
thorough Deployment ingest C/resources/limits/memory "1Mi"
thorough Deployment archive C/imagePullPolicy "Never"
whole Deployment archive POD/tolerations/0 null
pods Deployment archive POD/tolerations/2/tolerationSeconds 300
whole Deployment stream-live POD/topologySpreadConstraints null
pods Deployment emulator POD/nodeSelector/disk "slow"
pods Deployment archive /spec/template/metadata/labels/team null
pods Deployment ingest /spec/template/metadata/labels/team "pins"
pods Deployment archive /spec/template/metadata/annotations/example.com~1all null
pods Deployment ingest POD/priorityClassName "low"
pods Deployment ingest POD/imagePullSecrets null
pods Deployment archive POD/affinity null
pods Deployment ingest POD/affinity/podAntiAffinity null
pods Deployment ingest POD/securityContext/runAsUser 65532
pods Deployment archive POD/volumes/1/projected/defaultMode 288
pods Deployment ingest C/env/0/value "info"
pods Deployment ingest C/env/2/valueFrom/secretKeyRef/key "other"
pods CronJob batch C/env/2 null
pods Deployment emulator C/resources/limits/ephemeral-storage "2Gi"
pods Deployment archive POD/serviceAccountName "default"
whole Deployment emulator POD/securityContext/runAsNonRoot false
whole Deployment stream-live POD/terminationGracePeriodSeconds 30
whole CronJob batch /spec/suspend true
suspended CronJob batch /spec/suspend false
thorough CronJob batch /spec/schedule "@hourly"
thorough CronJob batch /spec/timeZone "UTC"
whole CronJob batch /spec/concurrencyPolicy "Allow"
whole CronJob batch /spec/jobTemplate/spec/activeDeadlineSeconds 60
whole ConfigMap record /data/archive.prefix "other"
thorough HorizontalPodAutoscaler ingest /spec/maxReplicas 6
scaled HorizontalPodAutoscaler stream-live /spec/maxReplicas 50
scaled HorizontalPodAutoscaler stream-live /spec/metrics/0/external/target/averageValue "501"
scaled HorizontalPodAutoscaler stream-live /spec/metrics/0/external/metric/name "lag"
whole PodDisruptionBudget ingest /spec/maxUnavailable 0
whole Service ingest /spec/ports/0/port 80
whole Service archive /spec/clusterIP null
whole Service ingest /spec/selector/app.kubernetes.io~1component "archive"
whole Deployment ingest /metadata/ownerReferences/0/uid "0002"
whole Lease batch /metadata/ownerReferences null
whole Role batch /rules/0/verbs/1 "delete"
pods RoleBinding batch /subjects/0/name "pinterest-batch"
"#;

#[test]
fn the_oracle_reports_each_wrong_field() {
    for line in WRONG_FIELDS.trim().lines() {
        let parts: Vec<_> = line.splitn(5, ' ').collect();
        let [name, kind, component, pointer, wrong] = parts.try_into().unwrap();
        let pod = match kind {
            "CronJob" => "/spec/jobTemplate/spec/template/spec",
            _ => "/spec/template/spec",
        };
        let pointer = match (pointer.strip_prefix("POD"), pointer.strip_prefix('C')) {
            (Some(rest), _) => format!("{pod}{rest}"),
            (_, Some(rest)) => format!("{pod}/containers/0{rest}"),
            _ => pointer.to_owned(),
        };
        let pipeline = pipeline(&sample(name));
        let mut children = built(&pipeline);
        let child = format!("pinterest-{component}");
        let mutant = children
            .iter_mut()
            .find(|found| found["kind"] == kind && found["metadata"]["name"] == child)
            .unwrap();
        put(mutant, &pointer, serde_json::from_str(wrong).unwrap());
        let found = differences(&pipeline, &IMAGES, &children, false);
        let prefix = format!("{kind} {child}/");
        assert!(
            !found.is_empty() && found.iter().all(|line| line.starts_with(&prefix)),
            "{line}: {found:?}"
        );
    }
}

/// Sets the value at a pointer, also where there is none; null removes it.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    let field = field.replace("~1", "/");
    match parent {
        Value::Array(items) if value.is_null() => {
            items.remove(field.parse().unwrap());
        }
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
        Value::Object(fields) if value.is_null() => {
            fields.remove(&field).unwrap();
        }
        parent => parent[&field] = value,
    }
}

/// Sample, component, a part of its configuration, and the wrong replacement, separated by `|`.
const WRONG_CONFIGURATIONS: &str = "
whole|ingest|bootstrapServers: kafka:9092|bootstrapServers: kafka:9093
whole|ingest|name: data.pinterest.pin|name: data.pinterest.pins
whole|ingest|deadLetter: data.pinterest.geo.dlq|deadLetter: data.pinterest.geo
thorough|ingest|maxRecordBytes: 1000|maxRecordBytes: 65536
thorough|ingest|linger.ms: '20'|linger.ms: '5'
thorough|archive|client.rack: eu-west-1a|client.rack: eu-west-1b
whole|stream-live|group: data.pinterest.live|group: data.pinterest.archive
whole|stream-live|writesDeadLetters: false|writesDeadLetters: true
sinks|stream-live|writesDeadLetters: true|writesDeadLetters: false
thorough|stream-live|startFrom: latest|startFrom: earliest
thorough|stream-live|schema: live|schema: public
thorough|stream-log|writeMode: append|writeMode: upsert
thorough|stream-log|key other|key url
whole|archive|bucket: raw|bucket: other
thorough|archive|bytes: 2048|bytes: 2000
thorough|archive|prefix: raw/zone|prefix: topics
thorough|archive|compression: zstd|compression: gzip
thorough|archive|intervalSeconds: 3661|intervalSeconds: 300
thorough|archive|endpoint: http://s3.example:9000|endpoint: http://s3:9000
thorough|batch|keyspace: pins|keyspace: pinterest_data
thorough|batch|dc1: 3|dc1: 1
thorough|batch|schema: answers|schema: batch
thorough|batch|key other|key url
thorough|batch|maxRejected: 1%|maxRejected: 10%
thorough|batch|country: 0.25%|country: 0.2%
whole|batch|archiveGroup: data.pinterest.archive|archiveGroup: archive
whole|batch|lease: pinterest-batch|lease: pinterest
thorough|emulator|seed: 7|seed: 1
whole|emulator|http://pinterest-ingest.data|http://pinterest-ingest.test
";

/// Names and hashes are those of the wrong configuration, as if the operator had built it.
#[test]
fn the_oracle_reports_each_wrong_configuration() {
    for line in WRONG_CONFIGURATIONS.trim().lines() {
        let parts: Vec<_> = line.split('|').collect();
        let [name, component, right, wrong] = parts.try_into().unwrap();
        let pipeline = pipeline(&sample(name));
        let children = json!(built(&pipeline));
        let label = "/metadata/labels/app.kubernetes.io~1component";
        let is_config = |child: &&Value| {
            let found = child.pointer(label);
            child["kind"] == "ConfigMap" && found.is_some_and(|found| found == component)
        };
        let config = children.as_array().unwrap().iter().find(is_config).unwrap();
        let before = config["data"]["config.yaml"].as_str().unwrap();
        let after = before.replacen(right, wrong, 1);
        assert_ne!(
            after, before,
            "{component}: there is no {right} in\n{before}"
        );
        let quoted = |text: &str| json!(text).to_string();
        let (old, new) = (hash(before), hash(&after));
        let text = children.to_string();
        let text = text.replace(&quoted(before), &quoted(&after));
        let text = text.replace(&old, &new).replace(&old[..10], &new[..10]);
        let children: Vec<Value> = serde_json::from_str(&text).unwrap();
        let found = differences(&pipeline, &IMAGES, &children, false);
        let prefix = format!(
            "ConfigMap pinterest-{component}-{}/data/config.yaml/",
            &new[..10]
        );
        assert!(
            matches!(found.as_slice(), [line] if line.starts_with(&prefix)),
            "{name}: {component} with {wrong}: {found:?}"
        );
    }
}

#[test]
fn the_oracle_reports_each_missing_and_each_unexpected_child() {
    let pipeline = pipeline(&sample("scaled"));
    let children = built(&pipeline);
    for at in 0..children.len() {
        let mut others = children.clone();
        let removed = others.remove(at);
        let found = differences(&pipeline, &IMAGES, &others, false);
        let kind = removed["kind"].as_str().unwrap().to_owned();
        let missing = |line: &String| line.starts_with(&kind) && line.ends_with(": missing");
        assert!(found.iter().any(missing), "{kind}: {found:?}");

        let mut more = children.clone();
        let mut stale = removed;
        stale["metadata"]["name"] = json!("stale");
        more.push(stale);
        let found = differences(&pipeline, &IMAGES, &more, false);
        assert_eq!(found, [format!("{kind} stale: unexpected")]);
    }
}

/// While the API server refuses the `CronJob`, an older one and its `ConfigMap` may exist, and
/// nothing else.
#[test]
fn the_oracle_leaves_a_cron_job_whose_change_is_refused() {
    let old = pipeline(&sample("thorough"));
    let mut new = sample("thorough");
    new["batch"]["timeZone"] = json!("Nowhere/Else");
    new["batch"]["quality"] = json!({"maxRejected": "50%"});
    let new = pipeline(&new);
    let (before, mut after) = (built(&old), built(&new));
    after.retain(|child| child["kind"] != "CronJob");
    assert_eq!(differences(&new, &IMAGES, &after, true), [""; 0]);
    assert_eq!(
        differences(&new, &IMAGES, &after, false),
        ["CronJob pinterest-batch: missing"]
    );
    let is_old = |child: &&Value| {
        let name = child["metadata"]["name"].as_str().unwrap();
        child["kind"] == "CronJob"
            || child["kind"] == "ConfigMap" && name.starts_with("pinterest-batch-")
    };
    after.extend(before.iter().filter(is_old).cloned());
    assert_eq!(differences(&new, &IMAGES, &after, true), [""; 0]);
    after.retain(|child| child["kind"] != "CronJob");
    assert_eq!(differences(&new, &IMAGES, &after, true).len(), 1);
}
