//! The objects of each component.

use std::slice;

use serde_json::{Value, json};

use super::{
    KINDS, Oracle,
    config::seconds,
    key,
    pods::{Secret, Worker, over},
    set,
};

/// The number of a component's pods.
enum Replicas {
    Fixed(i64),
    /// An autoscaler, if it is the operator's, with its largest number of pods.
    Autoscaled(Option<(Value, i64)>),
}

impl Oracle<'_> {
    /// The record of the settings that can't be changed. It may have those of former sections.
    pub fn require_record(&mut self) {
        let mut data = json!({});
        for kind in KINDS {
            set(
                &mut data,
                &format!("topics.{kind}"),
                json!(self.topic(kind)),
            );
        }
        let archive = &self.spec["archive"];
        if archive.is_object() {
            let endpoint = archive["s3"]["endpoint"].as_str().unwrap_or_default();
            let endpoint = endpoint.strip_suffix('/').unwrap_or(endpoint);
            for (key, value) in [
                ("bucket", archive["bucket"].as_str().unwrap_or_default()),
                ("prefix", archive["prefix"].as_str().unwrap_or("topics")),
                (
                    "compression",
                    archive["compression"].as_str().unwrap_or("None"),
                ),
                ("endpoint", endpoint),
            ] {
                set(&mut data, &format!("archive.{key}"), json!(value));
            }
        }
        let sinks = self.spec["batch"]["sinks"].as_array();
        for sink in sinks.into_iter().flatten() {
            if !sink["cassandra"].is_object() {
                continue;
            }
            let name = sink["name"].as_str().unwrap_or_default();
            let keyspace = sink["cassandra"]["keyspace"].as_str();
            let keyspace = json!(keyspace.unwrap_or("pinterest_data"));
            set(&mut data, &format!("batch.sinks.{name}.keyspace"), keyspace);
        }
        let labels = json!({
            "app.kubernetes.io/name": "pinpipe",
            "app.kubernetes.io/managed-by": "pinpipe-operator",
            "app.kubernetes.io/instance": self.name,
        });
        let name = self.child("record");
        self.add_labelled("ConfigMap", &name, &labels, json!({"data": data}));
    }

    pub fn require_ingest(&mut self) {
        let section = &self.spec["ingest"];
        if !section.is_object() {
            return;
        }
        let ports = json!([{
            "name": "http", "port": 8080, "targetPort": "http", "protocol": "TCP",
        }]);
        let mut service = json!({"selector": self.selector("ingest"), "ports": ports});
        if let Some(exposed) = section["service"]["type"].as_str() {
            set(&mut service, "type", json!(exposed));
        }
        self.add("Service", "ingest", json!({"spec": service}));
        let scaling = &section["autoscaling"];
        let replicas = if let Some(max) = scaling["maxReplicas"].as_i64() {
            let percent = scaling["targetCPUUtilizationPercentage"].as_i64();
            let target = json!({
                "type": "Utilization",
                "averageUtilization": percent.unwrap_or(70),
            });
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            let min = scaling["minReplicas"].as_i64().unwrap_or(max.min(2));
            Replicas::Autoscaled(Some((autoscaler(min, max, &cpu), max)))
        } else {
            Replicas::Fixed(section["replicas"].as_i64().unwrap_or(2))
        };
        let worker = Worker {
            component: "ingest",
            image: "ingest",
            section,
            template: self.template_of(section),
            default_resources: ["50m", "64Mi", "256Mi"],
            secrets: Vec::new(),
            grace_seconds: 30,
        };
        let config = self.ingest_config();
        self.require_deployment(&worker, &config, &replicas);
    }

    pub fn require_stream(&mut self, sink: &Value) {
        let name = sink["name"].as_str().unwrap_or_default();
        let worker = Worker {
            component: &format!("stream-{name}"),
            image: "stream",
            section: sink,
            template: self.template_of(sink),
            default_resources: ["50m", "64Mi", "512Mi"],
            secrets: vec![Secret::url("postgres", &sink["postgres"]["urlSecretRef"])],
            grace_seconds: 60,
        };
        let most = self.partitions().max(1);
        let scaling = &sink["autoscaling"];
        let replicas = if scaling.is_null() {
            Replicas::Fixed(sink["replicas"].as_i64().unwrap_or(1).min(most))
        } else if let Some(lag) = scaling["targetLag"].as_i64() {
            let labels = json!({"pipeline": self.name, "sink": name});
            let metric = json!({
                "name": "pinpipe_stream_lag_records",
                "selector": {"matchLabels": labels},
            });
            let target = json!({"type": "AverageValue", "averageValue": lag});
            let lag = json!({"type": "External", "external": {"metric": metric, "target": target}});
            let max = scaling["maxReplicas"].as_i64().unwrap_or(most).min(most);
            let min = scaling["minReplicas"].as_i64().unwrap_or(1).min(max);
            Replicas::Autoscaled(Some((autoscaler(min, max, &lag), max)))
        } else {
            Replicas::Autoscaled(None)
        };
        let config = self.stream_config(sink);
        self.require_deployment(&worker, &config, &replicas);
    }

    pub fn require_archive(&mut self) {
        let section = &self.spec["archive"];
        let ports = json!([{
            "name": "control", "port": 9091, "targetPort": "control", "protocol": "TCP",
        }]);
        let service = json!({
            "selector": self.selector("archive"),
            "ports": ports,
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
        });
        self.add("Service", "archive", json!({"spec": service}));
        let worker = Worker {
            component: "archive",
            image: "stream",
            section,
            template: self.template_of(section),
            default_resources: ["50m", "128Mi", "768Mi"],
            secrets: vec![self.s3_secret()],
            grace_seconds: 60,
        };
        let config = self.archive_config();
        self.require_deployment(&worker, &config, &Replicas::Fixed(1));
    }

    pub fn require_emulator(&mut self) {
        let section = &self.spec["emulator"];
        let worker = Worker {
            component: "emulator",
            image: "emulator",
            section,
            template: self.template_of(section),
            default_resources: ["20m", "32Mi", "128Mi"],
            secrets: Vec::new(),
            grace_seconds: 10,
        };
        let config = self.emulator_config();
        self.require_deployment(&worker, &config, &Replicas::Fixed(1));
    }

    pub fn require_batch(&mut self) {
        let (section, name) = (&self.spec["batch"], self.child("batch"));
        let template = self.template_of(section);
        let account = template["serviceAccountName"].as_str().unwrap_or(&name);
        if template["serviceAccountName"].is_null() {
            let account = json!({"automountServiceAccountToken": false});
            self.add("ServiceAccount", "batch", account);
        }
        // The Lease's spec belongs to the runs.
        self.add("Lease", "batch", json!({"spec": null}));
        let rules = json!([
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["get", "update"],
                "resourceNames": [name],
            },
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["create"],
                "resourceNames": null,
            },
        ]);
        self.add("Role", "batch", json!({"rules": rules}));
        let subject =
            json!({"kind": "ServiceAccount", "name": account, "namespace": self.namespace});
        let group = "rbac.authorization.k8s.io";
        let binding = json!({
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        });
        self.add("RoleBinding", "batch", binding);
        let mut secrets = vec![self.s3_secret()];
        for sink in section["sinks"].as_array().into_iter().flatten() {
            let name = sink["name"].as_str().unwrap_or_default();
            let reference = &sink["cassandra"]["credentialsSecretRef"];
            if reference.is_object() {
                let directory = format!("cassandra-{name}");
                secrets.push(Secret::new(&directory, reference, ["username", "password"]));
            }
            let url = &sink["postgres"]["urlSecretRef"];
            if url.is_object() {
                secrets.push(Secret::url(&format!("postgres-{name}"), url));
            }
        }
        let worker = Worker {
            component: "batch",
            image: "batch",
            section,
            template: template.clone(),
            default_resources: ["100m", "256Mi", "2Gi"],
            secrets,
            grace_seconds: 30,
        };
        let config = self.batch_config();
        let config = self.require_config("batch", &config);
        let rules = json!([
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": "batch", "operator": "In", "values": [2]},
            },
        ]);
        let job = json!({
            "activeDeadlineSeconds": seconds(section["deadline"].as_str().unwrap_or("6h")),
            "backoffLimit": 2,
            "podFailurePolicy": {"rules": rules},
            "template": self.template(&worker, &config),
        });
        let cron_job = json!({
            "schedule": section["schedule"],
            "timeZone": section["timeZone"].as_str().unwrap_or("UTC"),
            "suspend": self.is_suspended(),
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 300,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": self.labels("batch")}, "spec": job},
        });
        self.add("CronJob", "batch", json!({"spec": cron_job}));
    }

    fn require_deployment(&mut self, worker: &Worker<'_>, config: &Value, replicas: &Replicas) {
        let component = worker.component;
        let config = self.require_config(component, config);
        let found = self.found.get(&key("Deployment", &self.child(component)));
        let found = found.unwrap_or(&Value::Null);
        let is_stored = found["metadata"]["resourceVersion"].is_string();
        let found = &found["spec"];
        let count = match replicas {
            _ if self.is_suspended() => json!(0),
            Replicas::Fixed(count) => json!(count),
            // The API server sets 1, and then an autoscaler any number.
            Replicas::Autoscaled(_) if is_stored => found["replicas"].clone(),
            Replicas::Autoscaled(_) => Value::Null,
        };
        let strategy = match component {
            "archive" | "emulator" => json!({"type": "Recreate", "rollingUpdate": null}),
            _ => json!({
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            }),
        };
        let template = self.template(worker, &config);
        let selector = json!({"matchLabels": self.selector(component)});
        let deployment = json!({
            "replicas": count,
            "revisionHistoryLimit": 3,
            "selector": selector,
            "strategy": strategy,
            "template": template,
        });
        self.add("Deployment", component, json!({"spec": deployment}));
        if self.spec["networkPolicy"].is_object() {
            self.require_network_policy(component);
        }
        let may_be_several = match replicas {
            Replicas::Fixed(count) => *count > 1,
            Replicas::Autoscaled(Some((_, max))) => *max > 1,
            Replicas::Autoscaled(None) => true,
        };
        if may_be_several {
            let budget = json!({
                "maxUnavailable": 1,
                "selector": selector,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            });
            self.add("PodDisruptionBudget", component, json!({"spec": budget}));
        }
        if let Replicas::Autoscaled(Some((spec, _))) = replicas {
            let mut spec = spec.clone();
            let target = json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": self.child(component),
            });
            set(&mut spec, "scaleTargetRef", target);
            self.add("HorizontalPodAutoscaler", component, json!({"spec": spec}));
        }
    }

    /// The operator of the proofs and of the samples is in the namespace `pinpipe-system`.
    fn require_network_policy(&mut self, component: &str) {
        let operator = json!({"namespaceSelector": {"matchLabels": {
            "kubernetes.io/metadata.name": "pinpipe-system",
        }}});
        let pods = |of: &str| json!({"podSelector": {"matchLabels": self.selector(of)}});
        let ports = |ports: &[u16]| {
            let ports = ports.iter();
            let ports = ports.map(|port| json!({"port": port, "protocol": "TCP"}));
            ports.collect::<Value>()
        };
        let named = self.spec["networkPolicy"]["allowFrom"].as_array();
        let named = named.filter(|named| !named.is_empty());
        let from = named.map(|named| [slice::from_ref(&operator), named.as_slice()].concat());
        let open: &[u16] = match component {
            "ingest" => &[8080, 9090],
            _ => &[9090],
        };
        let mut rules = vec![json!({"ports": ports(open), "from": from})];
        match component {
            "ingest" if named.is_some() && self.spec["emulator"].is_object() => {
                rules.push(json!({"ports": ports(&[8080]), "from": [pods("emulator")]}));
            }
            "ingest" | "emulator" => {}
            _ => {
                let from = json!([operator, pods("batch")]);
                rules.push(json!({"ports": ports(&[9091]), "from": from}));
            }
        }
        let policy = json!({
            "podSelector": {"matchLabels": self.selector(component)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        });
        self.add("NetworkPolicy", component, json!({"spec": policy}));
    }

    fn template_of(&self, section: &Value) -> Value {
        over(&self.spec["template"], &section["template"])
    }

    fn s3_secret(&self) -> Secret {
        let reference = &self.spec["archive"]["s3"]["credentialsSecretRef"];
        Secret::new("s3", reference, ["accessKeyId", "secretAccessKey"])
    }
}

/// The spec of an autoscaler without its target.
fn autoscaler(min: i64, max: i64, metric: &Value) -> Value {
    json!({"minReplicas": min, "maxReplicas": max, "metrics": [metric]})
}
