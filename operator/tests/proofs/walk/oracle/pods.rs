//! Pod templates.

use serde_json::{Value, json};

use super::{Config, Oracle, set};

/// A component's pods, as far as they differ from those of other components.
pub struct Worker<'a> {
    pub component: &'a str,
    /// The image and the container.
    pub image: &'a str,
    /// The component's section of the spec.
    pub section: &'a Value,
    /// Its template, laid over the general one.
    pub template: Value,
    /// CPU request, memory request and memory limit if the section sets none.
    pub default_resources: [&'a str; 3],
    pub secrets: Vec<Secret>,
    pub grace_seconds: i64,
}

/// A mounted Secret.
pub struct Secret {
    /// The directory below `/etc/pinpipe/secrets`.
    pub directory: String,
    pub name: Value,
    /// Keys and the files they are mounted as.
    pub files: Vec<(String, String)>,
}

impl Secret {
    /// A Secret whose keys are mounted as files of the same names.
    pub fn new(directory: &str, reference: &Value, keys: [&str; 2]) -> Self {
        Self {
            directory: directory.to_owned(),
            name: reference["name"].clone(),
            files: keys.map(|key| (key.to_owned(), key.to_owned())).into(),
        }
    }

    /// A Secret whose key with a URL is mounted as the file `url`.
    pub fn url(directory: &str, reference: &Value) -> Self {
        let key = reference["key"].as_str().unwrap_or_default();
        Self {
            directory: directory.to_owned(),
            name: reference["name"].clone(),
            files: vec![(key.to_owned(), "url".to_owned())],
        }
    }
}

