//! Kafka's admin API. Every request has a time-out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_config::ClientRole;
use pinpipe_crds::reasons;
use pinpipe_plan::{build::DesiredTopic, names::MANAGER, ownership::Creation};
use pinpipe_runtime::kafka::{self, Access, BrokerErrors, IdentityError, NewTopic, Tuned as _};
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, ConfigResourceResult, OwnedResourceSpecifier, ResourceSpecifier,
    },
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use super::{ObservedTopic, Raise};
use crate::finding::Finding;

/// Time-out of one request to a broker.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Time-out of a connection, milliseconds: shorter than that of a request, so that each attempt
/// finds out that connections time out.
const CONNECTION_TIMEOUT: &str = "5000";

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
    #[error("the Kafka brokers answer with an error: {0}")]
    Failed(String),
    /// A Secret with a certificate or credentials, or a key of it, is missing.
    #[error("{0}")]
    SecretMissing(String),
    /// A certificate, key or password of a Secret can't be used.
    #[error("{0}")]
    Unusable(String),
}

impl BrokerError {
    /// The error as a finding of the topics' condition.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let reason = match self {
            Self::Unreachable(_) => reasons::BROKER_UNREACHABLE,
            Self::Refused { .. } => reasons::TOPIC_REFUSED,
            Self::NotRaised { .. } => reasons::PARTITIONS_REFUSED,
            Self::SecretMissing(_) => reasons::SECRET_MISSING,
            Self::NotDeleted { .. } | Self::Failed(_) | Self::Unusable(_) => reasons::BROKER_FAILED,
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

/// Clusters.
#[derive(Default)]
pub struct Brokers {
    /// The latest used first.
    kept: Mutex<Vec<Kept>>,
    /// When a cluster didn't answer, and the error.
    unreachable: Mutex<HashMap<Access, (Instant, BrokerError)>>,
}

struct Kept {
    asked: Instant,
    access: Access,
    /// Outlives the client, so that an outage keeps its cause.
    errors: BrokerErrors,
    /// None after a failure.
    broker: Option<Arc<Broker>>,
}

impl Brokers {
    /// Describes topics of the cluster that is reached this way. Returns the cluster, too, for
    /// changes.
    pub async fn describe(
        &self,
        access: &Access,
        names: Vec<String>,
    ) -> Result<(Arc<Broker>, Cluster), BrokerError> {
        if let Some(error) = self.lately_unreachable(access) {
            return Err(error);
        }
        let broker = self.get(access)?;
        match broker.describe(names).await {
            Ok(observed) => {
                broker.errors.collect(broker.client.inner());
                broker.errors.clear();
                Ok((broker, observed))
            }
            Err(error) => {
                if matches!(error, BrokerError::Unreachable(_)) {
                    let unanswered = (Instant::now(), error.clone());
                    lock(&self.unreachable).insert(access.clone(), unanswered);
                }
                // The next request uses a new client, without this one's view of the cluster.
                for kept in lock(&self.kept).iter_mut() {
                    kept.broker.take_if(|kept| Arc::ptr_eq(kept, &broker));
                }
                close(vec![broker]);
                Err(error)
            }
        }
    }

    /// Error of a cluster that has just not answered.
    fn lately_unreachable(&self, access: &Access) -> Option<BrokerError> {
        let mut unreachable = lock(&self.unreachable);
        unreachable.retain(|_, (since, _)| since.elapsed() < UNREACHABLE_FOR);
        let (_, error) = unreachable.get(access)?;
        Some(error.clone())
    }

