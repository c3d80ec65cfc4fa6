//! Reading a dead-letter topic once, from its beginning to where it ended when the re-drive began.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pinpipe_config::Batch;
use pinpipe_runtime::dead_letter::LetterId;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tracing::debug;

/// How long the broker may take for an answer.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may come at all.
const PATIENCE: Duration = Duration::from_mins(2);

/// The offset behind the last record of each partition that has any.
pub type Ends = BTreeMap<i32, i64>;

fn settings(config: &Batch) -> ClientConfig {
    let mut settings = pinpipe_runtime::kafka::client_config(&config.kafka, "pinpipe-redrive");
    settings
        // Never joined and nothing is committed: librdkafka wants a name.
        .set(
            "group.id",
            format!(
                "{}.{}.redrive",
                config.pipeline.namespace, config.pipeline.name
            ),
        )
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "8192");
    settings
}

/// Where the topic's partitions end now. Blocks.
pub fn ends(config: &Batch, topic: &str) -> Result<Ends> {
    let consumer: BaseConsumer = settings(config)
        .create()
        .context("the Kafka client can't be made")?;
    tokio::task::block_in_place(|| {
        let metadata = consumer
            .fetch_metadata(Some(topic), BROKER_TIMEOUT)
            .with_context(|| {
                format!(
                    "Kafka at {} does not answer",
                    config.kafka.bootstrap_servers
                )
            })?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic && found.error().is_none());
        let partitions = found.map_or(&[][..], |found| found.partitions());
        ensure!(
            !partitions.is_empty(),
            "the topic {topic} is not there: the operator makes it, see the pipeline's status"
        );
        let mut ends = Ends::new();
        for partition in partitions
            .iter()
            .map(rdkafka::metadata::MetadataPartition::id)
        {
            let (low, end) = consumer
                .fetch_watermarks(topic, partition, BROKER_TIMEOUT)
                .with_context(|| format!("the end of {topic}[{partition}]"))?;
            if low < end {
                ends.insert(partition, end);
            }
        }
        Ok(ends)
    })
}

/// The records of a dead-letter topic.
pub struct Letters {
    consumer: StreamConsumer,
    /// Partitions that are not read to their end yet.
    unread: Ends,
}

impl Letters {
    /// From the beginning.
    pub fn read(config: &Batch, topic: &str, ends: &Ends) -> Result<Self> {
        let consumer: StreamConsumer = settings(config)
            .create()
            .context("the Kafka client can't be made")?;
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(topic, *partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        Ok(Self {
            consumer,
            unread: ends.clone(),
        })
    }

    /// The next record of any partition; none: all are read.
    pub async fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>> {
        while !self.unread.is_empty() {
            let received = tokio::time::timeout(PATIENCE, self.consumer.recv()).await;
            let received = received
                .ok()
                .with_context(|| format!("nothing came from Kafka for {PATIENCE:?}"))?;
            match received {
                Ok(message) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(&end) = self.unread.get(&partition) else {
                        continue;
                    };
                    if offset + 1 >= end {
                        self.unread.remove(&partition);
                    }
                    if offset < end {
                        return Ok(Some(message));
                    }
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.unread.remove(&partition);
                }
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                    bail!("the topic is gone");
                }
                Err(KafkaError::MessageConsumptionFatal(code)) => {
                    bail!("the consumer can't go on: {code}")
                }
                Err(error) => debug!(%error, "the consumer reports"),
            }
        }
        Ok(None)
    }
}

/// Names of letters, in a few bytes each: there may be millions.
#[derive(Debug, Default)]
pub struct LetterSet {
    /// A topic deleted and created again leaves letters of several ids.
    topic_ids: Vec<String>,
    names: HashSet<(usize, i32, i64)>,
}

impl LetterSet {
    /// Adds a letter; false: it was in.
    pub fn insert(&mut self, id: &LetterId) -> bool {
        let topic = self.topic(id).unwrap_or_else(|| {
            self.topic_ids.push(id.topic_id.clone());
            self.topic_ids.len() - 1
        });
        self.names.insert((topic, id.partition, id.offset))
    }

    /// Whether a letter is in.
    pub fn contains(&self, id: &LetterId) -> bool {
        self.topic(id)
            .is_some_and(|topic| self.names.contains(&(topic, id.partition, id.offset)))
    }

    fn topic(&self, id: &LetterId) -> Option<usize> {
        self.topic_ids
            .iter()
            .position(|topic_id| *topic_id == id.topic_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_a_topic_created_again_is_another_letter() {
        let id = |topic_id: &str, partition, offset| LetterId {
            topic_id: topic_id.into(),
            partition,
            offset,
        };
        let mut set = LetterSet::default();
        for (letter, new) in [
            (id("a", 0, 1), true),
            (id("a", 0, 1), false),
            (id("b", 0, 1), true),
            (id("a", 1, 1), true),
            (id("a", 0, 2), true),
            (id("b", 0, 1), false),
        ] {
            assert_eq!(set.contains(&letter), !new);
            assert_eq!(set.insert(&letter), new);
        }
    }
}
