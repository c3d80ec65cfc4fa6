//! Settings of pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration};
use pinpipe_crds::{LogLevel, PodSecurity};
use serde::Serialize;

/// Settings of a component's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pods {
    /// `ServiceAccount`, where one is named.
    pub service_account: Option<String>,
    /// Labels besides the operator's.
    pub labels: BTreeMap<String, String>,
    /// Annotations besides the operator's.
    pub annotations: BTreeMap<String, String>,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Environment variables besides the operator's.
    pub env: Vec<EnvVar>,
    /// Level of the log lines that are written.
    pub log_level: Option<LogLevel>,
    /// `PriorityClass`, where one is named.
    pub priority_class: Option<String>,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// Node label for a preferred anti-affinity between the component's pods.
    pub apart: Option<&'static str>,
    /// Affinity from the template.
    pub affinity: Option<Affinity>,
    /// Secrets with the registry's credentials.
    pub image_pull_secrets: Vec<String>,
    /// Requests and limits.
    pub resources: ResourceRequirements,
    /// Authorities that its connections trust besides the public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<pinpipe_config::TrustedCa>,
    /// Where user and group ids come from.
    pub security: PodSecurity,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Node label whose values are the domains.
    pub topology_key: String,
    /// Largest permitted difference between two domains.
    pub max_skew: i32,
    /// `ScheduleAnyway` or `DoNotSchedule`.
    pub when_unsatisfiable: &'static str,
}
