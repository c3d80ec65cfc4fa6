//! Kafka's admin API. Every request has a time-out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_config::Kafka;
use pinpipe_crds::reasons;
use pinpipe_plan::{build::DesiredTopic, names::MANAGER};
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

use super::{ObservedTopic, Raise};
use crate::finding::Finding;

/// Time-out of one request to a broker.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Why a request to the brokers failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// No broker answers.
    #[error(
        "the Kafka brokers at {bootstrap_servers} (spec.broker.kafka.bootstrapServers) do not \
         answer: check that they run, that the cluster can reach them, and that this is a \
         plaintext listener"
    )]
    Unreachable {
        /// Their addresses.
        bootstrap_servers: String,
    },
    /// A topic could not be created.
    #[error(
        "topic {topic} can't be created: {message}; check spec.broker.kafka.topics \
         (replicationFactor, config) and the operator's permissions in Kafka"
    )]
    Refused {
        /// Name of the topic.
        topic: String,
        /// The broker's own sentence.
        message: String,
    },
    /// A topic could not be given more partitions.
    #[error(
        "topic {topic} can't be given {partitions} partitions: {message}; check the operator's \
         permissions in Kafka and the broker's limits"
    )]
    NotRaised {
        /// Name of the topic.
        topic: String,
        /// Desired number of partitions.
        partitions: i32,
        /// The broker's own sentence.
        message: String,
    },
    /// A topic could not be deleted.
    #[error("topic {topic} can't be deleted: {message}")]
    NotDeleted {
        /// Name of the topic.
        topic: String,
        /// The broker's own sentence.
        message: String,
    },
    /// The broker answered with another error.
    #[error("the Kafka brokers refuse to describe topics: {0}")]
    Failed(String),
}

impl BrokerError {
    /// The error as a finding of the topics' condition.
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

/// Number of clusters that stay connected, and how long after the last request. Pipelines mostly
/// share one cluster, and each client costs threads.
const KEPT: (usize, Duration) = (8, Duration::from_mins(2));

/// How long a cluster that didn't answer isn't queried again. Pipelines mostly share one cluster,
/// and each of them would wait for the whole time-out.
const UNREACHABLE_FOR: Duration = Duration::from_secs(8);

/// Connected clusters, the latest used first.
#[derive(Default)]
pub struct Brokers {
    connected: Mutex<Vec<(Instant, Arc<Broker>)>>,
    /// Clusters that didn't answer, by their addresses.
    unreachable: Mutex<HashMap<String, Instant>>,
}

impl Brokers {
    /// Describes topics of the cluster at these addresses. Returns the cluster, too, for changes.
    pub async fn describe(
        &self,
        bootstrap_servers: &str,
        names: Vec<String>,
    ) -> Result<(Arc<Broker>, BTreeMap<String, ObservedTopic>), BrokerError> {
        if self.is_unreachable(bootstrap_servers) {
            return Err(BrokerError::Unreachable {
                bootstrap_servers: bootstrap_servers.to_owned(),
            });
        }
        let broker = self.get(bootstrap_servers)?;
        match broker.describe(names).await {
            Ok(observed) => Ok((broker, observed)),
            Err(error) => {
                if matches!(error, BrokerError::Unreachable { .. }) {
                    let now = Instant::now();
                    let mut unreachable = self
                        .unreachable
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    unreachable.insert(bootstrap_servers.to_owned(), now);
                }
                // The next request uses a new client, without this one's view of the cluster.
                self.connected
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .retain(|(_, kept)| !Arc::ptr_eq(kept, &broker));
                close(vec![broker]);
                Err(error)
            }
        }
    }

    fn is_unreachable(&self, bootstrap_servers: &str) -> bool {
        let mut unreachable = self
            .unreachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unreachable.retain(|_, since| since.elapsed() < UNREACHABLE_FOR);
        unreachable.contains_key(bootstrap_servers)
    }

    fn get(&self, bootstrap_servers: &str) -> Result<Arc<Broker>, BrokerError> {
        let mut kept = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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

/// Dropping a client waits for its threads.
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
    /// Makes a client, which connects with the first request.
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

    /// Describes those of the topics that exist.
    pub async fn describe(
        &self,
        names: Vec<String>,
    ) -> Result<BTreeMap<String, ObservedTopic>, BrokerError> {
        let (client, bootstrap_servers) =
            (Arc::clone(&self.client), self.bootstrap_servers.clone());
        let mut observed =
            tokio::task::spawn_blocking(move || describe(&client, &bootstrap_servers, &names))
                .await
                .map_err(|error| BrokerError::Failed(error.to_string()))??;
        if observed.is_empty() {
            return Ok(observed);
        }
        let resources: Vec<_> = observed
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
                && let Some(topic) = observed.get_mut(name)
            {
                topic.config = resource
                    .entries
                    .into_iter()
                    .filter_map(|entry| Some((entry.name, entry.value?)))
                    .collect();
            }
        }
        Ok(observed)
    }

    /// Creates topics. A topic that exists by now is accepted.
    pub async fn create(&self, desired: &[DesiredTopic]) -> Result<(), BrokerError> {
        let topics: Vec<_> = desired.iter().map(new_topic).collect();
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

    /// Gives topics more partitions. A topic that has as many by now is accepted.
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
                    let desired = topics
                        .iter()
                        .find(|topic| topic.name == name)
                        .map_or(0, |topic| topic.partitions);
                    return Err(BrokerError::NotRaised {
                        topic: name,
                        partitions: desired,
                        message: code.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Deletes topics. A topic that is gone by now is accepted.
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

fn new_topic(desired: &DesiredTopic) -> NewTopic<'_> {
    let replication = TopicReplication::Fixed(desired.replication_factor);
    let topic = NewTopic::new(&desired.name, desired.partitions, replication);
    desired
        .config
        .iter()
        .fold(topic, |topic, (key, value)| topic.set(key, value))
}

/// Describes topics; blocks the thread.
fn describe(
    client: &AdminClient<DefaultClientContext>,
    bootstrap_servers: &str,
    names: &[String],
) -> Result<BTreeMap<String, ObservedTopic>, BrokerError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = kafka::topics(client.inner(), &names, TIMEOUT).map_err(|error| match error {
        kafka::IdentityError::NoAnswer(_) => BrokerError::Unreachable {
            bootstrap_servers: bootstrap_servers.to_owned(),
        },
        other => BrokerError::Failed(other.to_string()),
    })?;
    let observed = |topic: kafka::Topic| {
        let observed = ObservedTopic {
            id: topic.id,
            partitions: topic.partitions,
            ..ObservedTopic::default()
        };
        (topic.name, observed)
    };
    Ok(found.into_iter().map(observed).collect())
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
