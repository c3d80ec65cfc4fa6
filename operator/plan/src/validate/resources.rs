//! Resource requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity,
};
use pinpipe_crds::{Amounts, Resources};

/// The settings as they are, or the default: requests of CPU and memory, and a limit of memory.
/// There is no default limit of CPU, which would throttle a pod on an idle node.
pub(super) fn or_default(
    set: Option<&Resources>,
    [cpu, memory, limit]: [&str; 3],
) -> ResourceRequirements {
    match set {
        Some(set) => ResourceRequirements {
            requests: set.requests.as_ref().and_then(amounts),
            limits: set.limits.as_ref().and_then(amounts),
            claims: None,
        },
        None => ResourceRequirements {
            requests: Some(quantities([("cpu", cpu), ("memory", memory)])),
            limits: Some(quantities([("memory", limit)])),
            claims: None,
        },
    }
}

/// Amounts by resource. None: no amount is set.
fn amounts(amounts: &Amounts) -> Option<BTreeMap<String, Quantity>> {
    let named = [
        ("cpu", &amounts.cpu),
        ("memory", &amounts.memory),
        ("ephemeral-storage", &amounts.ephemeral_storage),
    ];
    let set = quantities(
        named
            .into_iter()
            .filter_map(|(name, amount)| Some((name, amount.as_ref()?.0.as_str()))),
    );
    (!set.is_empty()).then_some(set)
}

fn quantities<'a>(
    named: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, Quantity> {
    let named = named.into_iter();
    named
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
        .collect()
}
