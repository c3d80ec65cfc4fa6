//! Dead letters: rejected records, and copies of repaired ones where the pipeline wants them, on a
//! topic of their own, with headers that say where each came from and why
//! ([`pinpipe_runtime::dead_letter`]).
//!
//! At least once: a position moves only after the letters before it are acknowledged by all
//! replicas. A letter is named by (topic id, partition, offset), so that readers can drop the
//! repeats a crash leaves.

use pinpipe_core::Order;
use pinpipe_runtime::dead_letter::{Letter, LetterId, Redriven, Verdict};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use tokio::task::JoinHandle;

use crate::{backoff::Backoff, sink::Source};

/// Writes dead letters.
#[derive(Clone)]
pub struct DeadLetters {
    producer: FutureProducer,
}

/// A letter that is on its way; aborted when dropped.
#[derive(Debug)]
pub struct Pending(JoinHandle<()>);

impl Pending {
    /// Until the broker has it.
    pub async fn acknowledged(&mut self) {
        // The task ends only with the letter's acknowledgement; it can't be aborted while we hold
        // it.
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
    /// With a producer of their own.
    pub fn new(kafka: &pinpipe_config::Kafka, client_id: &str) -> anyhow::Result<Self> {
        let producer =
            pinpipe_runtime::kafka::client_config(kafka, &format!("{client_id}-dead-letters"))
                .set("enable.idempotence", "true")
                .set("acks", "all")
                .set("linger.ms", "5")
                // The broker's limit counts, not librdkafka's own.
                .set("message.max.bytes", "100000000")
                .set("queue.buffering.max.kbytes", "32768")
                .create()?;
        Ok(Self { producer })
    }

    /// Sends the letter of the record at `place` on its way.
    #[must_use]
    pub fn send(
        &self,
        topic: &str,
        source: &Source,
        place: Order,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        (verdict, redriven): (Verdict, Option<Redriven>),
    ) -> Pending {
        let Order {
            time,
            partition,
            offset,
        } = place;
        let letter = Letter {
            id: LetterId {
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
            self.producer.clone(),
            outgoing,
            source.clone(),
            offset,
        )))
    }
}

/// Tries until the broker has the letter: the position behind it must not move before.
async fn deliver(producer: FutureProducer, mut letter: Outgoing, source: Source, offset: i64) {
    let mut backoff = Backoff::default();
    loop {
        let record = FutureRecord {
            topic: &letter.topic,
            partition: None,
            payload: letter.value.as_deref(),
            key: letter.key.as_deref(),
            timestamp: None,
            headers: Some(letter.headers.clone()),
        };
        match producer.send(record, Timeout::Never).await {
            Ok(_) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _))
                if letter.value.is_some() =>
            {
                tracing::warn!(%source, offset, "a record is too large for the dead-letter topic: its headers alone go there");
                letter.value = None;
            }
            Err((error, _)) => {
                let wait = backoff.next();
                tracing::warn!(%source, offset, topic = letter.topic, %error, retry_in = ?wait, "a dead letter can't be written yet");
                tokio::time::sleep(wait).await;
            }
        }
    }
}
