//! The chart's Roles are what the operator needs, no more and no less. The API server refuses
//! whatever they don't allow; what they allow and nobody needed in all the other proofs is found
//! here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    api::rules,
    tap::Use,
    world::{RELEASE, SYSTEM},
};

/// `used` and `granted` are of all operators, `roles` the chart's by kind and name.
pub fn compare(
    used: &BTreeSet<Use>,
    granted: &BTreeSet<Use>,
    roles: &BTreeMap<(String, String), Value>,
) -> Result<String> {
    // Who grants a right must have it, so what the operator gives batch workers is needed, too,
    // where they are.
    let needed: BTreeSet<String> = used
        .iter()
        .chain(granted)
        .filter(|used| !of_leader(used))
        .map(named)
        .collect();
    let leading: BTreeSet<String> = used
        .iter()
        .filter(|used| of_leader(used))
        .map(named)
        .collect();
    let mut problems = Vec::new();
    let mut rules_in_all = 0;
    for (kind, name, needed) in [
        ("ClusterRole", RELEASE.to_owned(), needed),
        ("Role", format!("{RELEASE}-leader"), leading),
    ] {
        let role = roles.get(&(kind.to_owned(), name.clone()));
        let allowed: BTreeSet<String> = role
            .iter()
            .flat_map(|role| rules(role))
            .map(|rule| named(&rule))
            .collect();
        rules_in_all += allowed.len();
        let unused: Vec<_> = allowed.difference(&needed).collect();
        let missing: Vec<_> = needed.difference(&allowed).collect();
        if !unused.is_empty() {
            problems.push(format!("{kind} {name} allows what nobody used: {unused:?}"));
        }
        if !missing.is_empty() {
            problems.push(format!("{kind} {name} lacks what was used: {missing:?}"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(format!(
        "{rules_in_all} permissions, each of them used, and no other"
    ))
}

/// Whether it is about the Lease by which one operator works.
fn of_leader(used: &Use) -> bool {
    used.resource == "leases" && used.namespace.as_deref() == Some(SYSTEM)
}

fn named(used: &Use) -> String {
    let Use {
        group,
        resource,
        verb,
        ..
    } = used;
    if group.is_empty() {
        format!("{verb} {resource}")
    } else {
        format!("{verb} {resource}.{group}")
    }
}
