//! `NetworkPolicies`: which sources may connect to which port of a component's pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::ContainerPort,
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
            NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{Builder, labels, pod::Worker};
use crate::component::Component;

/// Label that Kubernetes puts on each namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

impl Builder<'_> {
    /// Adds a component's policy, if the pipeline is to have any. The kubelet's probes come from
    /// the node, which policies don't keep out.
    pub(super) fn network_policy(&mut self, worker: &Worker<'_>) {
        let Some(policy) = &self.pipeline.network_policy else {
            return;
        };
        let operator = || NetworkPolicyPeer {
            namespace_selector: Some(selector([(
                NAMESPACE_LABEL,
                policy.operator_namespace.as_str(),
            )])),
            ..NetworkPolicyPeer::default()
        };
        let pods_of = |component| NetworkPolicyPeer {
            pod_selector: Some(labels::label_selector(self.pipeline, component)),
            ..NetworkPolicyPeer::default()
        };
        let (control, others): (Vec<_>, Vec<_>) =
            worker.ports.iter().partition(|port| is(port, "control"));
        // Without `from` for everybody.
        let named = (!policy.allow_from.is_empty()).then(|| {
            let own = [operator()].into_iter();
            own.chain(policy.allow_from.iter().cloned()).collect()
        });
        let is_closed = named.is_some();
        let mut rules = vec![rule(&others, named)];
        let records: Vec<_> = others.into_iter().filter(|port| is(port, "http")).collect();
        if is_closed && !records.is_empty() && self.pipeline.emulator.is_some() {
            rules.push(rule(&records, Some(vec![pods_of(&Component::Emulator)])));
        }
        if !control.is_empty() {
            let sources = vec![operator(), pods_of(&Component::Batch)];
            rules.push(rule(&control, Some(sources)));
        }
        let policy = NetworkPolicy {
            metadata: labels::metadata(self.pipeline, &worker.component),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(labels::label_selector(self.pipeline, &worker.component)),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(rules),
                egress: None,
            }),
        };
        self.push(&policy);
    }
}

fn is(port: &ContainerPort, name: &str) -> bool {
    port.name.as_deref() == Some(name)
}

fn rule(
    ports: &[&ContainerPort],
    from: Option<Vec<NetworkPolicyPeer>>,
) -> NetworkPolicyIngressRule {
    let ports = ports.iter().map(|port| NetworkPolicyPort {
        port: Some(IntOrString::Int(port.container_port)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    });
    NetworkPolicyIngressRule {
        ports: Some(ports.collect()),
        from,
    }
}

fn selector<const N: usize>(labels: [(&str, &str); N]) -> LabelSelector {
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    LabelSelector {
        match_labels: Some(BTreeMap::from(labels)),
        match_expressions: None,
    }
}
