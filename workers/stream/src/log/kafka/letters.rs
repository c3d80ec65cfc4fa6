//! The group of the dead letters. No consumer joins it: it holds the positions up to which they are
//! written, for the sink that writes them next.
//!
//! Each position has the topic's id as its metadata: a group knows topics by their names alone, and
//! a worker may still commit a position of a topic that was deleted and created again.

use std::sync::Arc;

use anyhow::Context as _;
use pinpipe_config::ClientRole;
use pinpipe_runtime::kafka::{Access, BrokerErrors, Tuned as _};
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
};
use tokio::sync::oneshot;

use super::not_authorized;

/// How long one request may take, milliseconds.
const TIMEOUT: &str = "5000";

/// The group of the dead letters.
pub(super) struct LetterGroup {
    consumer: Arc<BaseConsumer<BrokerErrors>>,
}

impl LetterGroup {
    /// A client that does not join the group.
    pub fn new(access: &Access, config: &pinpipe_config::Stream) -> KafkaResult<Self> {
        let group = config.pipeline.dead_letter_group();
        let consumer = access
            .client_config(&config.group)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .tuned(access, ClientRole::Consumer)
            // After the user's settings: a stop must not wait for them.
            .set("socket.timeout.ms", TIMEOUT)
            // A commit waits as long for the group's coordinator.
            .set("coordinator.query.interval.ms", TIMEOUT)
            .create_with_context(BrokerErrors::new(access))?;
        Ok(Self {
            consumer: Arc::new(consumer),
        })
    }

    /// Gives the client a token where it needs one: nothing polls it. Blocks while there is none.
    pub fn authenticate(&self) {
        let client = self.consumer.client();
        self.consumer.context().authenticate(client);
    }

    /// Makes a request. It blocks in librdkafka, on a thread that the end of the process does not
    /// wait for.
    pub async fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(&BaseConsumer<BrokerErrors>) -> KafkaResult<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (answer, answered) = oneshot::channel();
        let consumer = self.consumer.clone();
        std::thread::spawn(move || {
            // Nothing polls this consumer.
            consumer.context().authenticate(consumer.client());
            let _ = answer.send(request(&consumer));
        });
        let answer = answered.await.context("a request was given up")?;
        let errors = self.consumer.context();
        answer.map_err(|error| not_authorized(errors.explain(error.into())))
    }
}
