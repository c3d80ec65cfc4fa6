//! Clients of the Kafka cluster.

mod describe;
mod progress;

use std::{collections::HashMap, time::Duration};

use rdkafka::{ClientConfig, ClientContext, client::Client, types::RDKafkaErrorCode};

use crate::config::Kafka;

pub use progress::{Behind, Positions, Progress, behind, list};

/// What every client is configured with; a worker adds its own settings.
///
/// Topics are never created by asking for them: theirs is the operator's work, with the timestamps
/// and the partitions it sets.
#[must_use]
pub fn client_config(kafka: &Kafka, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", client_id)
        .set("allow.auto.create.topics", "false")
        .set("socket.keepalive.enable", "true")
        .set("socket.connection.setup.timeout.ms", "10000")
        // A broker that came back is found within seconds, one that went away within a minute.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "3000")
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set("enable.metrics.push", "false");
    config
}

/// Which cluster and which topics a client talks to. A topic deleted and created again under its
/// name has another id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// Topic name → topic id, in Kafka's own notation (Base64, 22 characters).
    pub topic_ids: HashMap<String, String>,
}

/// Why the identity can't be told.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No broker answered in time.
    #[error(
        "the Kafka cluster did not answer within {0:?}: is it running, and is spec.broker.kafka.bootstrapServers right?"
    )]
    NoAnswer(Duration),
    /// The cluster refused.
    #[error("the Kafka cluster can't describe its topics: {0}")]
    Refused(String),
    /// A topic is not there, or not to be seen by us.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// Its name.
        topic: String,
        /// What the broker says.
        reason: String,
        /// Kafka's code, such as `UnknownTopicOrPartition`.
        code: RDKafkaErrorCode,
    },
}

/// Whether an error means that no broker answered.
#[must_use]
pub fn is_no_answer(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::Resolve
    )
}

/// Asks the cluster for its id and the topics' ids. Blocks for up to `timeout`: call it where
/// blocking is allowed.
pub fn identity<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Identity, IdentityError> {
    let topics = describe::topics(client, topics, timeout)?.into_iter();
    let topic_ids = topics
        .map(|topic| topic.map(|topic| (topic.name, topic.id)))
        .collect::<Result<_, _>>()?;
    let cluster_id = client
        .fetch_cluster_id(timeout)
        .ok_or(IdentityError::NoAnswer(timeout))?;
    Ok(Identity {
        cluster_id,
        topic_ids,
    })
}

/// A topic as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, in Kafka's own notation (Base64, 22 characters).
    pub id: String,
    /// Its partitions.
    pub partitions: i32,
}

/// Those of these topics that are there. Blocks for up to `timeout`: call it where blocking is
/// allowed.
pub fn topics<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<Topic>, IdentityError> {
    let found = describe::topics(client, names, timeout)?.into_iter();
    let is_absent = |found: &Result<Topic, IdentityError>| {
        matches!(
            found,
            Err(IdentityError::Topic {
                code: RDKafkaErrorCode::UnknownTopicOrPartition,
                ..
            })
        )
    };
    found.filter(|found| !is_absent(found)).collect()
}
