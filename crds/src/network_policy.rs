//! What may connect to a pipeline's pods.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// `NetworkPolicies` of a pipeline's pods.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Sources that may connect to the port for records and to the ports for metrics and health,
    /// besides the operator and the pipeline's emulator. If absent or empty, all sources may: name
    /// Prometheus, the console, and the load balancer in front of ingest, too. The control port is
    /// for the operator and batch runs alone.
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<Vec<NetworkPolicyPeer>>,
}

/// A source of connections: pods, by their labels and those of their namespaces, or addresses.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.ipBlock) != (has(self.namespaceSelector) || has(self.podSelector))"
    )
    .message(
        "an entry of networkPolicy.allowFrom must hold namespaceSelector, podSelector or both, or \
         else ipBlock"
    )
)]
pub struct NetworkPolicyPeer {
    /// Selects namespaces by their labels. Empty: all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Selects pods by their labels, in the namespaces of `namespaceSelector`, or in the pipeline's
    /// if that is absent. Empty: all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,

    /// A range of addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// Selects objects by their labels.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that the objects must have.
    #[schemars(schema_with = "crate::schema::labels")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
}

/// A range of addresses.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IpBlock {
    /// The range in CIDR notation, such as `192.168.1.0/24` or `2001:db8::/64`.
    #[schemars(length(min = 4, max = 43))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9a-fA-F.:]+/[0-9]{1,3}$')").message(
            "ipBlock.cidr must be a range of addresses in CIDR notation: 192.168.1.0/24"
        )
    )]
    pub cidr: String,
}
