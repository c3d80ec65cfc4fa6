//! Settings of a component's pods, and autoscaling.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a component's pods. In the resource, these fields are inlined into the component.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
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

    /// Additional labels of the pods.
    #[schemars(schema_with = "crate::schema::labels")]
    #[x_kube(
        validation = Rule::new(
            "self.all(key, !key.startsWith('app.kubernetes.io/') && \
             !key.startsWith('pinpipe.dev/'))"
        )
        .message(
            "podLabels can't contain labels with the prefix app.kubernetes.io/ or pinpipe.dev/, \
             which the operator uses to find its pods: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_labels: Option<BTreeMap<String, String>>,

    /// Additional annotations of the pods.
    #[schemars(schema_with = "crate::schema::annotations")]
    #[x_kube(
        validation = Rule::new("self.all(key, !key.startsWith('pinpipe.dev/'))").message(
            "podAnnotations can't contain annotations with the prefix pinpipe.dev/, which is \
             reserved for the operator: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_annotations: Option<BTreeMap<String, String>>,

    /// Labels that a node must have to run the pods.
    #[schemars(schema_with = "crate::schema::labels")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Tolerations of the pods. Unless these set another time, pods are evicted after 30 seconds
    /// from a node that is not ready or unreachable.
    #[schemars(length(max = 16))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// How pods are spread over zones, nodes or other topology domains. By default, pods of ingest
    /// and stream sinks are spread over zones and nodes where possible; `[]` disables spreading.
    #[schemars(length(max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["topologyKey".into(), "whenUnsatisfiable".into()])
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread: Option<Vec<TopologySpread>>,
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
pub struct TopologySpread {
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

/// Scales ingest by CPU usage. The operator creates a `HorizontalPodAutoscaler`.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.maxReplicas")
        .message("autoscaling.minReplicas must not be more than autoscaling.maxReplicas")
)]
pub struct IngestAutoscaling {
    /// Minimum number of pods. Defaults to 2, or to `maxReplicas` if that is less.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,

    /// Maximum number of pods.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// Target average CPU usage, percent of the CPU request. Defaults to 70.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(
        rename = "targetCPUUtilizationPercentage",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub target_cpu_utilization_percentage: Option<i32>,
}

/// Scales a sink by its lag. With `targetLag`, the operator creates a `HorizontalPodAutoscaler` on
/// the external metric `pinpipe_stream_lag_records`, which a metrics adapter must provide. Without
/// `targetLag` (`autoscaling: {}`), the operator leaves the number of pods to another autoscaler of
/// the Deployment, such as KEDA.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas"
    )
    .message("autoscaling.minReplicas must not be more than autoscaling.maxReplicas"),
    validation = Rule::new(
        "has(self.targetLag) || (!has(self.minReplicas) && !has(self.maxReplicas))"
    )
    .message(
        "autoscaling.minReplicas and maxReplicas need targetLag: set targetLag, or remove them and \
         set the bounds in the autoscaler that scales the Deployment"
    )
)]
pub struct SinkAutoscaling {
    /// Minimum number of pods. Defaults to 1.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,

    /// Maximum number of pods, limited by the number of partitions, which is the default.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,

    /// Target lag per pod, records.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_lag: Option<i64>,
}
