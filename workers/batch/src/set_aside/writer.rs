//! Writes dead letters.

use std::{future::ready, sync::Arc};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use pinpipe_config::{Batch, ClientRole};
use pinpipe_runtime::{
    dead_letter::DeadLetter,
    kafka::{self, Access, BrokerErrors, Tuned as _},
};
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use tracing::warn;

use super::Item;
use crate::failure::Permanent;

/// Dead letters that are sent at once.
const MAX_IN_FLIGHT: usize = 1000;

/// A producer for a dead-letter topic.
pub struct Writer<'a> {
    producer: Arc<FutureProducer<BrokerErrors>>,
    errors: BrokerErrors,
    topic: &'a str,
}

impl<'a> Writer<'a> {
    /// Makes the producer.
    pub fn new(config: &Batch, topic: &'a str) -> Result<Self> {
        let access = Access::read(&config.kafka)?;
        let errors = BrokerErrors::new(&access);
        let producer = access
            .client_config("pinpipe-batch")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("message.timeout.ms", "60000")
            // Above any topic's limit: the broker decides what is too large.
            .set("message.max.bytes", "100000000")
            .tuned(&access, ClientRole::Producer)
            .create_with_context(errors.clone())
            .context("can't create the Kafka producer")?;
        Ok(Self {
            producer: Arc::new(producer),
            errors,
            topic,
        })
    }

    /// Writes dead letters and returns their number, once all replicas have them.
    pub async fn write(&self, items: Vec<Item>) -> Result<usize> {
        let number = items.len();
        stream::iter(items)
            .map(|item| self.send(item))
            .buffer_unordered(MAX_IN_FLIGHT)
            .try_for_each(|()| ready(Ok(())))
            .await?;
        Ok(number)
    }

    async fn send(&self, Item { letter, key, value }: Item) -> Result<()> {
        let key = key.as_deref();
        let sent = match self.send_once(&letter, key, Some(&value)).await {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                let topic = self.topic;
                warn!(
                    topic,
                    "a record is too large for the topic: sending its headers alone"
                );
                self.send_once(&letter, key, None).await
            }
            sent => sent,
        };
        sent.map_err(|error| self.failed(error))
    }

    async fn send_once(
        &self,
        letter: &DeadLetter,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> KafkaResult<()> {
        let record = FutureRecord {
            topic: self.topic,
            partition: None,
            payload: value,
            key,
            timestamp: None,
            headers: Some(letter.headers(key)),
        };
        let sent = self.producer.send(record, Timeout::Never).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    fn failed(&self, error: KafkaError) -> anyhow::Error {
        let topic = self.topic;
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
            return Permanent(format!(
                "refused rows can't be set aside: the Kafka user may not write to the topic \
                 {topic} ({error}): grant it Write"
            ))
            .into();
        }
        let error = self.errors.explain(error.into());
        error.context(format!("can't write dead letters to the topic {topic}"))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        kafka::close(self.producer.clone());
    }
}
