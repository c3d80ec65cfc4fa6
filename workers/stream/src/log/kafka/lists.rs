//! librdkafka's lists of partitions.

use std::collections::BTreeMap;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer, ConsumerContext},
    error::KafkaResult,
};

use super::{
    super::{Position, TopicPartition},
    BROKER_TIMEOUT,
};

/// librdkafka's list of partitions and offsets.
pub(super) fn list<'a>(
    partitions: impl IntoIterator<Item = (&'a str, i32, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in partitions {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

pub(super) fn named(partitions: &[TopicPartition]) -> KafkaResult<TopicPartitionList> {
    list(
        partitions
            .iter()
            .map(|(topic, partition)| (topic.as_str(), *partition, Offset::Invalid)),
    )
}

pub(super) fn with_offsets(
    positions: &[(TopicPartition, Position)],
) -> KafkaResult<TopicPartitionList> {
    list(
        positions
            .iter()
            .map(|((topic, partition), position)| (topic.as_str(), *partition, at(*position))),
    )
}

/// Positions of a topic's partitions, each with this text as its metadata.
pub(super) fn with_metadata(
    topic: &str,
    positions: &[(i32, Position)],
    metadata: &str,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (partition, position) in positions {
        let mut element = list.add_partition(topic, *partition);
        element.set_offset(at(*position))?;
        element.set_metadata(metadata);
    }
    Ok(list)
}

pub(super) fn at(position: Position) -> Offset {
    Offset::Offset(position.next_offset())
}

/// Partitions of a topic, without offsets.
pub(super) fn partitions(topic: &str, numbers: &[i32]) -> KafkaResult<TopicPartitionList> {
    let numbers = numbers.iter();
    list(numbers.map(|number| (topic, *number, Offset::Invalid)))
}

/// Asks for the offsets that the consumer's group has committed. A broker may answer with an error
/// for one partition alone, which doesn't mean that nothing is committed for it.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    partitions: TopicPartitionList,
) -> KafkaResult<BTreeMap<i32, Position>> {
    let list = asked(consumer, partitions)?;
    Ok(by_partition(offsets(&list)))
}

/// Asks for those of the offsets whose metadata are this text, or none.
pub(super) fn committed_with<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    partitions: TopicPartitionList,
    metadata: &str,
) -> KafkaResult<BTreeMap<i32, Position>> {
    let list = asked(consumer, partitions)?;
    let mut committed = by_partition(offsets(&list));
    for element in list.elements() {
        // A person may have set it, who gives no metadata.
        if ![metadata, ""].contains(&element.metadata()) {
            committed.remove(&element.partition());
        }
    }
    Ok(committed)
}

fn asked<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    partitions: TopicPartitionList,
) -> KafkaResult<TopicPartitionList> {
    let list = consumer.committed_offsets(partitions, BROKER_TIMEOUT)?;
    for element in list.elements() {
        element.error()?;
    }
    Ok(list)
}

/// The partitions of a list that have an offset.
pub(super) fn offsets(list: &TopicPartitionList) -> Vec<(TopicPartition, Position)> {
    let elements = list.elements();
    let with_offset = elements
        .iter()
        .filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((
                (element.topic().to_owned(), element.partition()),
                Position::offset(offset),
            )),
            _ => None,
        });
    with_offset.collect()
}

pub(super) fn by_partition(offsets: Vec<(TopicPartition, Position)>) -> BTreeMap<i32, Position> {
    offsets
        .into_iter()
        .map(|((_, partition), position)| (partition, position))
        .collect()
}
