//! The parts of a worker that outlive its sessions.

use std::sync::Arc;

use pinpipe_core::{Kind, Order};
use pinpipe_runtime::{admin::Readiness, dead_letter::Redriven};
use tokio::sync::Notify;

use crate::{
    commit::SinkHealth, log::Message, metrics::Metrics, reset::RequestedReset, sink::Sink,
};

/// The parts of a worker that every session uses.
pub struct Worker<S: Sink, W> {
    /// The configuration.
    pub config: pinpipe_config::Stream,
    /// The sink's name.
    pub name: String,
    /// The pod's name, if it is known: no other worker has it at the same time.
    pub pod: Option<String>,
    /// The sink that stores the records.
    pub sink: Arc<S>,
    /// Whether the sink is available.
    pub health: Arc<SinkHealth>,
    /// The reset in the configuration.
    pub reset: Option<Arc<RequestedReset>>,
    /// Writes dead letters.
    pub dead_letters: W,
    /// The worker's metrics.
    pub metrics: Metrics,
    /// Where the worker reports its problems.
    pub readiness: Readiness,
    /// The memory limit of all batches together, bytes.
    pub budget: usize,
    /// Notified to store everything buffered at once.
    pub flush: Arc<Notify>,
}

impl<S: Sink, W> Worker<S, W> {
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

    /// The headers of a re-driven record. Any producer may set them, so an unusable order is
    /// ignored.
    pub(super) fn redriven(
        &self,
        kind: Kind,
        message: &impl Message,
        position: Order,
    ) -> Option<Redriven> {
        let redriven = message.redriven(position);
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
}
