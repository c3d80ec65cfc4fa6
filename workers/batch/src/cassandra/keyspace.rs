//! The statement that creates the keyspace.

use std::collections::BTreeMap;

use super::table::quoted;

/// Creates a keyspace with these numbers of replicas by datacenter, or if there are none, with one
/// replica in the cluster.
pub fn create(keyspace: &str, replication: &BTreeMap<String, u32>) -> String {
    let replication = if replication.is_empty() {
        "'class': 'SimpleStrategy', 'replication_factor': 1".to_owned()
    } else {
        let datacenters = replication.iter();
        let datacenters = datacenters
            .map(|(name, replicas)| format!(", '{}': {replicas}", name.replace('\'', "''")));
        format!(
            "'class': 'NetworkTopologyStrategy'{}",
            datacenters.collect::<String>()
        )
    };
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{{replication}}}",
        quoted(keyspace)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_counted_by_datacenter_or_there_is_one() {
        for (replication, expected) in [
            (
                &[][..],
                "{'class': 'SimpleStrategy', 'replication_factor': 1}",
            ),
            (
                &[("eu-west", 3), ("dc'1", 2)],
                "{'class': 'NetworkTopologyStrategy', 'dc''1': 2, 'eu-west': 3}",
            ),
        ] {
            let replication = replication
                .iter()
                .map(|(name, replicas)| ((*name).to_owned(), *replicas));
            assert_eq!(
                create("pins", &replication.collect()),
                format!("CREATE KEYSPACE IF NOT EXISTS \"pins\" WITH replication = {expected}")
            );
        }
    }
}
