//! Descriptions of topics and streams, for clients that look before they send.

use std::time::Duration;

use axum::{
    Json,
    http::header,
    response::{IntoResponse, Response},
};
use rdkafka::metadata::{Metadata, MetadataBroker, MetadataPartition, MetadataTopic};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    answer::shard, form::Form, names::Names, problem::Problem, producer::Producer, route::Describe,
};

/// How long the brokers may take, and how long a request may wait for those before it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Describes what there is, for one client at a time.
#[derive(Debug, Default)]
pub struct Descriptions {
    one_at_a_time: Mutex<()>,
}

impl Descriptions {
    /// The response to a request for a description.
    pub async fn response(
        &self,
        asked: &Describe,
        names: &Names,
        producer: &Producer,
        wants_plain_json: bool,
    ) -> Response {
        let form = match asked {
            Describe::Streams | Describe::Stream(..) => Form::Streams,
            _ => Form::RestProxy,
        };
        match self.describe(asked, names, producer).await {
            Ok(body) if form == Form::RestProxy && !wants_plain_json => {
                let content_type = [(header::CONTENT_TYPE, "application/vnd.kafka.v2+json")];
                (content_type, body.to_string()).into_response()
            }
            Ok(body) => Json(body).into_response(),
            Err(problem) => problem.response(form),
        }
    }

    async fn describe(
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
            Describe::Brokers => None,
            Describe::Topic(kind, _)
            | Describe::Partitions(kind)
            | Describe::Partition(kind, _)
            | Describe::Stream(kind, _) => Some(*kind),
        };
        let topic = kind.map(|kind| names.topic(kind).to_owned());
        let metadata = self.metadata(producer, topic.clone()).await?;
        let found = metadata.topics().iter();
        let found = found.filter(|found| Some(found.name()) == topic.as_deref());
        let partitions: Vec<_> = found.flat_map(MetadataTopic::partitions).collect();
        if let Some(topic) = topic.filter(|_| partitions.is_empty()) {
            return Err(Problem::UnknownName(topic));
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

    async fn metadata(
        &self,
        producer: &Producer,
        topic: Option<String>,
    ) -> Result<Metadata, Problem> {
        let turn = tokio::time::timeout(TIMEOUT, self.one_at_a_time.lock());
        let _turn = turn.await.map_err(|_| Problem::Busy)?;
        let producer = producer.clone();
        let asking =
            tokio::task::spawn_blocking(move || producer.metadata(topic.as_deref(), TIMEOUT));
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
    let shards = partitions.iter().map(|partition| {
        json!({
            "ShardId": shard(partition.id()),
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
