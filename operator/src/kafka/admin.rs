//! Kafka's admin API. Every call has a time-out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_config::Kafka;
use pinpipe_runtime::kafka;
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, NewPartitions, NewTopic, OwnedResourceSpecifier,
        ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use super::{Raise, Seen};
use crate::{
    MANAGER,
    build::TopicWish,
    status::{Finding, reasons},
};

/// How long a broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Why the broker didn't do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// No broker answered.
    #[error(
        "the Kafka brokers at {bootstrap_servers} do not answer: check that they run and are reachable from the cluster, and spec.broker.kafka.bootstrapServers"
    )]
    Unreachable {
        /// Where they should be.
        bootstrap_servers: String,
    },
    /// A topic could not be created.
    #[error(
        "topic {topic} can't be created: {message}: check replicationFactor, config and the broker's permissions"
    )]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker said.
        message: String,
    },
    /// A topic could not be given more partitions.
    #[error(
        "topic {topic} can't be given {partitions} partitions: {message}: check the broker's permissions and limits"
    )]
    NotRaised {
        /// The topic.
        topic: String,
        /// As many as were wished for.
        partitions: i32,
        /// What the broker said.
        message: String,
    },
    /// A topic could not be deleted.
    #[error("topic {topic} can't be deleted: {message}")]
    NotDeleted {
        /// The topic.
        topic: String,
        /// What the broker said.
        message: String,
    },
    /// The broker answered something else.
    #[error("the Kafka brokers can't be asked about topics: {0}")]
    Failed(String),
}

impl BrokerError {
    /// As the condition says it.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let reason = match self {
            Self::Unreachable { .. } => reasons::BROKER_UNREACHABLE,
            Self::Refused { .. } => reasons::TOPIC_REFUSED,
            Self::NotRaised { .. } => reasons::PARTITIONS_REFUSED,
            Self::NotDeleted { .. } | Self::Failed(_) => reasons::BROKER_FAILED,
        };
        Finding::bad(reason, self.to_string())
    }
}

/// How many clusters are kept connected, and for how long after the last question. Pipelines mostly
/// share one, and a client costs threads.
const KEPT: (usize, Duration) = (8, Duration::from_mins(2));

/// Clusters that were asked a moment ago, the latest first.
#[derive(Default)]
pub struct Brokers(Mutex<Vec<(Instant, Arc<Broker>)>>);

impl Brokers {
    /// What the cluster at these addresses has of these topics, and the cluster itself, to change
    /// something there.
    pub async fn see(
        &self,
        bootstrap_servers: &str,
        names: Vec<String>,
    ) -> Result<(Arc<Broker>, BTreeMap<String, Seen>), BrokerError> {
        let broker = self.get(bootstrap_servers)?;
        match broker.see(names).await {
            Ok(seen) => Ok((broker, seen)),
            Err(error) => {
                // The next question is asked by a new client, which believes nothing of what this
                // one was told of the cluster.
                self.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .retain(|(_, kept)| !Arc::ptr_eq(kept, &broker));
                close(vec![broker]);
                Err(error)
            }
        }
    }

    fn get(&self, bootstrap_servers: &str) -> Result<Arc<Broker>, BrokerError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let broker = match kept
            .iter()
            .position(|(_, broker)| broker.bootstrap_servers == bootstrap_servers)
        {
            Some(at) => kept.remove(at).1,
            None => Arc::new(Broker::new(bootstrap_servers)?),
        };
        kept.insert(0, (Instant::now(), Arc::clone(&broker)));
        let (many, long) = KEPT;
        let asked_lately = kept
            .iter()
            .take(many)
            .take_while(|(asked, _)| asked.elapsed() < long)
            .count();
        close(
            kept.drain(asked_lately..)
                .map(|(_, broker)| broker)
                .collect(),
        );
        Ok(broker)
    }
}

/// A client's end waits for its threads.
fn close(brokers: Vec<Arc<Broker>>) {
    if !brokers.is_empty() {
        tokio::task::spawn_blocking(move || drop(brokers));
    }
}

/// A connection to a Kafka cluster.
pub struct Broker {
    bootstrap_servers: String,
    client: Arc<AdminClient<DefaultClientContext>>,
    options: AdminOptions,
}

impl Broker {
    /// Nothing is connected yet.
    fn new(bootstrap_servers: &str) -> Result<Self, BrokerError> {
        let config = Kafka {
            bootstrap_servers: bootstrap_servers.to_owned(),
        };
        let client = kafka::client_config(&config, MANAGER)
            .create()
            .map_err(|error| BrokerError::Failed(error.to_string()))?;
        Ok(Self {
            bootstrap_servers: bootstrap_servers.to_owned(),
            client: Arc::new(client),
            options: AdminOptions::new()
                .request_timeout(Some(TIMEOUT))
                .operation_timeout(Some(TIMEOUT)),
        })
    }