impl Oracle<'_> {
    /// The pod template of a worker.
    pub fn template(&self, worker: &Worker<'_>, config: &Config) -> Value {
        let template = &worker.template;
        let mut labels = self.labels(worker.component);
        extend(&mut labels, &template["labels"]);
        let mut annotations = json!({"pinpipe.dev/config-hash": config.hash});
        if !["batch", "emulator"].contains(&worker.component) {
            let hash = super::hash(&self.kafka().to_string());
            set(&mut annotations, "pinpipe.dev/kafka-hash", json!(hash));
        }
        extend(&mut annotations, &template["annotations"]);
        json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": self.pod_spec(worker, config),
        })
    }

    fn pod_spec(&self, worker: &Worker<'_>, config: &Config) -> Value {
        let template = &worker.template;
        let is_batch = worker.component == "batch";
        let account = match template["serviceAccountName"].as_str() {
            Some(account) => json!(account),
            None if is_batch => json!(self.child("batch")),
            None => json!("default"),
        };
        let (spread, affinity) = self.spread(worker);
        let id = if leaves_ids(template) {
            Value::Null
        } else {
            json!(65_532)
        };
        let mut spec = json!({
            "containers": [self.container(worker)],
            "volumes": volumes(worker, config),
            "imagePullSecrets": template["imagePullSecrets"],
            "priorityClassName": template["priorityClassName"],
            "serviceAccountName": account,
            "nodeSelector": template["nodeSelector"],
            "tolerations": tolerations(&template["tolerations"]),
            "topologySpreadConstraints": spread,
            "affinity": affinity,
            "automountServiceAccountToken": is_batch,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": worker.grace_seconds,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": id,
                "runAsGroup": id,
                "fsGroup": id,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        });
        if is_batch {
            set(&mut spec, "restartPolicy", json!("Never"));
        }
        spec
    }

    fn container(&self, worker: &Worker<'_>) -> Value {
        let admin = json!({"name": "admin", "containerPort": 9090, "protocol": "TCP"});
        let control = json!({"name": "control", "containerPort": 9091, "protocol": "TCP"});
        let http = json!({"name": "http", "containerPort": 8080, "protocol": "TCP"});
        let ports = match worker.component {
            "batch" => json!([]),
            "ingest" => json!([http, admin]),
            "emulator" => json!([admin]),
            _ => json!([admin, control]),
        };
        let lifecycle = match worker.component {
            "ingest" => json!({"preStop": {"sleep": {"seconds": 3}}}),
            _ => Value::Null,
        };
        let probe = |path: &str, period: i64, failures: i64| match worker.component {
            "batch" => Value::Null,
            _ => json!({
                "httpGet": {"path": path, "port": "admin"},
                "periodSeconds": period,
                "failureThreshold": failures,
                "timeoutSeconds": 3,
            }),
        };
        let [cpu, memory, limit] = worker.default_resources;
        let resources = match &worker.template["resources"] {
            // Set requests and limits replace all defaults.
            Value::Object(set) => json!({
                "requests": set.get("requests"),
                "limits": set.get("limits"),
            }),
            _ => json!({
                "requests": {"cpu": cpu, "memory": memory},
                "limits": {"memory": limit},
            }),
        };
        let pull_policy = &self.spec["image"]["pullPolicy"];
        json!({
            "name": worker.image,
            "image": self.image(worker.image),
            "imagePullPolicy": pull_policy.as_str().unwrap_or("IfNotPresent"),
            "env": env(worker),
            "ports": ports,
            "resources": resources,
            "volumeMounts": mounts(worker),
            "lifecycle": lifecycle,
            "startupProbe": probe("/healthz", 1, 60),
            "livenessProbe": probe("/healthz", 10, 6),
            "readinessProbe": probe("/readyz", 5, 2),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    }

    /// `<registry>/<worker>:<tag>`, with a digest where one is pinned. The operator's digests
    /// belong to the operator's tag.
    fn image(&self, worker: &str) -> String {
        let set = &self.spec["image"];
        let registry = set["registry"].as_str().unwrap_or(self.images.registry);
        let own_tag = set["tag"].as_str().filter(|tag| !tag.is_empty());
        let tag = own_tag.unwrap_or(self.images.tag);
        let operators = self.images.digests.iter().find(|(name, _)| *name == worker);
        let operators = operators.filter(|_| own_tag.is_none());
        match operators {
            Some((_, digest)) => format!("{registry}/{worker}:{tag}@{digest}"),
            None => format!("{registry}/{worker}:{tag}"),
        }
    }

    /// Topology spread constraints and affinity. By default, the pods of ingest and stream sinks
    /// are spread over nodes and zones.
    fn spread(&self, worker: &Worker<'_>) -> (Value, Value) {
        let selector = json!({"matchLabels": self.selector(worker.component)});
        let of_template = json!(["pod-template-hash"]);
        let affinity = worker.template["affinity"].clone();
        if let Some(set) = worker.template["topologySpreadConstraints"].as_array() {
            let set = set.iter().map(|constraint| {
                json!({
                    "topologyKey": constraint["topologyKey"],
                    "maxSkew": constraint["maxSkew"].as_i64().unwrap_or(1),
                    "whenUnsatisfiable": constraint["whenUnsatisfiable"],
                    "labelSelector": selector,
                    "matchLabelKeys": of_template,
                })
            });
            return (set.collect(), affinity);
        }
        if matches!(worker.component, "archive" | "batch" | "emulator") {
            return (Value::Null, affinity);
        }
        let spread = json!([{
            "topologyKey": "kubernetes.io/hostname",
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
            "matchLabelKeys": of_template,
        }]);
        let apart = json!([{
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "topology.kubernetes.io/zone",
                "labelSelector": selector,
                "matchLabelKeys": of_template,
            },
        }]);
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let mut both = json!({"podAntiAffinity": {preferred: apart}});
        for (field, value) in affinity.as_object().into_iter().flatten() {
            set(&mut both, field, value.clone());
        }
        (spread, both)
    }
}

/// A component's template over the general one: maps by key, lists of names by name, all else as a
/// whole.
pub fn over(general: &Value, own: &Value) -> Value {
    let mut both = general.clone();
    for (field, own) in own.as_object().into_iter().flatten() {
        let merged = match (field.as_str(), &both[field]) {
            ("labels" | "annotations" | "nodeSelector", Value::Object(_)) => {
                let mut merged = own.clone();
                extend(&mut merged, &both[field]);
                merged
            }
            ("env" | "imagePullSecrets", Value::Array(general)) => {
                let is_set = |item: &&Value| {
                    own.as_array()
                        .into_iter()
                        .flatten()
                        .any(|own| own["name"] == item["name"])
                };
                let others = general.iter().filter(|item| !is_set(item));
                others
                    .chain(own.as_array().into_iter().flatten())
                    .cloned()
                    .collect()
            }
            _ => own.clone(),
        };
        set(&mut both, field, merged);
    }
    both
}

