//! The chart's Roles grant exactly what the operator needs. The API server refuses what they don't
//! grant; this proof finds what they grant and no other proof used.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    api_proxy::rules,
    cluster::{RELEASE, SYSTEM},
    traffic::Permission,
};

/// Compares the permissions of all operators with the chart's roles, which are by kind and name.
pub fn compare(
    used: &BTreeSet<Permission>,
    granted: &BTreeSet<Permission>,
    roles: &BTreeMap<(String, String), Value>,
) -> Result<String> {
    // The API server lets nobody grant a permission they lack, so the operator also needs those of
    // batch workers.
    let needed: BTreeSet<String> = used
        .iter()
        .chain(granted)
        .filter(|used| !is_of_lease(used) && !is_of_record(used))
        .map(name_of)
        .collect();
    let leading: BTreeSet<String> = used
        .iter()
        .filter(|used| is_of_lease(used))
        .map(name_of)
        .collect();
    let recording: BTreeSet<String> = used
        .iter()
        .filter(|used| is_of_record(used))
        .map(name_of)
        .collect();
    let mut problems = Vec::new();
    let mut total = 0;
    for (kind, name, needed) in [
        ("ClusterRole", RELEASE.to_owned(), needed),
        ("Role", format!("{RELEASE}-leader"), leading),
        ("Role", format!("{RELEASE}-topics"), recording),
    ] {
        let role = roles.get(&(kind.to_owned(), name.clone()));
        let allowed: BTreeSet<String> = role
            .iter()
            .flat_map(|role| rules(role))
            .map(|rule| name_of(&rule))
            .collect();
        total += allowed.len();
        let unused: Vec<_> = allowed.difference(&needed).collect();
        let missing: Vec<_> = needed.difference(&allowed).collect();
        if !unused.is_empty() {
            problems.push(format!(
                "{kind} {name} grants what was never used: {unused:?}"
            ));
        }
        if !missing.is_empty() {
            problems.push(format!("{kind} {name} lacks what was used: {missing:?}"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(format!(
        "{total} permissions, each of them used, and no others"
    ))
}

/// Whether it is for the Lease of the leader.
fn is_of_lease(used: &Permission) -> bool {
    used.resource == "leases" && used.namespace.as_deref() == Some(SYSTEM)
}

/// Whether it is for the record of topics.
fn is_of_record(used: &Permission) -> bool {
    used.resource == "configmaps" && used.namespace.as_deref() == Some(SYSTEM)
}

fn name_of(used: &Permission) -> String {
    let Permission {
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
