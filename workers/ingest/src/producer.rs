//! Records to the broker, and word of each back to the request it came in.
//!
//! The producer is idempotent and waits for all in-sync replicas; a record counts as stored only
//! when its delivery report says so. One [`Batch`] gathers the reports of one request and wakes it
//! once, when the last has come.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use pinpipe_config::Kafka;
use pinpipe_runtime::outage::Outage;
use prometheus_client::metrics::gauge::Gauge;
use rdkafka::{
    ClientContext, Message, Statistics,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What librdkafka may add to a record in a produce request, bytes.
const MESSAGE_OVERHEAD: u32 = 64 * 1024;

/// What became of a record sent to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has it.
    Stored {
        /// The topic's partition.
        partition: i32,
        /// Its offset there.
        offset: i64,
    },
    /// The broker will never take it.
    Refused(RDKafkaErrorCode),
    /// Nobody knows: it has to be sent again.
    Unconfirmed(Unconfirmed),
}

/// Why a record is not known to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// No confirmation in time.
    #[error(
        "the broker did not confirm the record in time: send it again (if it was stored after all, a repeat does no harm)"
    )]
    Timeout,
    /// The producer's queue is full.
    #[error("the queue to the broker is full: send the record again")]
    QueueFull,
    /// The topic is not there.
    #[error("the broker has no such topic: the operator creates it; send the record again")]
    TopicMissing,
    /// Another error of the broker or of the way to it.
    #[error("the broker could not store the record ({0}): send it again")]
    Broker(RDKafkaErrorCode),
}

impl Unconfirmed {
    /// The name in answers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "delivery-timeout",
            Self::QueueFull => "queue-full",
            Self::TopicMissing => "topic-missing",
            Self::Broker(_) => "broker-error",
        }
    }
}

impl From<RDKafkaErrorCode> for Delivery {
    fn from(code: RDKafkaErrorCode) -> Self {
        use RDKafkaErrorCode as Code;
        Self::Unconfirmed(match code {
            Code::MessageSizeTooLarge | Code::InvalidRecord => return Self::Refused(code),
            Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown => Unconfirmed::Timeout,
            Code::QueueFull => Unconfirmed::QueueFull,
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                Unconfirmed::TopicMissing
            }
            other => Unconfirmed::Broker(other),
        })
    }
}

/// How the producer is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The size limit of a record, bytes.
    pub max_record_bytes: u32,
    /// How long a record may take to be confirmed; a broker away for less goes unnoticed by
    /// clients.
    pub delivery_timeout: Duration,
    /// The bytes that may wait for the broker.
    pub queue_bytes: usize,
}

/// The deliveries of one request's records.
struct Gathered {
    deliveries: Vec<Delivery>,
    /// Reports still to come; one more while records are being sent.
    waiting: usize,
    done: Option<oneshot::Sender<Vec<Delivery>>>,
}

/// Records of one request on their way.
pub struct Batch {
    gathered: Arc<Mutex<Gathered>>,
    done: oneshot::Receiver<Vec<Delivery>>,
}

/// Travels with a record through librdkafka.
pub struct Ticket {
    gathered: Arc<Mutex<Gathered>>,
    index: usize,
}

impl Ticket {
    fn report(self, delivery: Delivery) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.deliveries[self.index] = delivery;
        gathered.one_less();
    }
}

impl Gathered {
    fn one_less(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0
            && let Some(done) = self.done.take()
        {
            // A client that went away doesn't wait for its answer.
            let _ = done.send(std::mem::take(&mut self.deliveries));
        }
    }
}

impl Batch {
    /// For up to `capacity` records.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (sender, done) = oneshot::channel();
        let gathered = Gathered {
            deliveries: Vec::with_capacity(capacity),
            waiting: 1,
            done: Some(sender),
        };
        Self {
            gathered: Arc::new(Mutex::new(gathered)),
            done,
        }
    }

    /// Waits for the last report; deliveries come in the order of [`Producer::send`]. Each comes
    /// within the delivery timeout.
    pub async fn deliveries(self) -> Vec<Delivery> {
        self.gathered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .one_less();
        self.done.await.unwrap_or_default()
    }

    fn ticket(&self) -> Ticket {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered
            .deliveries
            .push(Delivery::Unconfirmed(Unconfirmed::Timeout));
        gathered.waiting += 1;
        Ticket {
            gathered: Arc::clone(&self.gathered),
            index: gathered.deliveries.len() - 1,
        }
    }
}