fn leaves_ids(template: &Value) -> bool {
    template["podSecurity"] == "FromPlatform"
}

/// The variables of a worker: its own, the level of the log, those of the template. Kubernetes
/// drops an empty value.
fn env(worker: &Worker<'_>) -> Value {
    let mut env = Vec::new();
    if worker.component == "batch" {
        env.push(run_name());
    }
    if let Some(level) = worker.template["logLevel"].as_str() {
        env.push(json!({"name": "RUST_LOG", "value": level.to_lowercase()}));
    }
    for variable in worker.template["env"].as_array().into_iter().flatten() {
        let mut variable = variable.clone();
        if variable["value"] == "" {
            set(&mut variable, "value", Value::Null);
        }
        env.push(variable);
    }
    Value::Array(env)
}

/// The tolerations that are set, and half a minute for the taints of a failed node unless a set
/// toleration applies to them.
fn tolerations(set: &Value) -> Value {
    let mut all = set.as_array().cloned().unwrap_or_default();
    for taint in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let applies = |toleration: &Value| {
            let (key, effect) = (&toleration["key"], &toleration["effect"]);
            (key.is_null() || key == taint) && (effect.is_null() || effect == "NoExecute")
        };
        if !set.as_array().into_iter().flatten().any(applies) {
            all.push(json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            }));
        }
    }
    Value::Array(all)
}

fn volumes(worker: &Worker<'_>, config: &Config) -> Value {
    let mode = if leaves_ids(&worker.template) {
        0o444
    } else {
        0o440
    };
    let mut volumes = vec![json!({"name": "config", "configMap": {"name": config.name}})];
    for secret in &worker.secrets {
        let files = secret.files.iter();
        let items: Vec<_> = files
            .map(|(key, path)| json!({"key": key, "path": path}))
            .collect();
        let name = format!("secret-{}", secret.directory);
        // Temporary credentials of the object store have a third key.
        volumes.push(if secret.directory == "s3" {
            let token = json!([{"key": "sessionToken", "path": "sessionToken"}]);
            let sources = json!([
                {"secret": {"name": secret.name, "items": items}},
                {"secret": {"name": secret.name, "items": token, "optional": true}},
            ]);
            json!({"name": name, "projected": {"defaultMode": mode, "sources": sources}})
        } else {
            let secret = json!({"secretName": secret.name, "defaultMode": mode, "items": items});
            json!({"name": name, "secret": secret})
        });
    }
    if worker.component == "batch" {
        let size = &worker.section["scratchSize"];
        let size = if size.is_null() {
            json!("16Gi")
        } else {
            size.clone()
        };
        volumes.push(json!({"name": "tmp", "emptyDir": {"sizeLimit": size}}));
    }
    Value::Array(volumes)
}

fn mounts(worker: &Worker<'_>) -> Value {
    let config = json!({"name": "config", "mountPath": "/etc/pinpipe/config", "readOnly": true});
    let mut mounts = vec![config];
    for secret in &worker.secrets {
        mounts.push(json!({
            "name": format!("secret-{}", secret.directory),
            "mountPath": format!("/etc/pinpipe/secrets/{}", secret.directory),
            "readOnly": true,
        }));
    }
    if worker.component == "batch" {
        mounts.push(json!({"name": "tmp", "mountPath": "/tmp", "readOnly": null}));
    }
    Value::Array(mounts)
}

/// A run has the name of its Job.
fn run_name() -> Value {
    let path = "metadata.labels['batch.kubernetes.io/job-name']";
    json!({"name": "PINPIPE_RUN", "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// Adds the fields of an object to another one; those that are there stay.
fn extend(to: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        if to[key].is_null() {
            set(to, key, value.clone());
        }
    }
}
