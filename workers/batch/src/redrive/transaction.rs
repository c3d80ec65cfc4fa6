//! Re-drives dead letters in transactions: each record to its topic and its marker to the dead
//! letters, either both or neither.
//!
//! The transactional id belongs to the pipeline, so a re-drive that starts fences any other one in
//! progress, whose open transaction is aborted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pinpipe_config::{Batch, ClientRole, Topic};
use pinpipe_runtime::{
    dead_letter::DeadLetter,
    kafka::{Access, BrokerErrors, Tuned as _},
};
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer},
};
use tokio::task::block_in_place;
use tracing::warn;

use crate::failure::Permanent;

/// Timeout of starting, committing or aborting a transaction.
const BROKER_TIMEOUT: Duration = Duration::from_mins(1);
/// Most attempts of a transaction.
const MAX_ATTEMPTS: u32 = 3;

/// A dead letter and its record.
#[derive(Debug)]
pub struct Item {
    /// The dead letter's headers.
    pub letter: DeadLetter,
    /// The key that the re-driven record gets.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Vec<u8>,
}

/// The transactional producer of a pipeline's re-drive.
pub struct Transactions {
    producer: FutureProducer<BrokerErrors>,
    /// The re-drive's name, if it has one.
    run: Option<String>,
}

/// Why a transaction failed.
#[derive(Debug, thiserror::Error)]
enum TransactionError {
    #[error("the broker refuses a record as too large")]
    TooLarge,
    #[error(
        "another re-drive of this pipeline has started, so this one ends; the other one continues \
         with the dead letters that were not re-driven"
    )]
    Fenced,
    #[error(transparent)]
    Kafka(KafkaError),
    #[error(
        "a transaction was neither committed nor aborted, since the broker was unavailable for \
         too long ({0}): start the re-drive again"
    )]
    Undecided(KafkaError),
}

impl TransactionError {
    /// Retrying a fenced re-drive would fence the other one.
    fn into_failure(self) -> anyhow::Error {
        match self {
            Self::Fenced => Permanent(self.to_string()).into(),
            error => error.into(),
        }
    }
}

impl From<KafkaError> for TransactionError {
    fn from(error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Self::TooLarge,
            Some(
                RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch,
            ) => Self::Fenced,
            _ => Self::Kafka(error),
        }
    }
}

impl Transactions {
    /// Creates the producer of the re-drive `run`, which fences any other one of the pipeline.
    /// Blocks.
    pub fn new(config: &Batch, run: Option<String>) -> Result<Self> {
        let id = format!(
            "{}.{}.redrive",
            config.pipeline.namespace, config.pipeline.name
        );
        let access = Access::read(&config.kafka)?;
        let producer: FutureProducer<_> = access
            .client_config("pinpipe-redrive")
            .set("transactional.id", id)
            .set("acks", "all")
            // The same as ingest's, so that the records of a key stay in one partition.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            // The open transaction of a killed re-drive blocks read_committed consumers for
            // this long, unless another re-drive starts.
            .set("transaction.timeout.ms", "60000")
            .set("message.timeout.ms", "45000")
            // So that only the broker's limit applies.
            .set("message.max.bytes", "100000000")
            .tuned(&access, ClientRole::Producer)
            .create_with_context(BrokerErrors::new(&access))
            .context("can't create the Kafka producer")?;
        retry_retriable(|| producer.init_transactions(BROKER_TIMEOUT)).with_context(|| {
            format!(
                "can't initialise transactions in Kafka at {}",
                config.kafka.bootstrap_servers
            )
        })?;
        Ok(Self { producer, run })
    }

    /// Re-drives dead letters and calls `done` with their number after each transaction. Returns
    /// the number of records that the broker refuses as too large.
    pub async fn redrive(
        &self,
        topic: &Topic,
        items: &[Item],
        mut done: impl FnMut(u64),
    ) -> Result<u64> {
        match self.transact_with_retries(topic, items).await {
            Ok(()) => {
                done(items.len() as u64);
                return Ok(0);
            }
            Err(TransactionError::TooLarge) => {}
            Err(error) => return Err(error.into_failure()),
        }
        // One record that is too large must not keep the others from being re-driven.
        let mut too_large = 0;
        for item in items.chunks(1) {
            match self.transact_with_retries(topic, item).await {
                Ok(()) => done(1),
                Err(TransactionError::TooLarge) => too_large += 1,
                Err(error) => return Err(error.into_failure()),
            }
        }
        Ok(too_large)
    }

    async fn transact_with_retries(
        &self,
        topic: &Topic,
        items: &[Item],
    ) -> Result<(), TransactionError> {
        let mut attempts = 1;
        loop {
            match self.transact(topic, items).await {
                Err(TransactionError::Kafka(error))
                    if attempts < MAX_ATTEMPTS
                        && self.producer.client().fatal_error().is_none() =>
                {
                    warn!(%error, "a transaction failed, retrying");
                    attempts += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                result => return result,
            }
        }
    }

    async fn transact(&self, topic: &Topic, items: &[Item]) -> Result<(), TransactionError> {
        self.producer.begin_transaction()?;
        let written = match self.write(topic, items).await {
            Ok(()) => retry_retriable(|| self.producer.commit_transaction(BROKER_TIMEOUT))
                .map_err(TransactionError::from),
            Err(error) => Err(error),
        };
        if written.is_err() && self.producer.client().fatal_error().is_none() {
            retry_retriable(|| self.producer.abort_transaction(BROKER_TIMEOUT))
                .map_err(TransactionError::Undecided)?;
        }
        written.map_err(|error| match self.producer.client().fatal_error() {
            // Another producer has this transactional id; other errors are only consequences.
            Some((RDKafkaErrorCode::Fenced, _)) => TransactionError::Fenced,
            _ => error,
        })
    }

    async fn write(&self, topic: &Topic, items: &[Item]) -> Result<(), TransactionError> {
        let mut deliveries = Vec::with_capacity(items.len() * 2);
        for Item { letter, key, value } in items {
            let id = letter.id.to_string();
            deliveries.push(self.send(
                &topic.name,
                key.as_deref(),
                Some(value),
                letter.redrive_headers(),
            )?);
            deliveries.push(self.send(
                &topic.dead_letter,
                Some(id.as_bytes()),
                None,
                letter.mark_headers(self.run.as_deref()),
            )?);
        }
        for delivery in deliveries {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(error.into()),
                Err(_) => return Err(KafkaError::Canceled.into()),
            }
        }
        Ok(())
    }

    fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> KafkaResult<DeliveryFuture> {
        let record = FutureRecord {
            topic,
            partition: None,
            payload,
            key,
            timestamp: None,
            headers: Some(headers),
        };
        self.producer
            .send_result(record)
            .map_err(|(error, _)| error)
    }
}

/// Repeats a step of a transaction while it fails with a retriable error. Blocks.
fn retry_retriable(step: impl Fn() -> KafkaResult<()>) -> KafkaResult<()> {
    let deadline = Instant::now() + BROKER_TIMEOUT * 2;
    block_in_place(|| {
        loop {
            match step() {
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                result => return result,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_redrive_must_not_be_retried() {
        let fenced = TransactionError::from(KafkaError::MessageProduction(
            RDKafkaErrorCode::ProducerFenced,
        ));
        assert!(fenced.into_failure().is::<Permanent>());
        let timed_out = TransactionError::from(KafkaError::MessageProduction(
            RDKafkaErrorCode::MessageTimedOut,
        ));
        assert!(!timed_out.into_failure().is::<Permanent>());
    }
}
