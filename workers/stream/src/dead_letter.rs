//! Dead letters: rejected records, on a topic of their own, with headers that say where each came from and why.
//!
//! At least once: a position moves only after the letters before it are acknowledged by all replicas. A letter is named by (topic
//! id, partition, offset), so that readers can drop the repeats a crash leaves.

use pinpipe_core::{Order, Rejection};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
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
        // The task ends only with the letter's acknowledgement; it can't be aborted while we hold it.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Letter {
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: OwnedHeaders,
}

impl DeadLetters {
    /// With a producer of their own.
    pub fn new(kafka: &pinpipe_config::Kafka, client_id: &str) -> anyhow::Result<Self> {
        let producer = pinpipe_runtime::kafka::client_config(kafka, &format!("{client_id}-dead-letters"))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            // The broker's limit counts, not librdkafka's own.
            .set("message.max.bytes", "100000000")
            .set("queue.buffering.max.kbytes", "32768")
            .create()?;
        Ok(Self { producer })
    }

    /// Sends a rejected record on its way.
    #[must_use]
    pub fn send(
        &self,
        topic: &str,
        source: &Source,
        order: Order,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        rejection: &Rejection,
    ) -> Pending {
        let letter = Letter {
            topic: topic.to_owned(),
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: headers(source, order, rejection),
        };
        Pending(tokio::spawn(deliver(self.producer.clone(), letter, source.clone(), order.offset)))
    }
}

fn headers(source: &Source, order: Order, rejection: &Rejection) -> OwnedHeaders {
    let Source { topic, partition } = source;
    let mut headers = OwnedHeaders::new_with_capacity(10);
    let mut add = |key: &str, value: &str| {
        headers = std::mem::take(&mut headers).insert(Header { key, value: Some(value) });
    };
    add("pinpipe.topic", &topic.name);
    add("pinpipe.partition", &partition.to_string());
    add("pinpipe.offset", &order.offset.to_string());
    add("pinpipe.timestamp", &order.time.to_string());
    add("pinpipe.reason", rejection.reason());
    if let Some(field) = rejection.field() {
        add("pinpipe.field", field);
    }
    add("pinpipe.message", &rejection.to_string());
    add("pinpipe.cluster-id", &topic.cluster_id);
    add("pinpipe.topic-id", &topic.id);
    add("pinpipe.worker-version", env!("CARGO_PKG_VERSION"));
    headers
}

/// Tries until the broker has the letter: the position behind it must not move before.
async fn deliver(producer: FutureProducer, mut letter: Letter, source: Source, offset: i64) {
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
                tracing::warn!(%source, offset, "a rejected record is too large for the dead-letter topic: its headers alone go there");
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
