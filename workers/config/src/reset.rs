//! Resets of a stream worker's positions: what the operator asks for, and what a worker answers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The path on [`ADMIN_PORT`](crate::ADMIN_PORT) at which a stream worker answers with a
/// [`ResetState`]. A worker without a reset in its configuration answers with an empty one.
pub const RESET_PATH: &str = "/reset";

/// A reset of a sink's positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reset {
    /// The request's id. The sink stores the ids of completed resets so that none is repeated.
    pub id: String,
    /// The topics. All three if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// The position to resume from.
    pub to: ResetTo,
}

impl Reset {
    /// Whether the reset includes this topic.
    #[must_use]
    pub fn applies_to(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|named| named == topic)
    }

    /// The partitions of a topic that are reset. None: all of them.
    #[must_use]
    pub fn partitions(&self, topic: &str) -> Option<Vec<i32>> {
        let ResetTo::Offsets(offsets) = &self.to else {
            return None;
        };
        let of_topic = offsets.iter().filter(|named| named.topic == topic);
        Some(of_topic.map(|named| named.partition).collect())
    }
}

/// The position to resume from after a reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResetTo {
    /// The earliest record that the broker retains.
    Earliest,
    /// The end of the log at the time of the reset.
    Latest,
    /// The first record at or after a time, milliseconds since the epoch.
    Time(i64),
    /// Offsets of single partitions.
    Offsets(Vec<PartitionOffset>),
}

/// The offset to resume from in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartitionOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record.
    pub offset: i64,
}

/// What a worker answers about the reset in its configuration. Operator and worker may be one
/// release apart: absent fields are empty, unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetState {
    /// The id of the reset.
    pub id: String,
    /// The topics in which the sink has the reset as completed in all partitions, whichever worker
    /// has completed it.
    pub done: BTreeSet<String>,
    /// The new positions of partitions that this worker has reset, by `topic[partition]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub moved: BTreeMap<String, String>,
    /// Why it can't be completed until a person decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_about_its_topics_and_partitions() {
        let mut reset = Reset {
            id: "r".to_owned(),
            topics: Vec::new(),
            to: ResetTo::Earliest,
        };
        assert!(reset.applies_to("a"));
        assert_eq!(reset.partitions("a"), None);
        reset.topics.push("a".to_owned());
        let offset = |topic: &str, partition| PartitionOffset {
            topic: topic.to_owned(),
            partition,
            offset: 5,
        };
        reset.to = ResetTo::Offsets(vec![offset("a", 2), offset("b", 0)]);
        assert!(reset.applies_to("a") && !reset.applies_to("b"));
        assert_eq!(reset.partitions("a"), Some(vec![2]));
        let yaml = serde_yaml::to_string(&reset).unwrap();
        assert_eq!(serde_yaml::from_str::<Reset>(&yaml).unwrap(), reset);
    }
}
