//! Kafka clients: access and common settings, cluster and topic ids, consumer group progress.

mod access;
mod broker_errors;
mod cause;
mod change;
mod describe;
mod events;
mod members;
mod msk;
mod progress;
mod request;
mod set_token;
mod tokens;

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use rdkafka::{ClientContext, client::Client, types::RDKafkaErrorCode};

pub use access::{Access, Tuned, User};
pub use broker_errors::BrokerErrors;
pub use cause::Unreachable;
pub use change::{NewTopic, Refusal, Results, create_partitions, create_topics, delete_topics};
pub use members::{Member, members};
pub use progress::{Behind, Positions, Progress, behind, list};
pub use tokens::{Token, Tokens};

/// How often a client that is to be closed is checked for whether others still have it.
const CLOSING_INTERVAL: Duration = Duration::from_millis(100);

/// Closes a client once nobody else has it, on a thread of its own: closing blocks.
pub fn close<T: Send + Sync + 'static>(mut client: Arc<T>) {
    thread::spawn(move || {
        while let Err(shared) = Arc::try_unwrap(client) {
            client = shared;
            thread::sleep(CLOSING_INTERVAL);
        }
    });
}

/// Ids of the cluster and its topics. A topic's id changes if it is deleted and created again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// Topic name → topic id, in Kafka's own notation (Base64, 22 characters).
    pub topic_ids: HashMap<String, String>,
}

/// Why the cluster or its topics could not be described.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No broker answered in time. Contains librdkafka's message.
    #[error(
        "no Kafka broker answered: {0}: check that the brokers run and that \
         spec.broker.kafka.bootstrapServers is right"
    )]
    NoAnswer(String),
    /// The cluster refused the request. Contains librdkafka's message.
    #[error("the Kafka cluster can't describe its topics: {0}")]
    Refused(String),
    /// A topic does not exist or may not be described.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// The topic's name.
        topic: String,
        /// librdkafka's message.
        reason: String,
        /// Kafka's error code, such as `UnknownTopicOrPartition`.
        code: RDKafkaErrorCode,
    },
}

/// Whether an error code means that no broker answered.
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
            | Code::SSL
            | Code::Authentication
    )
}

/// Fetches the ids of the cluster and of `topics`. Blocks for up to twice `timeout`: call it where
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
        .ok_or_else(|| IdentityError::NoAnswer(format!("no cluster id within {timeout:?}")))?;
    Ok(Identity {
        cluster_id,
        topic_ids,
    })
}

/// A topic of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic's name.
    pub name: String,
    /// The topic's id, in Kafka's own notation (Base64, 22 characters).
    pub id: String,
    /// The number of partitions.
    pub partitions: i32,
}

/// Describes those of the topics `names` that exist. Blocks for up to `timeout`: call it where
/// blocking is allowed.
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