    fn get(&self, access: &Access) -> Result<Arc<Broker>, BrokerError> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|kept| kept.access == *access);
        let (errors, broker) = match at.map(|at| kept.remove(at)) {
            Some(kept) => (kept.errors, kept.broker),
            None => (BrokerErrors::new(access), None),
        };
        let broker = match broker {
            Some(broker) => broker,
            None => Arc::new(Broker::new(access, errors.clone())?),
        };
        let latest = Kept {
            asked: Instant::now(),
            access: access.clone(),
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dropping a client waits for its threads.
fn close(brokers: Vec<Arc<Broker>>) {
    if !brokers.is_empty() {
        tokio::task::spawn_blocking(move || drop(brokers));
    }
}

/// A Kafka cluster as it was described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Cluster id.
    pub id: String,
    /// Those of the requested topics that exist, by name.
    pub topics: BTreeMap<String, ObservedTopic>,
}

impl Cluster {
    /// Topic id. None: the topic doesn't exist.
    #[must_use]
    pub fn topic_id(&self, name: &str) -> Option<&str> {
        self.topics.get(name).map(|topic| topic.id.as_str())
    }
}

type Admin = AdminClient<BrokerErrors>;

/// A connection to a Kafka cluster.
pub struct Broker {
    client: Arc<AdminClient<BrokerErrors>>,
    errors: BrokerErrors,
    options: AdminOptions,
}

impl Broker {
    /// Makes a client, which connects with the first request.
    fn new(access: &Access, errors: BrokerErrors) -> Result<Self, BrokerError> {
        let client = access
            .client_config(MANAGER)
            .tuned(access, ClientRole::Any)
            .set("socket.connection.setup.timeout.ms", CONNECTION_TIMEOUT)
            .create_with_context(errors.clone())
            .map_err(|error| BrokerError::Unusable(error.to_string()))?;
        Ok(Self {
            client: Arc::new(client),
            errors,
            options: AdminOptions::new()
                .request_timeout(Some(TIMEOUT))
                .operation_timeout(Some(TIMEOUT)),
        })
    }

    /// Describes those of the topics that exist.
    pub async fn describe(&self, names: Vec<String>) -> Result<Cluster, BrokerError> {
        let mut cluster = self
            .blocking(move |client| describe(client, &names))
            .await?;
        if cluster.topics.is_empty() {
            return Ok(cluster);
        }
        let resources = cluster.topics.keys();
        let resources: Vec<_> = resources
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let described = self.client.describe_configs(&resources, &self.options);
        let described = described.await.map_err(|error| self.failed(&error))?;
        add_settings(&mut cluster, described)?;
        Ok(cluster)
    }

    /// Creates topics. Returns how that ended for each topic.
    pub async fn create(
        &self,
        desired: Vec<DesiredTopic>,
    ) -> Result<Vec<(String, Result<Creation, BrokerError>)>, BrokerError> {
        let created = self.blocking(move |client| {
            let topics: Vec<_> = desired.iter().map(new_topic).collect();
            kafka::create_topics(client.inner(), &topics, TIMEOUT)
        });
        let results = created.await?.into_iter().map(|(topic, result)| {
            let result = match result {
                Ok(()) => {
                    tracing::info!(topic, "topic created");
                    Ok(Creation::Created)
                }
                Err(refusal) if refusal.code == RDKafkaErrorCode::TopicAlreadyExists => {
                    Ok(Creation::Existed)
                }
                Err(refusal) => Err(BrokerError::Refused {
                    topic: topic.clone(),
                    message: refusal.message,
                }),
            };
            (topic, result)
        });
        Ok(results.collect())
    }

    /// Gives topics more partitions. A topic that has as many by now is accepted.
    pub async fn raise(&self, topics: Vec<Raise>) -> Result<(), BrokerError> {
        let desired = topics.clone();
        let raised = self.blocking(move |client| {
            let topics = desired.iter().map(|topic| {
                let partitions = usize::try_from(topic.partitions).unwrap_or_default();
                (topic.name.as_str(), partitions)
            });
            let topics: Vec<_> = topics.collect();
            kafka::create_partitions(client.inner(), &topics, TIMEOUT)
        });
        for (name, result) in raised.await? {
            match result {
                Ok(()) => tracing::info!(topic = name, "topic given more partitions"),
                Err(refusal) if refusal.code == RDKafkaErrorCode::InvalidPartitions => {}
                Err(refusal) => {
                    let desired = topics.iter().find(|topic| topic.name == name);
                    return Err(BrokerError::NotRaised {
                        topic: name,
                        partitions: desired.map_or(0, |topic| topic.partitions),
                        message: refusal.message,
                    });
                }
            }
        }
        Ok(())
    }

