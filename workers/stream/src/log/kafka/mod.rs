//! Kafka as a log. All types of the Kafka client are in here.
//!
//! The session answers rebalances, not librdkafka's callback, with `incremental_assign` and
//! `incremental_unassign`. librdkafka waits for that answer and keeps sending heartbeats, so that
//! the session can ask the sink where to resume, or flush, without blocking a thread. Queries to
//! the brokers block in librdkafka, so they run on a thread for blocking calls.

mod callbacks;
mod letters;
mod lists;
mod membership;

use std::{collections::BTreeMap, iter, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use futures::{FutureExt as _, StreamExt as _};
use pinpipe_config::ClientRole;
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::{
    dead_letter::{Redriven, UnusableOrder},
    kafka::{Access, BrokerErrors, IdentityError, Tuned as _},
};
use rdkafka::{
    Message as _, Offset, Timestamp,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    metadata::MetadataPartition,
};

use self::{
    callbacks::Context,
    letters::LetterGroup,
    lists::{at, by_partition, committed, list, named, offsets, with_offsets},
    membership::SESSION_TIMEOUT,
};
use super::{
    Extent, Log, Message, NotAuthorized, Position, RIGHTS, ReadError, Reader, Stamp, TopicPartition,
};
use crate::sink::Topic;

/// How long one request to a broker may take.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// A consumer, which is a member of the group once it has joined it.
#[derive(Clone)]
pub struct Kafka {
    consumer: Arc<StreamConsumer<Context>>,
    letters: Arc<LetterGroup>,
    access: Arc<Access>,
    is_member: bool,
}

impl Kafka {
    async fn blocking<T: Send + 'static>(
        &self,
        query: impl FnOnce(&StreamConsumer<Context>) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (consumer, letters) = (self.consumer.clone(), self.letters.clone());
        let query = move || {
            // Nothing may have polled it yet.
            let errors = &consumer.context().broker_errors;
            errors.authenticate(consumer.client());
            let answer = query(&consumer)?;
            // It keeps its connections between its own requests. With an answer there is a token.
            letters.authenticate();
            Ok(answer)
        };
        match tokio::task::spawn_blocking(query).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let explained = self.consumer.context().broker_errors.explain(error);
                Err(not_authorized(explained))
            }
            Err(error) => Err(anyhow!(error)),
        }
    }
}

