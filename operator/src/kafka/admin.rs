//! Kafka's admin API. Every request has a time-out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_config::Kafka;
use pinpipe_crds::reasons;
use pinpipe_plan::{build::DesiredTopic, names::MANAGER};
use pinpipe_runtime::kafka::{self, BrokerErrors, IdentityError};
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, NewPartitions, NewTopic, OwnedResourceSpecifier,
        ResourceSpecifier, TopicReplication,
    },
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
    #[error(transparent)]
    Unreachable(kafka::Unreachable),
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
            Self::Unreachable(_) => reasons::BROKER_UNREACHABLE,
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

/// Clusters, the latest used first.
#[derive(Default)]
pub struct Brokers(Mutex<Vec<Kept>>);

struct Kept {
    asked: Instant,
    bootstrap_servers: String,
    /// Outlives the client, so that an outage keeps its cause.
    errors: BrokerErrors,
    /// None after a failure.
    broker: Option<Arc<Broker>>,
}

impl Brokers {
    /// Describes topics of the cluster at these addresses. Returns the cluster, too, for changes.
    pub async fn describe(
        &self,
        bootstrap_servers: &str,
        names: Vec<String>,
    ) -> Result<(Arc<Broker>, BTreeMap<String, ObservedTopic>), BrokerError> {
        let broker = self.get(bootstrap_servers)?;
        match broker.describe(names).await {
            Ok(observed) => {
                broker.errors.collect(broker.client.inner());
                broker.errors.clear();
                Ok((broker, observed))
            }
            Err(error) => {
                // The next request uses a new client, without this one's view of the cluster.
                let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                for kept in kept.iter_mut() {
                    kept.broker.take_if(|kept| Arc::ptr_eq(kept, &broker));
                }
                close(vec![broker]);
                Err(error)
            }
        }
    }

    fn get(&self, bootstrap_servers: &str) -> Result<Arc<Broker>, BrokerError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept
            .iter()
            .position(|kept| kept.bootstrap_servers == bootstrap_servers);
        let (errors, broker) = match at.map(|at| kept.remove(at)) {
            Some(kept) => (kept.errors, kept.broker),
            None => (BrokerErrors::new(bootstrap_servers), None),
        };
        let broker = match broker {
            Some(broker) => broker,
            None => Arc::new(Broker::new(bootstrap_servers, errors.clone())?),
        };
        let latest = Kept {
            asked: Instant::now(),
            bootstrap_servers: bootstrap_servers.to_owned(),
            errors,
            broker: Some(Arc::clone(&broker)),
        };
        kept.insert(0, latest);
        let (many, long) = KEPT;
        let asked_lately = kept
            .iter()
            .take(many)
            .take_while(|kept| kept.asked.elapsed() < long)
            .count();
        close(
            kept.drain(asked_lately..)
                .filter_map(|kept| kept.broker)
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
    client: Arc<AdminClient<BrokerErrors>>,
    errors: BrokerErrors,
    options: AdminOptions,
}

impl Broker {
    /// Makes a client, which connects with the first request.
    fn new(bootstrap_servers: &str, errors: BrokerErrors) -> Result<Self, BrokerError> {
        let config = Kafka {
            bootstrap_servers: bootstrap_servers.to_owned(),
        };
        let client = kafka::client_config(&config, MANAGER)
            .create_with_context(errors.clone())
            .map_err(|error| BrokerError::Failed(error.to_string()))?;
        Ok(Self {
            client: Arc::new(client),
            errors,
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
        let client = Arc::clone(&self.client);
        let mut observed = tokio::task::spawn_blocking(move || describe(&client, &names))
            .await
            .map_err(|error| BrokerError::Failed(error.to_string()))?
            .map_err(|error| match error {
                IdentityError::NoAnswer(_) => self.unreachable(),
                other => BrokerError::Failed(other.to_string()),
            })?;
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
        if error.rdkafka_error_code().is_some_and(kafka::is_no_answer) {
            self.unreachable()
        } else {
            BrokerError::Failed(error.to_string())
        }
    }

    fn unreachable(&self) -> BrokerError {
        self.errors.collect(self.client.inner());
        BrokerError::Unreachable(self.errors.unreachable())
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
    client: &AdminClient<BrokerErrors>,
    names: &[String],
) -> Result<BTreeMap<String, ObservedTopic>, IdentityError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = kafka::topics(client.inner(), &names, TIMEOUT)?;
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

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener, thread};

    use super::*;

    #[tokio::test]
    async fn the_finding_of_a_tls_listener_says_so_and_stays_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // A TLS listener closes connections that do not begin with a handshake.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().read_exact(&mut [0; 5]);
            }
        });
        let brokers = Brokers::default();
        let finding = async || {
            let described = brokers.describe(&address, vec!["t".to_owned()]).await;
            described.err().unwrap().finding()
        };
        let first = finding().await;
        assert_eq!(first.reason, reasons::BROKER_UNREACHABLE);
        for part in [
            &address,
            "spec.broker.kafka.bootstrapServers",
            "might require TLS",
        ] {
            assert!(first.message.contains(part), "{}", first.message);
        }
        assert_eq!(finding().await, first);
    }
}