    /// What the broker has of these topics.
    pub async fn see(&self, names: Vec<String>) -> Result<BTreeMap<String, Seen>, BrokerError> {
        let (client, bootstrap_servers) =
            (Arc::clone(&self.client), self.bootstrap_servers.clone());
        let mut seen =
            tokio::task::spawn_blocking(move || see(&client, &bootstrap_servers, &names))
                .await
                .map_err(|error| BrokerError::Failed(error.to_string()))??;
        if seen.is_empty() {
            return Ok(seen);
        }
        let resources: Vec<_> = seen
            .keys()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let described = self
            .client
            .describe_configs(&resources, &self.options)
            .await
            .map_err(|e| self.failed(&e))?;
        for resource in described.into_iter().flatten() {
            if let OwnedResourceSpecifier::Topic(name) = &resource.specifier
                && let Some(topic) = seen.get_mut(name)
            {
                topic.config = resource
                    .entries
                    .into_iter()
                    .filter_map(|entry| Some((entry.name, entry.value?)))
                    .collect();
            }
        }
        Ok(seen)
    }

    /// Creates topics. One that is there by now is as good.
    pub async fn create(&self, wishes: &[TopicWish]) -> Result<(), BrokerError> {
        let topics: Vec<_> = wishes.iter().map(new_topic).collect();
        let results = self
            .client
            .create_topics(&topics, &self.options)
            .await
            .map_err(|error| self.failed(&error))?;
        for result in results {
            match result {
                Ok(topic) => tracing::info!(topic, "topic created"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(BrokerError::Refused {
                        topic,
                        message: code.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Gives topics more partitions. One that has as many by now is as good.
    pub async fn raise(&self, topics: &[Raise]) -> Result<(), BrokerError> {
        let partitions: Vec<_> = topics
            .iter()
            .map(|topic| {
                NewPartitions::new(
                    &topic.name,
                    usize::try_from(topic.partitions).unwrap_or_default(),
                )
            })
            .collect();
        let answer = self
            .client
            .create_partitions(&partitions, &self.options)
            .await;
        for result in answer.map_err(|error| self.failed(&error))? {
            match result {
                Ok(topic) => tracing::info!(topic, "topic given more partitions"),
                Err((_, RDKafkaErrorCode::InvalidPartitions)) => {}
                Err((name, code)) => {
                    let wished = topics
                        .iter()
                        .find(|topic| topic.name == name)
                        .map_or(0, |topic| topic.partitions);
                    return Err(BrokerError::NotRaised {
                        topic: name,
                        partitions: wished,
                        message: code.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Deletes topics. One that is gone by now is as good.
    pub async fn delete(&self, names: &[&str]) -> Result<(), BrokerError> {
        let answer = self.client.delete_topics(names, &self.options).await;
        for result in answer.map_err(|error| self.failed(&error))? {
            match result {
                Ok(topic) => tracing::info!(topic, "topic deleted"),
                Err((
                    _,
                    RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
                )) => {}
                Err((topic, code)) => {
                    return Err(BrokerError::NotDeleted {
                        topic,
                        message: code.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    fn failed(&self, error: &KafkaError) -> BrokerError {
        failed(error, &self.bootstrap_servers)
    }
}

fn new_topic(wish: &TopicWish) -> NewTopic<'_> {
    let topic = NewTopic::new(
        &wish.name,
        wish.partitions,
        TopicReplication::Fixed(wish.replication_factor),
    );
    wish.config
        .iter()
        .fold(topic, |topic, (key, value)| topic.set(key, value))
}

/// Blocks.
fn see(
    client: &AdminClient<DefaultClientContext>,
    bootstrap_servers: &str,
    names: &[String],
) -> Result<BTreeMap<String, Seen>, BrokerError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = kafka::topics(client.inner(), &names, TIMEOUT).map_err(|error| match error {
        kafka::IdentityError::NoAnswer(_) => BrokerError::Unreachable {
            bootstrap_servers: bootstrap_servers.to_owned(),
        },
        other => BrokerError::Failed(other.to_string()),
    })?;
    let seen = |topic: kafka::Topic| {
        (
            topic.name,
            Seen {
                id: topic.id,
                partitions: topic.partitions,
                ..Seen::default()
            },
        )
    };
    Ok(found.into_iter().map(seen).collect())
}

fn failed(error: &KafkaError, bootstrap_servers: &str) -> BrokerError {
    if error.rdkafka_error_code().is_some_and(kafka::is_no_answer) {
        BrokerError::Unreachable {
            bootstrap_servers: bootstrap_servers.to_owned(),
        }
    } else {
        BrokerError::Failed(error.to_string())
    }
}
