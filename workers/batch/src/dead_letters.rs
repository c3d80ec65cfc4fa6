//! Reads a topic, mostly one of dead letters, to its end at the start of the reading.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pinpipe_config::{Batch, ClientRole, Kafka, Pipeline};
use pinpipe_runtime::{
    dead_letter::DeadLetterId,
    kafka::{Access, BrokerErrors, Tuned as _},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    metadata::MetadataTopic,
};
use tracing::debug;

use crate::failure::Permanent;

/// Timeout of one request to the broker.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the next record.
const RECEIVE_TIMEOUT: Duration = Duration::from_mins(2);

/// End offset of each partition that has records.
pub type Ends = BTreeMap<i32, i64>;
/// Offsets of each partition that a topic retains.
pub type Ranges = BTreeMap<i32, Range<i64>>;

/// Where the topics of a pipeline are.
#[derive(Clone, Copy, Debug)]
pub struct Brokers<'a> {
    /// The cluster.
    pub kafka: &'a Kafka,
    /// The pipeline.
    pub pipeline: &'a Pipeline,
}

impl<'a> Brokers<'a> {
    /// Those of a batch worker.
    pub const fn of(config: &'a Batch) -> Self {
        Self {
            kafka: &config.kafka,
            pipeline: &config.pipeline,
        }
    }
}

fn settings(brokers: Brokers<'_>) -> Result<(ClientConfig, BrokerErrors)> {
    let access = Access::read(brokers.kafka)?;
    let mut settings = access.client_config("pinpipe-batch");
    settings
        // librdkafka requires a group id. The group is never joined and nothing is committed.
        .set(
            "group.id",
            format!(
                "{}.{}.redrive",
                brokers.pipeline.namespace, brokers.pipeline.name
            ),
        )
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "8192")
        .tuned(&access, ClientRole::Consumer);
    Ok((settings, BrokerErrors::new(&access)))
}

/// The current end offsets of the topic's partitions. Blocks.
pub fn ends(config: &Batch, topic: &str) -> Result<Ends> {
    let ranges = ranges(Brokers::of(config), topic)?.into_iter();
    let with_records = ranges.filter(|(_, range)| !range.is_empty());
    Ok(with_records
        .map(|(partition, range)| (partition, range.end))
        .collect())
}

/// The offsets that all of the topic's partitions retain now. Blocks.
pub fn ranges(brokers: Brokers<'_>, topic: &str) -> Result<Ranges> {
    let (settings, errors) = settings(brokers)?;
    let consumer: BaseConsumer<_> = settings
        .create_with_context(errors)
        .context("can't create the Kafka consumer")?;
    tokio::task::block_in_place(|| {
        consumer.context().authenticate(consumer.client());
        let metadata = consumer
            .fetch_metadata(Some(topic), BROKER_TIMEOUT)
            .with_context(|| {
                format!(
                    "can't read the metadata of the topic {topic} from Kafka at {}",
                    brokers.kafka.bootstrap_servers
                )
            })?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found.map_or(&[][..], |found| found.partitions());
        let error = found.and_then(MetadataTopic::error);
        check(topic, partitions.len(), error.map(Into::into))?;
        let mut ranges = Ranges::new();
        for partition in partitions
            .iter()
            .map(rdkafka::metadata::MetadataPartition::id)
        {
            let (low, end) = consumer
                .fetch_watermarks(topic, partition, BROKER_TIMEOUT)
                .with_context(|| format!("can't read the end offset of {topic}[{partition}]"))?;
            ranges.insert(partition, low..end);
        }
        Ok(ranges)
    })
}

/// Checks what the brokers know of a topic.
fn check(topic: &str, partitions: usize, error: Option<RDKafkaErrorCode>) -> Result<()> {
    match error {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => bail!(Permanent(format!(
            "the Kafka user may not describe the topic {topic}: grant it Describe and Read"
        ))),
        None if partitions > 0 => Ok(()),
        _ => bail!(
            "the topic {topic} doesn't exist; the operator creates it, see the condition \
             TopicsReady of the pipeline"
        ),
    }
}

/// Reader of a topic.
pub struct TopicReader {
    consumer: StreamConsumer<BrokerErrors>,
    /// Partitions that are not yet read to their end.
    unread: Ends,
    /// Whether it waits for more records at the end of a partition.
    follows: bool,
}

impl TopicReader {
    /// A reader at the beginning of the topic.
    pub fn new(config: &Batch, topic: &str, ends: &Ends) -> Result<Self> {
        let from = ends.keys().map(|partition| (*partition, Offset::Beginning));
        Self::starting(Brokers::of(config), topic, from, ends.clone())
    }

    /// A reader of these offsets.
    pub fn between(brokers: Brokers<'_>, topic: &str, ranges: &Ranges) -> Result<Self> {
        let filled = || ranges.iter().filter(|(_, range)| !range.is_empty());
        let from = filled().map(|(partition, range)| (*partition, Offset::Offset(range.start)));
        let ends = filled().map(|(partition, range)| (*partition, range.end));
        Self::starting(brokers, topic, from, ends.collect())
    }

