//! Putting letters back: a record into its topic and the mark into the dead letters, both or
//! neither.
//!
//! The transactional id is the pipeline's: whoever begins a re-drive puts an end to any other that
//! is under way, whose transaction is given up or was committed before.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pinpipe_config::{Batch, Topic};
use pinpipe_runtime::dead_letter::Letter;
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer},
};
use tokio::task::block_in_place;
use tracing::warn;

/// How long the broker may take to begin or to end a transaction.
const BROKER_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a transaction is tried.
const TRIES: u32 = 3;

/// A letter and its record.
#[derive(Debug)]
pub struct Item {
    /// The letter.
    pub letter: Letter,
    /// The key the record goes back with.
    pub key: Option<Vec<u8>>,
    /// The record.
    pub value: Vec<u8>,
}

/// The one re-drive of a pipeline.
pub struct Transactions {
    producer: FutureProducer,
}

/// Why a transaction came to nothing.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error("the broker refuses a record as too large")]
    TooLarge,
    #[error(
        "another re-drive of this pipeline has begun: this one ends. What it put back is marked"
    )]
    Fenced,
    #[error(transparent)]
    Kafka(KafkaError),
    #[error(
        "the broker was away too long to tell what became of a transaction ({0}): begin the re-drive again, it goes on from what there is"
    )]
    Undecided(KafkaError),
}

impl From<KafkaError> for Undone {
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
    /// Ends any other re-drive of the pipeline. Blocks.
    pub fn begin(config: &Batch) -> Result<Self> {
        let id = format!(
            "{}.{}.redrive",
            config.pipeline.namespace, config.pipeline.name
        );
        let producer: FutureProducer =
            pinpipe_runtime::kafka::client_config(&config.kafka, "pinpipe-redrive")
                .set("transactional.id", id)
                .set("acks", "all")
                // As ingest: a key's records stay in one partition.
                .set("partitioner", "murmur2_random")
                .set("linger.ms", "5")
                // What a killed re-drive leaves open holds up readers of committed records for so
                // long, unless the next one begins.
                .set("transaction.timeout.ms", "60000")
                .set("message.timeout.ms", "45000")
                // The broker's limit counts, not librdkafka's own.
                .set("message.max.bytes", "100000000")
                .create()
                .context("the Kafka client can't be made")?;
        until_decided(|| producer.init_transactions(BROKER_TIMEOUT)).with_context(|| {
            format!(
                "no transaction can be begun in Kafka at {}",
                config.kafka.bootstrap_servers
            )
        })?;
        Ok(Self { producer })
    }

    /// Puts letters back, and tells `done` how many in each transaction. Gives the number of those
    /// the broker refuses as too large.
    pub async fn put_back(
        &self,
        topic: &Topic,
        items: &[Item],
        mut done: impl FnMut(u64),
    ) -> Result<u64> {
        match self.patiently(topic, items).await {
            Ok(()) => {
                done(items.len() as u64);
                return Ok(0);
            }
            Err(Undone::TooLarge) => {}
            Err(error) => return Err(error.into()),
        }
        // One of them is: the others must not suffer for it.
        let mut too_large = 0;
        for item in items.chunks(1) {
            match self.patiently(topic, item).await {
                Ok(()) => done(1),
                Err(Undone::TooLarge) => too_large += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(too_large)
    }

    async fn patiently(&self, topic: &Topic, items: &[Item]) -> Result<(), Undone> {
        let mut tries = 1;
        loop {
            match self.transact(topic, items).await {
                Err(Undone::Kafka(error))
                    if tries < TRIES && self.producer.client().fatal_error().is_none() =>
                {
                    warn!(%error, "letters could not be put back, trying again");
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                decided => return decided,
            }
        }
    }

    async fn transact(&self, topic: &Topic, items: &[Item]) -> Result<(), Undone> {
        self.producer.begin_transaction()?;
        let written = match self.write(topic, items).await {
            Ok(()) => until_decided(|| self.producer.commit_transaction(BROKER_TIMEOUT))
                .map_err(Undone::from),
            Err(error) => Err(error),
        };
        if written.is_err() && self.producer.client().fatal_error().is_none() {
            until_decided(|| self.producer.abort_transaction(BROKER_TIMEOUT))
                .map_err(Undone::Undecided)?;
        }
        written.map_err(|error| match self.producer.client().fatal_error() {
            // The epoch of this transactional id is another's: everything else is a consequence.
            Some((RDKafkaErrorCode::Fenced, _)) => Undone::Fenced,
            _ => error,
        })
    }

    async fn write(&self, topic: &Topic, items: &[Item]) -> Result<(), Undone> {
        let mut deliveries = Vec::with_capacity(items.len() * 2);
        for Item { letter, key, value } in items {
            let name = letter.id.to_string();
            deliveries.push(self.send(
                &topic.name,
                key.as_deref(),
                Some(value),
                letter.redrive_headers(),
            )?);
            deliveries.push(self.send(
                &topic.dead_letter,
                Some(name.as_bytes()),
                None,
                letter.mark_headers(),
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

/// Repeats a step of a transaction while the broker leaves open what became of it. Blocks.
fn until_decided(step: impl Fn() -> KafkaResult<()>) -> KafkaResult<()> {
    let deadline = Instant::now() + BROKER_TIMEOUT * 2;
    block_in_place(|| {
        loop {
            match step() {
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                decided => return decided,
            }
        }
    })
}
