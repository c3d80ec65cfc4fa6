//! The parts of a worker that outlive its sessions.

use std::sync::Arc;

use pinpipe_config::DeadLetterMode;
use pinpipe_core::{Cleaned, Kind, Order, Rejection};
use pinpipe_runtime::dead_letter::{Redriven, Verdict};
use rdkafka::{Message, message::BorrowedMessage};
use tokio::sync::Notify;

use super::Key;
use crate::{
    commit::SinkHealth, consumer::TopicPartition, dead_letter::DeadLetters, metrics::Metrics,
    sink::Sink,
};

/// The parts of a worker that every session uses.
pub struct Worker<S: Sink> {
    /// The configuration.
    pub config: pinpipe_config::Stream,
    /// The sink that stores the records.
    pub sink: Arc<S>,
    /// Whether the sink is available.
    pub health: Arc<SinkHealth>,
    /// The producer of dead letters; `None` where another worker of the pipeline writes them.
    pub dead_letters: Option<DeadLetters>,
    /// The worker's metrics.
    pub metrics: Metrics,
    /// The memory limit of all batches together, bytes.
    pub budget: usize,
    /// Notified to store everything buffered at once.
    pub flush: Arc<Notify>,
}

impl<S: Sink> Worker<S> {
    pub(super) fn topics(&self) -> [(Kind, &pinpipe_config::Topic); 3] {
        let topics = &self.config.topics;
        [
            (Kind::Pin, &topics.pin),
            (Kind::Geo, &topics.geo),
            (Kind::User, &topics.user),
        ]
    }

    pub(super) fn topic(&self, name: &str) -> Option<(Kind, &pinpipe_config::Topic)> {
        self.topics()
            .into_iter()
            .find(|(_, topic)| topic.name == name)
    }

    pub(super) fn key(&self, (topic, partition): &TopicPartition) -> Option<Key> {
        self.topic(topic).map(|(kind, _)| (kind, *partition))
    }

    /// The headers of a re-driven record. Any producer may set them, so an unusable order is
    /// ignored.
    pub(super) fn redriven(
        &self,
        kind: Kind,
        message: &BorrowedMessage<'_>,
        position: Order,
    ) -> Option<Redriven> {
        let redriven = Redriven::read(message.headers()?, position);
        self.metrics.redriven(kind, &redriven);
        redriven.unwrap_or_else(|why| {
            tracing::warn!(
                topic = message.topic(),
                partition = position.partition,
                offset = position.offset,
                %why,
                "a re-driven record's order is ignored: its position in the log is used instead"
            );
            None
        })
    }

    /// The reason in the record's dead letter, if the record gets one.
    pub(super) fn verdict(&self, cleaned: &Result<Cleaned<'_>, Rejection>) -> Option<Verdict> {
        match cleaned {
            Err(rejection) => Some(rejection.into()),
            Ok(cleaned) => {
                let logs_repairs =
                    self.config.dead_letter_mode == DeadLetterMode::RejectAndLogRepairs;
                (logs_repairs && !cleaned.repairs.is_empty()).then(|| (&cleaned.repairs).into())
            }
        }
    }
}
