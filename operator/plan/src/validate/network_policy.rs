//! What may connect to a pipeline's pods.

use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicyPeer},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use pinpipe_crds as crds;

use crate::model::NetworkPolicy;

pub(super) fn network_policy(
    policy: &crds::NetworkPolicy,
    operator_namespace: &str,
) -> NetworkPolicy {
    NetworkPolicy {
        operator_namespace: operator_namespace.to_owned(),
        allow_from: policy.allow_from.iter().flatten().map(peer).collect(),
    }
}

fn peer(peer: &crds::NetworkPolicyPeer) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: peer.namespace_selector.as_ref().map(selector),
        pod_selector: peer.pod_selector.as_ref().map(selector),
        ip_block: peer.ip_block.as_ref().map(|block| IPBlock {
            cidr: block.cidr.clone(),
            except: None,
        }),
    }
}

fn selector(selector: &crds::LabelSelector) -> LabelSelector {
    let labels = selector.match_labels.clone();
    LabelSelector {
        // The API server would drop an empty map.
        match_labels: labels.filter(|labels| !labels.is_empty()),
        match_expressions: None,
    }
}
