//! Progress of a consumer group: the end offsets of topics and the group's committed offsets.
//!
//! All requests block: call them where blocking is allowed.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
};

use pinpipe_config::ClientRole;

use super::{Access, BrokerErrors, Tuned as _};

/// Next offset by topic and partition.
pub type Positions = BTreeMap<String, BTreeMap<i32, i64>>;

/// A partition that a group has not read to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The committed offset. `None` if the group has never committed one.
    pub committed: Option<i64>,
    /// The end offset.
    pub end: i64,
}

/// A client that queries the offsets of a consumer group without joining it.
pub struct Progress {
    consumer: BaseConsumer<BrokerErrors>,
    timeout: Duration,
}

impl Progress {
    /// Creates the client without connecting. `timeout` applies to each request.
    pub fn new(access: &Access, client_id: &str, group: &str, timeout: Duration) -> Result<Self> {
        let mut settings = access.client_config(client_id);
        settings
            .set("group.id", group)
            .set("enable.auto.commit", "false");
        // End offsets as seen by a reader of committed records: records of open transactions can't
        // be read yet.
        settings
            .set("isolation.level", "read_committed")
            .tuned(access, ClientRole::Consumer);
        let consumer = settings
            .create_with_context(BrokerErrors::new(access))
            .context("can't create the Kafka client")?;
        Ok(Self { consumer, timeout })
    }

    /// The end offsets of all partitions of `topics`, requested from each broker at once.
    pub fn ends(&self, topics: &[String]) -> Result<Positions> {
        self.authenticate();
        let mut wanted = TopicPartitionList::new();
        for topic in topics {
            let metadata = self
                .explained(self.consumer.fetch_metadata(Some(topic), self.timeout))
                .with_context(|| format!("can't get the metadata of {topic}"))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let partitions = found
                .filter(|found| found.error().is_none())
                .map_or(&[][..], |found| found.partitions());
            if partitions.is_empty() {
                return Err(anyhow!(
                    "the topic {topic} does not exist: the operator creates it, see the pipeline's \
                     status"
                ));
            }
            for partition in partitions {
                // In place of a time, -1 requests the end. Source: the Kafka protocol, ListOffsets.
                wanted.add_partition_offset(topic, partition.id(), Offset::End)?;
            }
        }
        let answer = self
            .explained(self.consumer.offsets_for_times(wanted, self.timeout))
            .with_context(|| format!("can't get the end offsets of {}", topics.join(", ")))?;
        let mut ends = Positions::new();
        for element in answer.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let failed = || format!("can't get the end offset of {topic}[{partition}]");
            element.error().with_context(failed)?;
            let Offset::Offset(end) = element.offset() else {
                return Err(anyhow!(failed()));
            };
            ends.entry(topic.to_owned())
                .or_default()
                .insert(partition, end);
        }
        Ok(ends)
    }

    /// The group's committed offsets of the partitions in `wanted`, where it has committed any.
    pub fn committed(&self, wanted: &Positions) -> Result<Positions> {
        self.authenticate();
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in wanted {
            for partition in partitions.keys() {
                list.add_partition(topic, *partition);
            }
        }
        let answer = self
            .explained(self.consumer.committed_offsets(list, self.timeout))
            .context("can't get the group's committed offsets")?;
        let mut committed = Positions::new();
        for element in answer.elements() {
            element
                .error()
                .with_context(|| format!("{}[{}]", element.topic(), element.partition()))?;
            if let Offset::Offset(offset) = element.offset() {
                committed
                    .entry(element.topic().to_owned())
                    .or_default()
                    .insert(element.partition(), offset);
            }
        }
        Ok(committed)
    }

    fn authenticate(&self) {
        let consumer = &self.consumer;
        consumer.context().authenticate(consumer.client());
    }

    /// Adds the cause to an error if no broker answered.
    fn explained<T>(&self, result: KafkaResult<T>) -> Result<T> {
        let errors = self.consumer.context();
        // Nothing else polls this consumer.
        errors.collect(self.consumer.client());
        result.map_err(|error| errors.explain(error.into()))
    }
}

/// The partitions whose committed offset is below the wanted one. Empty partitions are never
/// behind.
#[must_use]
pub fn behind(wanted: &Positions, committed: &Positions) -> Vec<Behind> {
    let mut behind = Vec::new();
    for (topic, partitions) in wanted {
        for (&partition, &end) in partitions {
            let committed = committed
                .get(topic)
                .and_then(|partitions| partitions.get(&partition))
                .copied();
            if committed.unwrap_or(0) < end {
                behind.push(Behind {
                    topic: topic.clone(),
                    partition,
                    committed,
                    end,
                });
            }
        }
    }
    behind
}

/// Formats partitions for people: `t[0] at 9 of 10, t[1] at nothing of 3 and 4 more`.
#[must_use]
pub fn list(behind: &[Behind]) -> String {
    const SHOWN: usize = 6;
    let mut text = String::new();
    for Behind {
        topic,
        partition,
        committed,
        end,
    } in behind.iter().take(SHOWN)
    {
        let separator = if text.is_empty() { "" } else { ", " };
        let at = committed.map_or_else(|| "nothing".to_owned(), |offset| offset.to_string());
        let _ = write!(text, "{separator}{topic}[{partition}] at {at} of {end}");
    }
    if behind.len() > SHOWN {
        let _ = write!(text, " and {} more", behind.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(offsets: &[(&str, i32, i64)]) -> Positions {
        let mut positions = Positions::new();
        for (topic, partition, offset) in offsets {
            positions
                .entry((*topic).to_owned())
                .or_default()
                .insert(*partition, *offset);
        }
        positions
    }

    #[test]
    fn a_partition_is_behind_until_its_end_is_committed() {
        let wanted = positions(&[("a", 0, 10), ("a", 1, 0), ("b", 0, 5), ("b", 1, 3)]);
        let committed = positions(&[("a", 0, 9), ("b", 0, 5), ("c", 0, 1)]);
        let expected = [
            Behind {
                topic: "a".into(),
                partition: 0,
                committed: Some(9),
                end: 10,
            },
            Behind {
                topic: "b".into(),
                partition: 1,
                committed: None,
                end: 3,
            },
        ];
        assert_eq!(behind(&wanted, &committed), expected);
        assert_eq!(list(&expected), "a[0] at 9 of 10, b[1] at nothing of 3");
    }

    #[test]
    fn a_committed_offset_past_the_end_is_enough() {
        assert_eq!(
            behind(&positions(&[("a", 0, 10)]), &positions(&[("a", 0, 12)])),
            []
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let wanted: Vec<_> = (0..9).map(|partition| ("t", partition, 1)).collect();
        let text = list(&behind(&positions(&wanted), &Positions::new()));
        assert!(text.ends_with("t[5] at nothing of 1 and 3 more"), "{text}");
    }
}
