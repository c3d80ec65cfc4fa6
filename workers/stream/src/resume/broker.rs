//! Queries to the brokers. Each blocks in librdkafka, so it runs on a thread for blocking calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use pinpipe_core::Kind;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    metadata::MetadataPartition,
};

use super::{Log, Resume};
use crate::{
    consumer::Consumer,
    sink::{Sink, Topic},
};

/// How long one request to a broker may take.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

impl<S: Sink> Resume<S> {
    pub(super) async fn identify(&self, kind: Kind, name: &str) -> anyhow::Result<Topic> {
        let topic = name.to_owned();
        let mut identity = self
            .blocking(move |consumer| {
                Ok(pinpipe_runtime::kafka::identity(
                    consumer.client(),
                    &[&topic],
                    BROKER_TIMEOUT,
                )?)
            })
            .await?;
        let id = identity
            .topic_ids
            .remove(name)
            .with_context(|| format!("topic {name} has no id"))?;
        Ok(Topic {
            kind,
            name: name.to_owned(),
            cluster_id: identity.cluster_id,
            id,
        })
    }

    /// The logs of `partitions`, or of all the topic's partitions.
    pub(super) async fn logs(
        &self,
        name: &str,
        partitions: Option<Vec<i32>>,
    ) -> anyhow::Result<BTreeMap<i32, Log>> {
        let name = name.to_owned();
        self.blocking(move |consumer| {
            let partitions = if let Some(partitions) = partitions {
                partitions
            } else {
                let metadata = consumer.fetch_metadata(Some(&name), BROKER_TIMEOUT)?;
                let topic = metadata.topics().iter().find(|topic| topic.name() == name);
                topic.map_or_else(Vec::new, |topic| {
                    topic
                        .partitions()
                        .iter()
                        .map(MetadataPartition::id)
                        .collect()
                })
            };
            partitions
                .into_iter()
                .map(|partition| {
                    let (low, high) =
                        consumer.fetch_watermarks(&name, partition, BROKER_TIMEOUT)?;
                    Ok((partition, Log { low, high }))
                })
                .collect()
        })
        .await
    }

    pub(super) async fn committed(
        &self,
        name: &str,
        partitions: &[i32],
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(name, *partition);
        }
        self.blocking(move |consumer| {
            let committed = consumer.committed_offsets(list, BROKER_TIMEOUT)?;
            let offsets =
                committed
                    .elements()
                    .into_iter()
                    .filter_map(|element| match element.offset() {
                        Offset::Offset(offset) => Some((element.partition(), offset)),
                        _ => None,
                    });
            Ok(offsets.collect())
        })
        .await
    }

    /// The first offset not before `time`, milliseconds since the epoch, in each partition that has
    /// such a record.
    pub(super) async fn offsets_at(
        &self,
        name: &str,
        partitions: Vec<i32>,
        time: i64,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(name, partition, Offset::Offset(time))?;
        }
        self.blocking(move |consumer| {
            let found = consumer.offsets_for_times(list, BROKER_TIMEOUT)?;
            let mut offsets = BTreeMap::new();
            for element in found.elements() {
                element
                    .error()
                    .with_context(|| format!("{}[{}]", element.topic(), element.partition()))?;
                if let Offset::Offset(offset) = element.offset() {
                    offsets.insert(element.partition(), offset);
                }
            }
            Ok(offsets)
        })
        .await
    }

    /// Commits offsets to the group and waits for the broker's reply.
    pub(super) async fn commit_offsets(
        &self,
        name: &str,
        offsets: BTreeMap<i32, i64>,
    ) -> anyhow::Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(name, partition, Offset::Offset(offset))?;
        }
        self.blocking(move |consumer| Ok(consumer.commit(&list, CommitMode::Sync)?))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Consumer) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let consumer = self.consumer.clone();
        match tokio::task::spawn_blocking(move || query(&consumer)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.consumer.context().broker_errors.explain(error)),
            Err(error) => Err(anyhow!(error)),
        }
    }
}

/// Whether cluster and topics still have the ids in `topics`.
pub fn same_identity(consumer: &Consumer, topics: &[Arc<Topic>]) -> anyhow::Result<bool> {
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    let identity = pinpipe_runtime::kafka::identity(consumer.client(), &names, BROKER_TIMEOUT)?;
    Ok(topics.iter().all(|topic| {
        identity.cluster_id == topic.cluster_id
            && identity.topic_ids.get(&topic.name) == Some(&topic.id)
    }))
}
