//! Topics, read and written without the product.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::{
    ClientConfig, Message as _, Offset, Timestamp, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    groups::GroupInfo,
    message::Headers as _,
    producer::{FutureProducer, FutureRecord},
};

use crate::cluster;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A record of a topic.
#[derive(Clone, Debug)]
pub struct Message {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// `LogAppendTime`, milliseconds since the epoch.
    pub time: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; a tombstone reads as empty.
    pub value: Vec<u8>,
    /// The headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Message {
    /// A header's value as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The order of records with the same key: the greatest is the latest.
    #[must_use]
    pub const fn order(&self) -> (i64, i32, i64) {
        (self.time, self.partition, self.offset)
    }
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster::KAFKA)
        .set("broker.address.family", "v4");
    config
}

fn consumer() -> Result<BaseConsumer> {
    Ok(settings().create()?)
}

fn settings() -> ClientConfig {
    let mut config = config();
    config
        .set("group.id", "e2e")
        .set("enable.auto.commit", "false");
    config
}

/// The first offset and the one after the last, by partition.
pub async fn ends(topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || ends_of(&consumer()?, &topic)).await?
}

fn ends_of(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let found = metadata
        .topics()
        .first()
        .context("the metadata lacks the topic")?;
    ensure!(
        found.error().is_none() && !found.partitions().is_empty(),
        "topic {topic} doesn't exist: {:?}",
        found.error()
    );
    found
        .partitions()
        .iter()
        .map(|p| Ok((p.id(), consumer.fetch_watermarks(topic, p.id(), TIMEOUT)?)))
        .collect()
}

/// Everything a topic holds now.
pub async fn read(topic: &str) -> Result<Vec<Message>> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || read_all(&topic)).await?
}

fn read_all(topic: &str) -> Result<Vec<Message>> {
    let consumer: BaseConsumer = settings().set("enable.partition.eof", "true").create()?;
    let ends = ends_of(&consumer, topic)?;
    let mut assignment = TopicPartitionList::new();
    for partition in ends.keys() {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut open: BTreeMap<i32, i64> = ends
        .iter()
        .filter(|(_, (s, e))| s < e)
        .map(|(p, (_, e))| (*p, *e))
        .collect();
    let mut messages = Vec::new();
    while !open.is_empty() {
        let Some(next) = consumer.poll(TIMEOUT) else {
            bail!("{topic}: no records up to {open:?}")
        };
        let message = match next {
            // The last entry of a partition can be a transaction's marker, which is no record.
            Err(KafkaError::PartitionEOF(partition)) => {
                open.remove(&partition);
                continue;
            }
            next => next?,
        };
        if message.offset() + 1 >= open.get(&message.partition()).copied().unwrap_or(i64::MAX) {
            open.remove(&message.partition());
        }
        let Timestamp::LogAppendTime(time) = message.timestamp() else {
            bail!(
                "{topic}: timestamps are {:?}, not LogAppendTime",
                message.timestamp()
            );
        };
        let headers = message.headers().map(|headers| {
            headers
                .iter()
                .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
                .collect()
        });
        messages.push(Message {
            partition: message.partition(),
            offset: message.offset(),
            time,
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: headers.unwrap_or_default(),
        });
    }
    Ok(messages)
}

/// The id of the Kafka cluster.
pub async fn cluster_id() -> Result<String> {
    let id =
        tokio::task::spawn_blocking(|| anyhow::Ok(consumer()?.client().fetch_cluster_id(TIMEOUT)))
            .await??;
    id.context("the broker has no cluster id")
}

/// Writes records with their keys directly to a topic. Returns partition and offset of each.
pub async fn write(topic: &str, records: &[(Option<Vec<u8>>, Vec<u8>)]) -> Result<Vec<(i32, i64)>> {
    let producer: FutureProducer = config()
        .set("acks", "all")
        .set("message.max.bytes", "1000000")
        .create()?;
    let sent = records.iter().map(|(key, value)| {
        let mut record = FutureRecord::<[u8], [u8]>::to(topic).payload(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        producer.send(record, TIMEOUT)
    });
    let delivered = futures::future::join_all(sent).await;
    delivered
        .into_iter()
        .map(|d| {
            d.map(|d| (d.partition, d.offset))
                .map_err(|(error, _)| error.into())
        })
        .collect()
}

/// Creates a topic with `LogAppendTime`.
pub async fn create(topic: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = config().create()?;
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "LogAppendTime");
    for outcome in admin
        .create_topics(
            [&topic],
            &AdminOptions::new().operation_timeout(Some(TIMEOUT)),
        )
        .await?
    {
        outcome.map_err(|(topic, error)| anyhow!("{topic} can't be created: {error}"))?;
    }
    Ok(())
}

/// Deletes the topics whose names begin with `prefix`.
pub async fn delete_topics(prefix: &str) -> Result<()> {
    let prefix = prefix.to_owned();
    let topics = tokio::task::spawn_blocking(move || {
        let metadata = consumer()?.fetch_metadata(None, TIMEOUT)?;
        let names = metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned());
        anyhow::Ok(
            names
                .filter(|name| name.starts_with(&prefix))
                .collect::<Vec<_>>(),
        )
    })
    .await??;
    if topics.is_empty() {
        return Ok(());
    }
    let admin: AdminClient<DefaultClientContext> = config().create()?;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    for outcome in admin
        .delete_topics(&names, &AdminOptions::new().request_timeout(Some(TIMEOUT)))
        .await?
    {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, error)) => bail!("{topic} can't be deleted: {error}"),
        }
    }
    Ok(())
}

/// Deletes all but the last quarter of the records of each partition, as retention would.
pub async fn delete_old(topic: &str) -> Result<()> {
    let mut before = TopicPartitionList::new();
    for (partition, (start, end)) in ends(topic).await? {
        before.add_partition_offset(topic, partition, Offset::Offset(end - (end - start) / 4))?;
    }
    let admin: AdminClient<DefaultClientContext> = config().create()?;
    let deleted = admin
        .delete_records(&before, &AdminOptions::new().request_timeout(Some(TIMEOUT)))
        .await?;
    for element in deleted.elements() {
        element.error()?;
    }
    Ok(())
}

/// The ids of the members of a consumer group.
pub async fn members(group: &str) -> Result<BTreeSet<String>> {
    let group = group.to_owned();
    tokio::task::spawn_blocking(move || {
        let list = consumer()?.fetch_group_list(Some(&group), TIMEOUT)?;
        let members = list
            .groups()
            .iter()
            .flat_map(GroupInfo::members)
            .map(|member| member.id().to_owned());
        Ok(members.collect())
    })
    .await?
}
