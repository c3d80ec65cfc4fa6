//! What pods are made from besides the workers' own needs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Resources, SecretKeyRef, SecretRef};

/// Settings of pods. `spec.template` is for all components. A component's own template is laid over
/// it: maps are merged by key, `env` and `imagePullSecrets` by name; any other field that a
/// component sets replaces that of `spec.template` as a whole.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Additional labels of the pods.
    #[schemars(schema_with = "crate::schema::labels")]
    #[x_kube(
        validation = Rule::new(
            "self.all(key, !key.startsWith('app.kubernetes.io/') && \
             !key.startsWith('pinpipe.dev/'))"
        )
        .message(
            "template.labels can't contain labels with the prefix app.kubernetes.io/ or \
             pinpipe.dev/, which the operator uses to find its pods: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,

    /// Additional annotations of the pods.
    #[schemars(schema_with = "crate::schema::annotations")]
    #[x_kube(
        validation = Rule::new("self.all(key, !key.startsWith('pinpipe.dev/'))").message(
            "template.annotations can't contain annotations with the prefix pinpipe.dev/, which is \
             reserved for the operator: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,

    /// Additional environment variables of the workers.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,

    /// Which log lines the workers write: those of this level and of more serious ones. Defaults to
    /// `Info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,

    /// The `PriorityClass` of the pods. It must exist.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "priorityClassName must consist of lowercase letters, digits, '-' and '.', and begin \
             and end with a letter or digit"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Node and pod affinity, as in Kubernetes' pod spec. A `podAntiAffinity` replaces the default
    /// preference for pods of a component in different zones.
    #[schemars(schema_with = "crate::schema::affinity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Value>,

    /// Labels that a node must have to run the pods.
    #[schemars(schema_with = "crate::schema::labels")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Tolerations of the pods. Unless these set another time, pods are evicted after 30 seconds
    /// from a node that is not ready or unreachable.
    #[schemars(length(max = 16))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// How the pods of a component are spread over zones, nodes or other topology domains. By
    /// default, pods of ingest and stream sinks are spread over zones and nodes where possible;
    /// `[]` disables spreading.
    #[schemars(length(max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["topologyKey".into(), "whenUnsatisfiable".into()])
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,

    /// Secrets with credentials of the images' registry.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<SecretRef>>,

    /// The `ServiceAccount` of the pods. It must exist. Defaults to `default`, and for batch runs
    /// to an account that the operator creates. If set for batch runs, the operator grants this
    /// account access to their Lease.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "serviceAccountName must consist of lowercase letters, digits, '-' and '.', and begin \
             and end with a letter or digit"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Resource requests and limits of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// A Secret's key with the PEM certificates of authorities to trust besides the public ones,
    /// such as a company's own. It counts for all TLS connections of the workers, except those
    /// with a `caSecretRef`, and in `spec.template` also for the operator's connections to Kafka.
    #[serde(
        rename = "trustedCASecretRef",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub trusted_ca_secret_ref: Option<SecretKeyRef>,

    /// The user and group ids of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security: Option<PodSecurity>,
}

/// An environment variable, as in Kubernetes' pod spec.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.value) != has(self.valueFrom)").message(
        "an environment variable must have exactly one of value and valueFrom"
    )
)]
pub struct EnvVar {
    /// The variable's name.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$')").message(
            "an environment variable's name must consist of letters, digits, '_', '-' and '.', and \
             not begin with a digit"
        ),
        validation = Rule::new("self != 'RUST_LOG'")
            .message("the environment variable RUST_LOG can't be set: set template.logLevel"),
        validation = Rule::new("self != 'HOSTNAME'").message(
            "the environment variable HOSTNAME can't be set: workers know their pod by it"
        ),
        validation = Rule::new("!self.startsWith('PINPIPE_')").message(
            "environment variables that begin with PINPIPE_ can't be set, since pinpipe sets them \
             itself: choose another name, or set the field of the spec that stands for it"
        )
    )]
    pub name: String,

    /// The value. `$(NAME)` stands for the value of an earlier variable.
    #[schemars(length(max = 4096))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,

    /// Where the value comes from when a pod starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where an environment variable's value comes from.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message(
        "valueFrom must have exactly one of secretKeyRef and configMapKeyRef"
    )
)]
pub struct EnvVarSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,

    /// A key of a `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
}

/// A key of a `ConfigMap` in the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// The `ConfigMap`'s name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "a ConfigMap's name must consist of lowercase letters, digits, '-' and '.', and begin \
             and end with a letter or digit"
        )
    )]
    pub name: String,

    /// The key in the `ConfigMap`'s data.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')")
            .message("a ConfigMap's key must consist of letters, digits, '-', '_' and '.'")
    )]
    pub key: String,
}

/// The level of log lines that are written, with those of the levels before it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum LogLevel {
    /// Errors.
    Error,
    /// Warnings.
    Warn,
    /// Progress and changes.
    Info,
    /// Details, also of libraries.
    Debug,
    /// Every step, also of libraries.
    Trace,
}

/// The user and group ids of pods: those of the images (`Fixed`, default) or those that the
/// platform gives them (`FromPlatform`), as `OpenShift` demands by `restricted-v2`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum PodSecurity {
    /// User, group and the group of volumes are 65532.
    #[default]
    Fixed,
    /// The pods ask for no user and no group.
    FromPlatform,
}

/// A toleration, as in Kubernetes' pod spec.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.key) || (has(self.operator) && self.operator == 'Exists')")
        .message(
            "a toleration without a key tolerates every taint: set operator: Exists, or a key"
        ),
    validation = Rule::new("!has(self.value) || !has(self.operator) || self.operator == 'Equal'")
        .message(
            "a toleration with operator Exists can't have a value: remove value, or set operator: \
             Equal"
        ),
    validation = Rule::new(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')"
    )
    .message(
        "tolerationSeconds only applies to the effect NoExecute: set effect: NoExecute, or remove \
         tolerationSeconds"
    )
)]
pub struct Toleration {
    /// The taint's key. Matches every key if absent.
    #[schemars(length(min = 1, max = 317))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,

    /// How the taint's value is compared. Defaults to `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,

    /// The taint's value.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,

    /// The taint's effect. Matches every effect if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,

    /// How long a pod stays on a tainted node, seconds. Without limit if absent.
    #[schemars(range(min = 0, max = 31_536_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a taint's value is compared: `Exists` matches any value, `Equal` the toleration's value.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum TolerationOperator {
    /// Any value matches.
    Exists,
    /// The value must equal the toleration's value.
    Equal,
}

/// The effect of a taint on pods that don't tolerate it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum TaintEffect {
    /// Pods are not scheduled onto the node.
    NoSchedule,
    /// Pods are scheduled onto the node only if there is no other.
    PreferNoSchedule,
    /// Pods are not scheduled onto the node, and running pods are evicted.
    NoExecute,
}

/// A topology spread constraint. The nodes' values of a label form topology domains.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpreadConstraint {
    /// The node label, such as `topology.kubernetes.io/zone` or `kubernetes.io/hostname`.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,

    /// Maximum difference between the numbers of pods in two topology domains. Defaults to 1.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_skew: Option<i32>,

    /// What to do with a pod that can't be placed within `maxSkew`.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

/// What to do with a pod that can't be placed within `maxSkew`: `ScheduleAnyway` schedules it
/// nevertheless, `DoNotSchedule` leaves it pending.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum WhenUnsatisfiable {
    /// The pod is scheduled nevertheless.
    ScheduleAnyway,
    /// The pod stays pending.
    DoNotSchedule,
}
