//! The dead-letter producer: rejected records, and copies of repaired ones where the pipeline wants
//! them, with headers that name origin and reason ([`pinpipe_runtime::dead_letter`]).
//!
//! Delivery is at least once: a position moves only after all replicas have acknowledged the dead
//! letters before it. A dead letter's id is (topic id, partition, offset), so that readers can drop
//! the duplicates a crash leaves.

use pinpipe_core::Order;
use pinpipe_runtime::{
    dead_letter::{DeadLetter, DeadLetterId, Redriven, Verdict},
    kafka::BrokerErrors,
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use tokio::task::JoinHandle;

use crate::{backoff::Backoff, sink::Source};

/// Produces dead letters.
#[derive(Clone)]
pub struct DeadLetters {
    producer: FutureProducer<BrokerErrors>,
    errors: BrokerErrors,
}

/// A dead letter being sent; dropping it aborts the send.
#[derive(Debug)]
pub struct Pending(JoinHandle<()>);

impl Pending {
    /// Waits until the broker has acknowledged it.
    pub async fn acknowledged(&mut self) {
        // The task ends only with the acknowledgement, and is not aborted while `self` lives.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Outgoing {
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: OwnedHeaders,
}

impl DeadLetters {
    /// Creates a producer of its own.
    pub fn new(kafka: &pinpipe_config::Kafka, client_id: &str) -> anyhow::Result<Self> {
        let errors = BrokerErrors::new(&kafka.bootstrap_servers);
        let producer =
            pinpipe_runtime::kafka::client_config(kafka, &format!("{client_id}-dead-letters"))
                .set("enable.idempotence", "true")
                .set("acks", "all")
                .set("linger.ms", "5")
                // Above any topic's limit: the broker decides what is too large.
                .set("message.max.bytes", "100000000")
                .set("queue.buffering.max.kbytes", "32768")
                .create_with_context(errors.clone())?;
        Ok(Self { producer, errors })
    }

    /// Starts to send the dead letter of the record at `position`.
    #[must_use]
    pub fn send(
        &self,
        topic: &str,
        source: &Source,
        position: Order,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        (verdict, redriven): (Verdict, Option<Redriven>),
    ) -> Pending {
        let Order {
            time,
            partition,
            offset,
        } = position;
        let letter = DeadLetter {
            id: DeadLetterId {
                topic_id: source.topic.id.clone(),
                partition,
                offset,
            },
            cluster_id: source.topic.cluster_id.clone(),
            topic: source.topic.name.clone(),
            time,
            verdict,
            redriven,
        };
        let outgoing = Outgoing {
            topic: topic.to_owned(),
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: letter.headers(key),
        };
        Pending(tokio::spawn(deliver(
            self.clone(),
            outgoing,
            source.clone(),
            offset,
        )))
    }
}

/// Retries until the broker has the dead letter: the position behind its record waits for it.
async fn deliver(dead_letters: DeadLetters, mut outgoing: Outgoing, source: Source, offset: i64) {
    let mut backoff = Backoff::default();
    loop {
        let record = FutureRecord {
            topic: &outgoing.topic,
            partition: None,
            payload: outgoing.value.as_deref(),
            key: outgoing.key.as_deref(),
            timestamp: None,
            headers: Some(outgoing.headers.clone()),
        };
        match dead_letters.producer.send(record, Timeout::Never).await {
            Ok(_) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _))
                if outgoing.value.is_some() =>
            {
                tracing::warn!(
                    %source,
                    offset,
                    "a record is too large for the dead-letter topic: sending its headers alone"
                );
                outgoing.value = None;
            }
            Err((error, _)) => {
                let wait = backoff.next();
                let error = dead_letters.errors.explain(error.into());
                tracing::warn!(
                    %source,
                    offset,
                    topic = outgoing.topic,
                    error = format!("{error:#}"),
                    retry_in = ?wait,
                    "a dead letter can't be written yet: retrying"
                );
                tokio::time::sleep(wait).await;
            }
        }
    }
}