/// Hears of deliveries, of brokers coming and going, and of the error after which librdkafka sends
/// no more.
struct Listener {
    broker_up: Gauge,
    outage: Outage,
    was_up: AtomicBool,
    dead: CancellationToken,
}

impl Listener {
    fn set_up(&self, up: bool) {
        self.broker_up.set(i64::from(up));
        if up {
            self.outage.up();
        } else {
            self.outage.down(|| {
                "no broker can be reached: records are answered with 503 until one is there"
                    .to_owned()
            });
        }
        if self.was_up.swap(up, Ordering::Relaxed) != up {
            if up {
                tracing::info!("the broker is there");
            } else {
                tracing::warn!(
                    "no broker can be reached: records are answered with 503 until one is there"
                );
            }
        }
    }
}

impl ClientContext for Listener {
    fn stats(&self, statistics: Statistics) {
        self.set_up(
            statistics
                .brokers
                .values()
                .any(|broker| broker.state == "UP"),
        );
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.set_up(false),
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(reason, "the producer can't go on");
                self.dead.cancel();
            }
            // librdkafka logs it too, and once only.
            _ => tracing::debug!(%error, reason, "broker"),
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        ticket.report(match result {
            Ok(message) => Delivery::Stored {
                partition: message.partition(),
                offset: message.offset(),
            },
            Err((error, _)) => error
                .rdkafka_error_code()
                .unwrap_or(RDKafkaErrorCode::Unknown)
                .into(),
        });
    }
}

/// The producer; clones share one.
#[derive(Clone)]
pub struct Producer {
    producer: ThreadedProducer<Listener>,
    dead: CancellationToken,
}

impl Producer {
    /// Sets the producer up. The broker need not be there yet.
    pub fn new(
        kafka: &Kafka,
        settings: Settings,
        broker_up: Gauge,
        outage: Outage,
    ) -> Result<Self> {
        let mut config = pinpipe_runtime::kafka::client_config(kafka, "pinpipe-ingest");
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            // Where Java's producers would put the same key.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("batch.num.messages", "10000")
            // A topic that isn't there is told as such before the delivery timeout.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set(
                "message.max.bytes",
                (settings.max_record_bytes.saturating_add(MESSAGE_OVERHEAD)).to_string(),
            )
            .set(
                "message.timeout.ms",
                settings.delivery_timeout.as_millis().to_string(),
            )
            .set("queue.buffering.max.messages", "1000000")
            .set(
                "queue.buffering.max.kbytes",
                (settings.queue_bytes / 1024).max(1).to_string(),
            )
            .set("statistics.interval.ms", "5000");
        let dead = CancellationToken::new();
        let listener = Listener {
            broker_up,
            outage,
            was_up: AtomicBool::new(false),
            dead: dead.clone(),
        };
        let producer = ThreadedProducer::from_config_and_context(&config, listener)
            .context("the Kafka producer can't be set up: check kafka.bootstrapServers")?;
        Ok(Self { producer, dead })
    }

    /// Sends one record as part of `batch`. Never blocks.
    pub fn send(&self, batch: &Batch, topic: &str, key: &str, record: &[u8]) {
        let message = BaseRecord::with_opaque_to(topic, Box::new(batch.ticket()))
            .key(key)
            .payload(record);
        if let Err((error, message)) = self.producer.send(message) {
            message.delivery_opaque.report(
                error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown)
                    .into(),
            );
        }
    }

    /// Resolves when librdkafka can send no more and the process has to start anew.
    pub async fn dead(&self) {
        self.dead.cancelled().await;
    }

    /// Waits until every record sent has been reported on. Blocks.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.producer.flush(timeout).context(
            "some records could not be sent to the broker in time; none of them was acknowledged",
        )
    }
}