    fn starting(
        brokers: Brokers<'_>,
        topic: &str,
        from: impl Iterator<Item = (i32, Offset)>,
        unread: Ends,
    ) -> Result<Self> {
        let (settings, errors) = settings(brokers)?;
        let consumer: StreamConsumer<_> = settings
            .create_with_context(errors)
            .context("can't create the Kafka consumer")?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in from {
            list.add_partition_offset(topic, partition, offset)?;
        }
        consumer.assign(&list)?;
        Ok(Self {
            consumer,
            unread,
            follows: false,
        })
    }

    /// A reader of what is written from these offsets on. It never ends.
    pub fn following(brokers: Brokers<'_>, topic: &str, from: &Ends) -> Result<Self> {
        let ranges = from.iter();
        let ranges = ranges.map(|(partition, from)| (*partition, *from..i64::MAX));
        Ok(Self {
            follows: true,
            ..Self::between(brokers, topic, &ranges.collect())?
        })
    }

    /// The next record of any partition; `None` when all partitions are read.
    pub async fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>> {
        while !self.unread.is_empty() {
            let received = tokio::time::timeout(RECEIVE_TIMEOUT, self.consumer.recv()).await;
            let Ok(received) = received else {
                ensure!(
                    self.follows,
                    "no record received from Kafka for {RECEIVE_TIMEOUT:?}"
                );
                continue;
            };
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
                Err(KafkaError::PartitionEOF(_)) if self.follows => {}
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.unread.remove(&partition);
                }
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                    bail!("the topic was deleted");
                }
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::TopicAuthorizationFailed)) => {
                    bail!(Permanent(
                        "the Kafka user may not read the topic: grant it Read".to_owned()
                    ))
                }
                Err(KafkaError::MessageConsumptionFatal(code)) => {
                    bail!("fatal error of the Kafka consumer: {code}")
                }
                Err(error) => debug!(%error, "error of the Kafka consumer"),
            }
        }
        Ok(None)
    }
}

/// A set of ids of dead letters, with a few bytes per id since there may be millions.
#[derive(Debug, Default)]
pub struct LetterIdSet {
    /// Topic ids and sinks: several if the records' topic was deleted and created again, or if a
    /// sink has refused records.
    origins: Vec<(String, Option<String>)>,
    /// Index in `origins`, partition and offset.
    ids: HashSet<(usize, i32, i64)>,
}

impl LetterIdSet {
    /// Adds an id; returns whether it is new.
    pub fn insert(&mut self, id: &DeadLetterId) -> bool {
        let origin = self.origin(id).unwrap_or_else(|| {
            self.origins.push((id.topic_id.clone(), id.sink.clone()));
            self.origins.len() - 1
        });
        self.ids.insert((origin, id.partition, id.offset))
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the set contains an id.
    pub fn contains(&self, id: &DeadLetterId) -> bool {
        self.origin(id)
            .is_some_and(|origin| self.ids.contains(&(origin, id.partition, id.offset)))
    }

    fn origin(&self, id: &DeadLetterId) -> Option<usize> {
        self.origins
            .iter()
            .position(|(topic_id, sink)| *topic_id == id.topic_id && *sink == id.sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::is_permanent;

    #[test]
    fn a_missing_right_is_not_a_missing_topic() {
        use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownTopicOrPartition};
        assert!(check("d.pin.dlq", 3, None).is_ok());
        for (error, permanent, sentence) in [
            (None, false, "doesn't exist"),
            (Some(UnknownTopicOrPartition), false, "doesn't exist"),
            (
                Some(TopicAuthorizationFailed),
                true,
                "grant it Describe and Read",
            ),
        ] {
            let found = check("d.pin.dlq", 0, error).unwrap_err();
            assert_eq!(is_permanent(&found), permanent, "{error:?}");
            assert!(found.to_string().contains(sentence), "{found}");
        }
    }

    #[test]
    fn ids_of_a_recreated_topic_and_of_each_sink_are_different() {
        let id = |topic_id: &str, partition, offset| DeadLetterId {
            topic_id: topic_id.into(),
            partition,
            offset,
            sink: None,
        };
        let refused = |sink: &str| DeadLetterId {
            sink: Some(sink.into()),
            ..id("a", 0, 1)
        };
        let mut set = LetterIdSet::default();
        for (letter, new) in [
            (id("a", 0, 1), true),
            (id("a", 0, 1), false),
            (id("b", 0, 1), true),
            (id("a", 1, 1), true),
            (id("a", 0, 2), true),
            (id("b", 0, 1), false),
            (refused("live"), true),
            (refused("live"), false),
            (refused("other"), true),
        ] {
            assert_eq!(set.contains(&letter), !new);
            assert_eq!(set.insert(&letter), new);
        }
    }
}
