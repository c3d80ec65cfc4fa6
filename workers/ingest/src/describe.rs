//! Descriptions of topics and streams, for clients that look before they send.

use std::{sync::Arc, time::Duration};

use pinpipe_core::Kind;
use rdkafka::metadata::{Metadata, MetadataBroker, MetadataPartition, MetadataTopic};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{answer::shard, names::Names, problem::Problem, producer::Producer, route::Describe};

/// How long the brokers may take, and how long a request may wait for those before it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Describes what there is, for one client at a time.
#[derive(Debug, Default)]
pub struct Descriptions {
    one_at_a_time: Arc<Mutex<()>>,
}

impl Descriptions {
    /// The body of the answer.
    pub async fn describe(
        &self,
        asked: &Describe,
        names: &Names,
        producer: &Producer,
    ) -> Result<Value, Problem> {
        let all = || names.all().collect::<Vec<_>>();
        let kind = match asked {
            Describe::Topics => return Ok(json!(all())),
            Describe::Streams => {
                return Ok(json!({"StreamNames": all(), "HasMoreStreams": false}));
            }
            // With a topic's description comes that of the brokers.
            Describe::Brokers => Kind::Pin,
            Describe::Topic(kind, _)
            | Describe::Partitions(kind)
            | Describe::Partition(kind, _)
            | Describe::Stream(kind, _) => *kind,
        };
        let topic = names.topic(kind);
        let metadata = self.metadata(producer, topic.to_owned()).await?;
        let found = metadata.topics().iter();
        let found = found.filter(|found| found.name() == topic);
        let partitions: Vec<_> = found.flat_map(MetadataTopic::partitions).collect();
        if partitions.is_empty() && *asked != Describe::Brokers {
            return Err(Problem::TopicMissing(topic.to_owned()));
        }
        Ok(match asked {
            Describe::Topic(_, name) => json!({
                "name": name,
                "configs": {},
                "partitions": partitions.iter().copied().map(partition).collect::<Vec<_>>(),
            }),
            Describe::Partition(_, number) => {
                let one = partitions.iter().find(|one| one.id() == *number);
                partition(one.ok_or(Problem::UnknownPartition)?)
            }
            Describe::Partitions(_) => partitions.iter().copied().map(partition).collect(),
            Describe::Stream(_, name) => stream(name, &partitions),
            Describe::Brokers | Describe::Topics | Describe::Streams => {
                let ids = metadata.brokers().iter().map(MetadataBroker::id);
                json!({"brokers": ids.collect::<Vec<_>>()})
            }
        })
    }

    async fn metadata(&self, producer: &Producer, topic: String) -> Result<Metadata, Problem> {
        let turn = Arc::clone(&self.one_at_a_time).lock_owned();
        let turn = tokio::time::timeout(TIMEOUT, turn).await;
        let turn = turn.map_err(|_| Problem::BrokerUnavailable)?;
        let producer = producer.clone();
        let asking = tokio::task::spawn_blocking(move || {
            // Also if the client is gone meanwhile.
            let _turn = turn;
            producer.metadata(&topic, TIMEOUT)
        });
        match asking.await {
            Ok(Ok(metadata)) => Ok(metadata),
            _ => Err(Problem::BrokerUnavailable),
        }
    }
}

/// A partition as the REST proxy describes it.
fn partition(partition: &MetadataPartition) -> Value {
    let replica = |broker: &i32| {
        json!({
            "broker": broker,
            "leader": *broker == partition.leader(),
            "in_sync": partition.isr().contains(broker),
        })
    };
    json!({
        "partition": partition.id(),
        "leader": partition.leader(),
        "replicas": partition.replicas().iter().map(replica).collect::<Vec<_>>(),
    })
}

/// A stream as Kinesis describes it: a shard for each partition.
fn stream(name: &str, partitions: &[&MetadataPartition]) -> Value {
    let count = partitions.len().max(1) as u128;
    let width = u128::MAX / count;
    let shards = partitions.iter().zip(0_u128..).map(|(partition, number)| {
        // The ranges of the keys' hashes in Kinesis cover all numbers of 128 bits.
        let last = match number + 1 {
            next if next == count => u128::MAX,
            next => next * width - 1,
        };
        json!({
            "ShardId": shard(partition.id()),
            "HashKeyRange": {
                "StartingHashKey": (number * width).to_string(),
                "EndingHashKey": last.to_string(),
            },
            "SequenceNumberRange": {"StartingSequenceNumber": "0"},
        })
    });
    json!({"StreamDescription": {
        "StreamName": name,
        "StreamARN": format!("arn:aws:kinesis:local:000000000000:stream/{name}"),
        "StreamStatus": "ACTIVE",
        "Shards": shards.collect::<Vec<_>>(),
        "HasMoreShards": false,
    }})
}