impl Log for Kafka {
    async fn identify(&self, kind: Kind, name: &str) -> anyhow::Result<Topic> {
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

    async fn extents(
        &self,
        topic: &str,
        partitions: Option<&[i32]>,
    ) -> anyhow::Result<BTreeMap<i32, Extent>> {
        let (name, partitions) = (topic.to_owned(), partitions.map(<[i32]>::to_vec));
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
                    let extent = Extent {
                        low: Position::offset(low),
                        high: Position::offset(high),
                    };
                    Ok((partition, extent))
                })
                .collect()
        })
        .await
    }

    async fn committed(
        &self,
        topic: &str,
        partitions: &[i32],
    ) -> anyhow::Result<BTreeMap<i32, Position>> {
        let list = lists::partitions(topic, partitions)?;
        self.blocking(move |consumer| Ok(committed(consumer, list)?))
            .await
    }

    async fn letters_committed(
        &self,
        topic: &Topic,
        partitions: &[i32],
    ) -> anyhow::Result<BTreeMap<i32, Position>> {
        let list = lists::partitions(&topic.name, partitions)?;
        let id = topic.id.clone();
        self.letters
            .ask(move |consumer| lists::committed_with(consumer, list, &id))
            .await
    }

    async fn commit_letters(
        &self,
        topic: &Topic,
        positions: &[(i32, Position)],
    ) -> anyhow::Result<()> {
        let list = lists::with_metadata(&topic.name, positions, &topic.id)?;
        self.letters
            .ask(move |consumer| consumer.commit(&list, CommitMode::Sync))
            .await
    }

    async fn positions_at(
        &self,
        topic: &str,
        partitions: &[i32],
        time: i64,
    ) -> anyhow::Result<BTreeMap<i32, Position>> {
        let partitions = partitions.iter();
        let list = list(partitions.map(|partition| (topic, *partition, Offset::Offset(time))))?;
        self.blocking(move |consumer| {
            let found = consumer.offsets_for_times(list, BROKER_TIMEOUT)?;
            for element in found.elements() {
                element
                    .error()
                    .with_context(|| format!("{}[{}]", element.topic(), element.partition()))?;
            }
            Ok(by_partition(offsets(&found)))
        })
        .await
    }

    async fn same_identity(&self, topics: Vec<Arc<Topic>>) -> anyhow::Result<bool> {
        self.blocking(move |consumer| {
            let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
            let identity =
                pinpipe_runtime::kafka::identity(consumer.client(), &names, BROKER_TIMEOUT)?;
            Ok(topics.iter().all(|topic| {
                identity.cluster_id == topic.cluster_id
                    && identity.topic_ids.get(&topic.name) == Some(&topic.id)
            }))
        })
        .await
    }

    async fn is_stamped_by_broker(&self, topic: &str) -> anyhow::Result<bool> {
        let client_id = "pinpipe-topic-settings";
        let errors = BrokerErrors::new(&self.access);
        let admin: AdminClient<BrokerErrors> = self
            .access
            .client_config(client_id)
            .tuned(&self.access, ClientRole::Any)
            .create_with_context(errors.clone())?;
        // Blocks while there is no token.
        tokio::task::block_in_place(|| errors.authenticate(admin.inner()));
        let options = AdminOptions::new().request_timeout(Some(BROKER_TIMEOUT));
        let resource = ResourceSpecifier::Topic(topic);
        let answers = admin.describe_configs([&resource], &options).await?;
        let settings = answers.into_iter().next();
        let settings = settings
            .with_context(|| format!("the broker did not describe topic {topic}"))?
            .map_err(|code| settings_unreadable(topic, code))?;
        let stamp = settings
            .get("message.timestamp.type")
            .and_then(|setting| setting.value.clone())
            .with_context(|| format!("topic {topic} has no setting message.timestamp.type"))?;
        Ok(stamp == "LogAppendTime")
    }
}

impl Reader for Kafka {
    type Message<'a> = BorrowedMessage<'a>;

    async fn read(&self) -> Result<BorrowedMessage<'_>, ReadError> {
        self.consumer.recv().await.map_err(read_error)
    }

    fn fetched(&self) -> impl Iterator<Item = Result<BorrowedMessage<'_>, ReadError>> {
        // A stream asks to be woken for the next record, but only once for all of them.
        let mut stream = self.consumer.stream();
        iter::from_fn(move || {
            let received = stream.next().now_or_never()??;
            Some(received.map_err(read_error))
        })
    }

    fn assign(&self, partitions: &[(TopicPartition, Option<Position>)]) -> anyhow::Result<()> {
        let offset = |position: Option<Position>| position.map_or(Offset::End, at);
        let partitions = partitions
            .iter()
            .map(|((topic, partition), position)| (topic.as_str(), *partition, offset(*position)));
        Ok(self.consumer.incremental_assign(&list(partitions)?)?)
    }

    fn unassign(&self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        Ok(self.consumer.incremental_unassign(&named(partitions)?)?)
    }

    fn seek(&self, (topic, partition): &TopicPartition, to: Position) -> anyhow::Result<()> {
        let timeout = Duration::from_secs(5);
        tokio::task::block_in_place(|| self.consumer.seek(topic, *partition, at(to), timeout))
            .with_context(|| format!("seeking in {topic}[{partition}] failed"))
    }

    fn pause(&self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        Ok(self.consumer.pause(&named(partitions)?)?)
    }

    fn unpause(&self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        Ok(self.consumer.resume(&named(partitions)?)?)
    }

    fn commit(&self, positions: &[(TopicPartition, Position)]) -> anyhow::Result<()> {
        // The group refuses them from others while it has members.
        if !self.is_member {
            return Ok(());
        }
        let positions = with_offsets(positions)?;
        Ok(self.consumer.commit(&positions, CommitMode::Async)?)
    }

    fn positions(&self) -> Vec<(TopicPartition, Position)> {
        self.consumer
            .position()
            .map_or_else(|_| Vec::new(), |list| offsets(&list))
    }
}

