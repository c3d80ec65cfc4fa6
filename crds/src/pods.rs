//! What can be said of every component's pods, and how many there are.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a component's pods run, as whom, and what stands on them. Its fields are the component's
/// own.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// The `ServiceAccount` the pods run as, for a cloud's workload identity; it must be there.
    /// `default` unless set; batch runs have one of their own, and an account named for them in its
    /// place is given the same right, to hold their Lease.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "serviceAccountName must consist of lowercase letters, digits, '-' and '.', and begin and end with a letter or digit"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Labels of the pods, besides the operator's.
    #[schemars(schema_with = "crate::schema::labels")]
    #[x_kube(
        validation = Rule::new("self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('pinpipe.dev/'))").message(
            "podLabels can't hold labels of app.kubernetes.io or pinpipe.dev, by which the operator finds its pods: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_labels: Option<BTreeMap<String, String>>,

    /// Annotations of the pods, besides the operator's.
    #[schemars(schema_with = "crate::schema::annotations")]
    #[x_kube(
        validation = Rule::new("self.all(key, !key.startsWith('pinpipe.dev/'))").message(
            "podAnnotations can't hold annotations of pinpipe.dev, which are the operator's: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_annotations: Option<BTreeMap<String, String>>,

    /// Labels a node must have.
    #[schemars(schema_with = "crate::schema::labels")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Taints of nodes that the pods put up with. Unless these say how long, pods leave a node that
    /// is not ready or can't be reached after 30 seconds; their place is taken elsewhere.
    #[schemars(length(max = 16))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// How pods are spread over zones, nodes or the like. Unless set, those of ingest and of a
    /// stream sink are spread over zones and over nodes as evenly as there is room; `[]`: not at
    /// all.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["topologyKey".into(), "whenUnsatisfiable".into()]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread: Option<Vec<TopologySpread>>,
}

/// A taint of a node that pods put up with. As in Kubernetes' own pods.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.key) || (has(self.operator) && self.operator == 'Exists')")
        .message("a toleration without a key puts up with every taint: say so with operator: Exists, or name a key"),
    validation = Rule::new("!has(self.value) || !has(self.operator) || self.operator == 'Equal'")
        .message("a toleration with operator Exists can't have a value: remove value, or set operator: Equal"),
    validation = Rule::new("!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')")
        .message("tolerationSeconds is how long a pod stays on a node that is tainted NoExecute: set effect: NoExecute, or remove it")
)]
pub struct Toleration {
    /// The taint's key; absent: every key.
    #[schemars(length(min = 1, max = 317))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,

    /// How the taint's value is compared. `Equal` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,

    /// The taint's value.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,

    /// The taint's effect; absent: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,

    /// How long a pod stays, seconds; absent: for ever.
    #[schemars(range(min = 0, max = 31_536_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a taint's value is compared: not at all (`Exists`), or with the toleration's (`Equal`).
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum TolerationOperator {
    /// Not at all.
    Exists,
    /// With the toleration's.
    Equal,
}

/// What a taint does to pods that don't put up with it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum TaintEffect {
    /// None is placed on the node.
    NoSchedule,
    /// None is placed on the node where there is another.
    PreferNoSchedule,
    /// None stays on the node.
    NoExecute,
}

/// How pods are spread over what a label of nodes tells apart.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// The nodes' label: `topology.kubernetes.io/zone`, `kubernetes.io/hostname`.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,

    /// How many pods more than in the emptiest place there may be in one. 1 unless set.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_skew: Option<i32>,

    /// What becomes of a pod that fits nowhere.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

/// What becomes of a pod that can't be placed evenly: it is placed all the same (`ScheduleAnyway`),
/// or waits (`DoNotSchedule`).
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum WhenUnsatisfiable {
    /// It is placed all the same.
    ScheduleAnyway,
    /// It waits.
    DoNotSchedule,
}

/// Ingest's pods by their CPU time: the operator makes a `HorizontalPodAutoscaler`.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.maxReplicas")
        .message("autoscaling.minReplicas must not be more than autoscaling.maxReplicas")
)]
pub struct IngestAutoscaling {
    /// The fewest pods. 2 unless set, or `maxReplicas` where that is less.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,

    /// The most pods.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// The CPU time the pods should use on average, percent of what they request. 70 unless set.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(
        rename = "targetCPUUtilizationPercentage",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub target_cpu_utilization_percentage: Option<i32>,
}

/// A sink's pods by its lag. With `targetLag` the operator makes a `HorizontalPodAutoscaler` on the
/// external metric `pinpipe_stream_lag_records`, which a metrics adapter must serve. Without
/// (`autoscaling: {}`) it makes none, and leaves the number of pods to whatever else scales the
/// Deployment, such as KEDA.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("autoscaling.minReplicas must not be more than autoscaling.maxReplicas"),
    validation = Rule::new("has(self.targetLag) || (!has(self.minReplicas) && !has(self.maxReplicas))").message(
        "autoscaling.minReplicas and maxReplicas are bounds of the HorizontalPodAutoscaler that targetLag asks for: set targetLag, or \
         remove them and set the bounds where something else scales the Deployment"
    )
)]
pub struct SinkAutoscaling {
    /// The fewest pods. 1 unless set.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,

    /// The most pods; never more than the topics have partitions. As many as those unless set.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,

    /// Records the sink may be behind for each pod it has.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_lag: Option<i64>,
}