    /// Deletes topics. A topic that is gone by now is accepted.
    pub async fn delete(&self, names: Vec<String>) -> Result<(), BrokerError> {
        let deleted = self.blocking(move |client| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            kafka::delete_topics(client.inner(), &names, TIMEOUT)
        });
        for (topic, result) in deleted.await? {
            match result {
                Ok(()) => tracing::info!(topic, "topic deleted"),
                Err(refusal) if is_unknown(refusal.code) => {}
                Err(refusal) => {
                    return Err(BrokerError::NotDeleted {
                        topic,
                        message: refusal.message,
                    });
                }
            }
        }
        Ok(())
    }

    /// Runs a request that blocks its thread.
    async fn blocking<T: Send + 'static>(
        &self,
        request: impl Send + 'static + FnOnce(&Admin) -> Result<T, IdentityError>,
    ) -> Result<T, BrokerError> {
        let client = Arc::clone(&self.client);
        let run = tokio::task::spawn_blocking(move || request(&client)).await;
        let answer = run.map_err(|error| BrokerError::Failed(error.to_string()))?;
        answer.map_err(|error| match error {
            IdentityError::NoAnswer(_) => self.unreachable(),
            IdentityError::Refused(message) => BrokerError::Failed(message),
            topic @ IdentityError::Topic {
                code: RDKafkaErrorCode::TopicAuthorizationFailed,
                ..
            } => BrokerError::Failed(format!(
                "{topic}: grant the operator's user Describe of the topics"
            )),
            topic @ IdentityError::Topic { .. } => BrokerError::Failed(topic.to_string()),
        })
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
    NewTopic {
        name: &desired.name,
        partitions: desired.partitions,
        replication_factor: desired.replication_factor,
        config: &desired.config,
    }
}

fn is_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{UnknownTopic, UnknownTopicOrPartition};
    matches!(code, UnknownTopic | UnknownTopicOrPartition)
}

/// Describes a cluster, without its topics' settings, with a token for changes, too; blocks.
fn describe(
    client: &AdminClient<BrokerErrors>,
    names: &[String],
) -> Result<Cluster, IdentityError> {
    client.inner().context().authenticate(client.inner());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let topics = kafka::topics(client.inner(), &names, TIMEOUT)?.into_iter();
    let topics = topics.map(|topic| {
        let observed = ObservedTopic {
            id: topic.id,
            partitions: topic.partitions,
            ..ObservedTopic::default()
        };
        (topic.name, observed)
    });
    // The client knows it since it connected.
    let id = client.inner().fetch_cluster_id(TIMEOUT);
    Ok(Cluster {
        id: id.ok_or_else(|| IdentityError::NoAnswer("no cluster id".to_owned()))?,
        topics: topics.collect(),
    })
}

/// Adds the settings of topics. Those of a topic stay empty if the operator may not read them.
fn add_settings(
    cluster: &mut Cluster,
    described: Vec<ConfigResourceResult>,
) -> Result<(), BrokerError> {
    for resource in described {
        let resource = match resource {
            Ok(resource) => resource,
            Err(RDKafkaErrorCode::TopicAuthorizationFailed) => continue,
            // The error doesn't name the topic.
            Err(code) => {
                let names: Vec<_> = cluster.topics.keys().map(String::as_str).collect();
                let names = names.join(", ");
                let message = format!("the settings of one of the topics {names}: {code}");
                return Err(BrokerError::Failed(message));
            }
        };
        if let OwnedResourceSpecifier::Topic(name) = &resource.specifier
            && let Some(topic) = cluster.topics.get_mut(name)
        {
            let entries = resource.entries.into_iter();
            let set = entries.filter_map(|entry| Some((entry.name, entry.value?)));
            topic.config = set.collect();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
