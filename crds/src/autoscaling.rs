//! Autoscaling of components.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

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