/// Whether a right is missing.
const fn is_forbidden(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
    )
}

/// The error of a look-up, as [`NotAuthorized`] where a right is missing.
fn not_authorized(error: anyhow::Error) -> anyhow::Error {
    let described = match error.downcast_ref::<IdentityError>() {
        Some(IdentityError::Topic { code, .. }) => Some(*code),
        _ => None,
    };
    let kafka = error.downcast_ref::<KafkaError>();
    let code = described.or_else(|| kafka.and_then(KafkaError::rdkafka_error_code));
    match code {
        Some(code) if is_forbidden(code) => {
            let sentence = format!("{error:#}: {RIGHTS}");
            error.context(NotAuthorized(sentence))
        }
        _ => error,
    }
}

fn settings_unreadable(topic: &str, code: RDKafkaErrorCode) -> anyhow::Error {
    let what = format!("the settings of topic {topic} can't be read: {code}");
    if is_forbidden(code) {
        let right = "grant the worker's user DescribeConfigs of the topics";
        NotAuthorized(format!("{what}: {right}")).into()
    } else {
        anyhow!(what)
    }
}

fn read_error(error: KafkaError) -> ReadError {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::MessageConsumption(Code::AutoOffsetReset) => ReadError::OutOfRange,
        KafkaError::MessageConsumptionFatal(code) => ReadError::Fatal(code.to_string()),
        KafkaError::MessageConsumption(code) => ReadError::Problem {
            code: format!("{code:?}"),
            sentence: match code {
                Code::InvalidSessionTimeout => format!(
                    "{code}: workers join their groups with session.timeout.ms={SESSION_TIMEOUT}; \
                     set group.min.session.timeout.ms of the brokers to that or less"
                ),
                _ => code.to_string(),
            },
            forbidden: is_forbidden(code),
        },
        error => ReadError::Problem {
            code: "Other".to_owned(),
            sentence: error.to_string(),
            forbidden: false,
        },
    }
}

impl Message for BorrowedMessage<'_> {
    fn topic(&self) -> &str {
        rdkafka::Message::topic(self)
    }

    fn partition(&self) -> i32 {
        rdkafka::Message::partition(self)
    }

    fn offset(&self) -> i64 {
        rdkafka::Message::offset(self)
    }

    fn after(&self) -> Position {
        Position::offset(rdkafka::Message::offset(self) + 1)
    }

    fn stamp(&self) -> Stamp {
        match self.timestamp() {
            Timestamp::LogAppendTime(time) => Stamp::Broker(time),
            Timestamp::CreateTime(_) | Timestamp::NotAvailable => Stamp::Producer,
        }
    }

    fn key(&self) -> Option<&[u8]> {
        rdkafka::Message::key(self)
    }

    fn value(&self) -> Option<&[u8]> {
        self.payload()
    }

    fn redriven(&self, position: Order) -> Result<Option<Redriven>, UnusableOrder> {
        match self.headers() {
            Some(headers) => Redriven::read(headers, position),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_up_without_a_right_names_it() {
        let code = RDKafkaErrorCode::TopicAuthorizationFailed;
        let settings = settings_unreadable("geo", code);
        let offsets = not_authorized(KafkaError::OffsetFetch(code).into());
        for (error, right) in [
            (settings, "DescribeConfigs"),
            (offsets, "Read and Describe"),
        ] {
            let found = error.downcast_ref::<NotAuthorized>().unwrap().to_string();
            assert!(found.contains(right), "{found}");
        }
        let timeout = KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut);
        assert!(!not_authorized(timeout.into()).is::<NotAuthorized>());
    }

    #[test]
    fn a_refused_session_timeout_names_the_brokers_setting() {
        let code = RDKafkaErrorCode::InvalidSessionTimeout;
        let ReadError::Problem { sentence, .. } = read_error(KafkaError::MessageConsumption(code))
        else {
            panic!("the reader goes on trying");
        };
        for setting in ["session.timeout.ms=6000", "group.min.session.timeout.ms"] {
            assert!(sentence.contains(setting), "{sentence}");
        }
    }
}
