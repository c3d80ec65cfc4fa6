//! Specs of the pipelines in proofs.

use serde_json::{Value, json};

/// Every section, with only the required fields and two replicas of ingest.
pub fn whole(bootstrap_servers: &str) -> Value {
    json!({
        "broker": {"kafka": {
            "bootstrapServers": bootstrap_servers,
            "topics": {"partitions": 1, "deletionPolicy": "Delete"},
        }},
        "networkPolicy": {},
        "ingest": {"replicas": 2},
        "stream": {"sinks": [
            {"name": "live", "postgres": {"urlSecretRef": {"name": "warehouse", "key": "url"}}},
            {"name": "old", "postgres": {
                "urlSecretRef": {"name": "warehouse", "key": "other"},
                "schema": "old",
            }},
        ]},
        "archive": {"bucket": "raw", "s3": {"credentialsSecretRef": {"name": "s3"}}},
        "batch": {"schedule": "0 10 * * *", "sinks": [{"name": "serving", "cassandra": {
            "contactPoints": ["c:9042"],
            "credentialsSecretRef": {"name": "cassandra"},
        }}]},
        "emulator": {},
    })
}

/// [`whole`] with a change in most sections.
pub fn changed(bootstrap_servers: &str) -> Value {
    let mut spec = whole(bootstrap_servers);
    spec["broker"]["kafka"]["topics"]["partitions"] = json!(2);
    spec["ingest"] = json!({"autoscaling": {"minReplicas": 2, "maxReplicas": 3}});
    spec["stream"]["sinks"][1] = json!({"name": "new", "replicas": 2, "postgres": {
        "urlSecretRef": {"name": "warehouse", "key": "other"},
        "schema": "new",
    }});
    spec["batch"]["schedule"] = json!("30 11 * * *");
    spec["archive"]["rotate"] = json!({"records": 10});
    for section in ["emulator", "networkPolicy"] {
        spec.as_object_mut().map(|spec| spec.remove(section));
    }
    spec
}

/// Every optional field, with values that the API server normalizes.
pub fn thorough(bootstrap_servers: &str) -> Value {
    let resources = json!({
        "requests": {"cpu": "0.5", "memory": "1024Mi"},
        "limits": {"cpu": 2, "memory": "1073741824"},
    });
    json!({
        "suspend": false,
        "broker": thorough_broker(bootstrap_servers),
        "networkPolicy": {"allowFrom": [
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"posts": "true"}}},
            {"ipBlock": {"cidr": "10.0.0.0/8"}},
        ]},
        "ingest": thorough_ingest(&resources),
        "stream": thorough_stream(),
        "archive": {
            "bucket": "raw",
            "prefix": "raw/zone",
            "compression": "Zstd",
            "rotate": {"size": "2Ki", "records": 10, "interval": "1h1m1s"},
            "s3": {
                "endpoint": "http://s3.example:9000/",
                "region": "eu-west-1",
                "credentialsSecretRef": {"name": "s3"},
                "serverSideEncryption": {"kmsKeyId": "alias/pinterest"},
            },
            "template": {"resources": {"requests": {"cpu": ".25", "memory": "0.5Gi"}}},
        },
        "batch": thorough_batch(&resources),
        "emulator": {
            "recordsPerSecond": 5,
            "source": {"synthetic": {"seed": 7}},
            "template": {"resources": {"requests": {"cpu": "100m"}}},
        },
        "image": {
            "registry": "registry.test/own",
            "tag": "2",
            "pullPolicy": "Always",
        },
        "template": general_template(),
    })
}

/// A template for all components with the fields that no component of [`thorough`] sets, and labels
/// that some set as well.
pub fn general_template() -> Value {
    let terms = json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    json!({
        "labels": {"team": "all", "tier": "workers"},
        "annotations": {"example.com/all": "c"},
        "env": [
            {"name": "PLAIN", "value": "1"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "warehouse", "key": "url"}}},
            {"name": "EMPTY", "value": ""},
        ],
        "logLevel": "Warn",
        "affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": terms}}},
        "imagePullSecrets": [{"name": "b"}, {"name": "a"}],
        "resources": {"limits": {"ephemeral-storage": "1Gi"}},
        "podSecurity": "FromPlatform",
    })
}

fn thorough_broker(bootstrap_servers: &str) -> Value {
    json!({"kafka": {
        "bootstrapServers": bootstrap_servers,
        "settings": {"linger.ms": "20", "client.rack": "eu-west-1a"},
        "topics": {
            "partitions": 2,
            "replicationFactor": 1,
            "config": {"retention.ms": "604800000", "max.message.bytes": "2000000"},
            "deletionPolicy": "Delete",
            "overrides": {"pin": {"partitions": 3}, "geo": {"name": "thorough.places"}},
        },
    }})
}

fn thorough_ingest(resources: &Value) -> Value {
    json!({
        "template": {
            "labels": {"team": "pins"},
            "annotations": {"example.com/a": "b"},
            "nodeSelector": {"disk": "fast"},
            "serviceAccountName": "someone",
            "tolerations": [{
                "key": "dedicated",
                "operator": "Equal",
                "value": "pins",
                "effect": "NoSchedule",
            }],
            "topologySpreadConstraints": [{
                "topologyKey": "zone",
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
            }],
            "resources": resources,
        },
        "maxRecordBytes": 1000,
        "service": {"type": "NodePort", "annotations": {"example.com/a": "b"}},
        "limits": {"requestsPerSecondPerClient": 1000, "maxConnections": 100},
        "aliases": [{"name": "streaming-0a1b-pin", "kind": "Pin"}],
        "autoscaling": {
            "minReplicas": 2,
            "maxReplicas": 5,
            "targetCPUUtilizationPercentage": 50,
        },
    })
}

fn thorough_stream() -> Value {
    json!({"sinks": [
        {
            "name": "live",
            "startFrom": "Latest",
            "replicas": 2,
            "template": {"resources": {"limits": {"memory": "1Gi", "cpu": "1e0"}}},
            "postgres": {
                "urlSecretRef": {"name": "warehouse", "key": "url"},
                "schema": "live",
                "writeMode": "Upsert",
            },
        },
        {
            "name": "log",
            "startFrom": "Earliest",
            "template": {"resources": {}},
            "postgres": {
                "urlSecretRef": {"name": "warehouse", "key": "other"},
                "schema": "log",
                "writeMode": "Append",
            },
        },
    ]})
}

fn thorough_batch(resources: &Value) -> Value {
    json!({
        "schedule": "@daily",
        "timeZone": "Europe/London",
        "scratchSize": "20480Mi",
        "template": {"resources": resources},
        "quality": {
            "maxRejected": "1%",
            "maxRepaired": [
                {"field": "age", "limit": "50%"},
                {"field": "country", "limit": "0.25%"},
            ],
        },
        "sinks": [
            {"name": "serving", "cassandra": {
                "contactPoints": ["a.example:9042", "b.example:9042"],
                "keyspace": "pins",
                "replication": {"dc1": 3, "dc2": 2},
                "credentialsSecretRef": {"name": "cassandra"},
            }},
            {"name": "warehouse", "postgres": {
                "urlSecretRef": {"name": "warehouse", "key": "other"},
                "schema": "answers",
            }},
        ],
    })
}

/// The manifest of a pipeline.
pub fn pipeline(namespace: &str, name: &str, annotations: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestPipeline",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": annotations,
            "labels": {"team": "pins"},
        },
        "spec": spec,
    })
}
