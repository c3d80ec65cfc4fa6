//! Sends records to Kafka and returns the delivery report of each to its request.
//!
//! The producer is idempotent and waits for all in-sync replicas. A record counts as stored only if
//! its delivery report says so. A [`Batch`] collects the delivery reports of one request and wakes
//! it once, after the last one.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use pinpipe_config::ClientRole;
use pinpipe_runtime::{
    kafka::{Access, BrokerErrors, Tuned as _},
    outage::Outage,
};
use prometheus_client::metrics::gauge::Gauge;
use rdkafka::{
    ClientContext, Message, Statistics,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::budget::Share;

/// What librdkafka may add to a record in a produce request, bytes.
const MESSAGE_OVERHEAD: u32 = 64 * 1024;
/// How often a retired producer is checked for whether it may be dropped.
const RETIREMENT_INTERVAL: Duration = Duration::from_millis(100);

/// The result of sending a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has stored the record.
    Stored {
        /// The partition.
        partition: i32,
        /// The offset in the partition.
        offset: i64,
    },
    /// The broker will never accept the record.
    Refused(RDKafkaErrorCode),
    /// The record is not known to be stored and has to be sent again.
    Unconfirmed(Unconfirmed),
}

/// Why a record is not known to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// No confirmation in time.
    #[error(
        "the broker did not confirm the record in time: send it again (a duplicate does no harm)"
    )]
    Timeout,
    /// The producer's queue is full.
    #[error("the queue to the broker is full: send the record again")]
    QueueFull,
    /// The topic does not exist.
    #[error(
        "the record's topic does not exist in Kafka: send the record again later; if this lasts \
         for minutes, tell the pipeline's owner to check the conditions of the PinterestPipeline"
    )]
    TopicMissing,
    /// Another error of the broker or the connection to it.
    #[error("the broker could not store the record ({0}): send it again")]
    Broker(RDKafkaErrorCode),
}

impl Unconfirmed {
    /// The error code in responses and metrics.
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

/// Settings of the producer.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Size limit of a record, bytes.
    pub max_record_bytes: u32,
    /// How long the broker may take to confirm a record. Clients don't notice shorter outages.
    pub delivery_timeout: Duration,
    /// Size of the queue to the broker, bytes.
    pub queue_bytes: usize,
}

/// What a request gets after the last delivery report: the reports, in the order of the calls of
/// [`Current::send`], and its share of the budget.
type Reported = (Vec<Delivery>, Option<Share>);

/// Delivery reports of one request.
struct Reports {
    deliveries: Vec<Delivery>,
    /// The request's share of the budget, held until the last report: the records are in memory
    /// until then, even if the client is gone.
    share: Option<Share>,
    /// Outstanding reports, plus one while records are still being sent.
    outstanding: usize,
    done: Option<oneshot::Sender<Reported>>,
}

/// The records of one request that were sent to the broker.
pub struct Batch {
    reports: Arc<Mutex<Reports>>,
    done: oneshot::Receiver<Reported>,
}

/// Identifies a sent record. librdkafka returns it with the delivery report.
pub struct Ticket {
    reports: Arc<Mutex<Reports>>,
    index: usize,
}

impl Ticket {
    fn report(self, delivery: Delivery) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.deliveries[self.index] = delivery;
        reports.complete_one();
    }
}

impl Reports {
    fn complete_one(&mut self) {
        self.outstanding -= 1;
        if self.outstanding == 0
            && let Some(done) = self.done.take()
        {
            // The receiver is gone if the client has disconnected.
            let _ = done.send((std::mem::take(&mut self.deliveries), self.share.take()));
        }
    }
}

impl Batch {
    /// A batch of up to `capacity` records, whose memory is charged to `share`.
    #[must_use]
    pub fn new(capacity: usize, share: Share) -> Self {
        let (sender, done) = oneshot::channel();
        let reports = Reports {
            deliveries: Vec::with_capacity(capacity),
            share: Some(share),
            outstanding: 1,
            done: Some(sender),
        };
        Self {
            reports: Arc::new(Mutex::new(reports)),
            done,
        }
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `bytes` of the batch's share.
    pub fn give_back(&self, bytes: usize) {
        if let Some(share) = &mut self.reports().share {
            share.give_back(bytes);
        }
    }

    /// Waits for all delivery reports, which arrive within the delivery timeout. They are in the
    /// order of the calls of [`Current::send`]. What is left of the share is for the response.
    pub async fn deliveries(self) -> (Vec<Delivery>, Option<Share>) {
        self.reports().complete_one();
        self.done.await.unwrap_or_default()
    }

    fn ticket(&self) -> Ticket {
        let mut reports = self.reports();
        reports.outstanding += 1;
        reports
            .deliveries
            .push(Delivery::Unconfirmed(Unconfirmed::Timeout));
        Ticket {
            reports: Arc::clone(&self.reports),
            index: reports.deliveries.len() - 1,
        }
    }
}

/// Handles librdkafka's callbacks: delivery reports, broker states and errors.
struct Listener {
    broker_up: Gauge,
    outage: Outage,
    was_up: AtomicBool,
    errors: BrokerErrors,
    /// Told of each error: the producer may not recover from it.
    trouble: Arc<Notify>,
    /// Cancelled once another producer has taken over: what this one meets no longer counts.
    retired: CancellationToken,
}

impl Listener {
    fn new(access: &Access, broker_up: Gauge, outage: Outage, trouble: Arc<Notify>) -> Self {
        Self {
            broker_up,
            outage,
            was_up: AtomicBool::new(false),
            errors: BrokerErrors::new(access),
            trouble,
            retired: CancellationToken::new(),
        }
    }

    /// Message of an outage.
    fn no_broker(&self) -> String {
        let unreachable = self.errors.unreachable();
        format!("{unreachable}. Requests get status 503 until a broker answers")
    }

    fn set_up(&self, up: bool) {
        if self.retired.is_cancelled() {
            return;
        }
        self.broker_up.set(i64::from(up));
        if up {
            self.outage.up();
        } else {
            self.outage.down(|| self.no_broker());
        }
        if self.was_up.swap(up, Ordering::Relaxed) != up {
            if up {
                tracing::info!("connected to a broker");
            } else {
                tracing::warn!("{}", self.no_broker());
            }
        }
    }
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = BrokerErrors::ENABLE_REFRESH_OAUTH_TOKEN;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.errors.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.errors.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.set_up(
            statistics
                .brokers
                .values()
                .any(|broker| broker.state == "UP"),
        );
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.set_up(false);
        } else {
            self.errors.error(error, reason);
            // In place of the code `Fatal` librdkafka gives that of the cause.
            self.trouble.notify_one();
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

/// The Kafka producer. Clones share one queue and connection.
#[derive(Clone)]
pub struct Producer {
    current: Arc<RwLock<Arc<ThreadedProducer<Listener>>>>,
    settings: Settings,
    broker_up: Gauge,
    outage: Outage,
    trouble: Arc<Notify>,
}

impl Producer {
    /// Creates the producer without waiting for a broker.
    pub fn new(
        access: &Access,
        settings: Settings,
        broker_up: Gauge,
        outage: Outage,
    ) -> Result<Self> {
        let trouble = Arc::new(Notify::new());
        let listener = Listener::new(access, broker_up.clone(), outage.clone(), trouble.clone());
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(create(access, settings, listener)?))),
            settings,
            broker_up,
            outage,
            trouble,
        })
    }

    /// Reaches the brokers in another way from the next request on. What the requests before it
    /// have sent is delivered, or reported as not confirmed, as it was to be.
    pub fn renew(&self, access: &Access) -> Result<()> {
        let (up, outage, trouble) = (&self.broker_up, &self.outage, &self.trouble);
        let listener = Listener::new(access, up.clone(), outage.clone(), trouble.clone());
        let new = Arc::new(create(access, self.settings, listener)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        old.context().retired.cancel();
        // An error of the new one may have come before it was the current one.
        self.trouble.notify_one();
        // Waiting and closing connections block.
        std::thread::spawn(move || retire(old));
        Ok(())
    }

    /// The producer for one request: the records of a request keep their order.
    #[must_use]
    pub fn current(&self) -> Current {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Current(current.clone())
    }

    /// What the brokers say about themselves and a topic. Blocks for up to `timeout`.
    pub fn metadata(&self, topic: &str, timeout: Duration) -> Result<Metadata> {
        let current = self.current();
        let found = current.0.client().fetch_metadata(Some(topic), timeout);
        found.context("no broker describes its topics")
    }

    /// Completes after an error that the producer does not recover from, with its sentence. The
    /// process has to be restarted then.
    pub async fn dead(&self) -> String {
        loop {
            // Without a producer in hand: one that is replaced closes once nobody has it.
            let fatal = self.current().0.client().fatal_error();
            match fatal {
                // Brokers number the records of those alone who may write somewhere.
                Some((code @ RDKafkaErrorCode::ClusterAuthorizationFailed, _)) => {
                    return format!("{code}: grant the worker's user Write of the topics");
                }
                Some((_, sentence)) => return sentence,
                None => self.trouble.notified().await,
            }
        }
    }

    /// Blocks until every sent record has its delivery report.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.current().0.flush(timeout).context(
            "some records could not be sent to the broker in time; none of them was acknowledged",
        )
    }
}

/// The producer as it is for one request.
pub struct Current(Arc<ThreadedProducer<Listener>>);

impl Current {
    /// Sends one record as part of `batch`. Never blocks.
    pub fn send(&self, batch: &Batch, topic: &str, key: &str, record: &[u8]) {
        let message = BaseRecord::with_opaque_to(topic, Box::new(batch.ticket()))
            .key(key)
            .payload(record);
        if let Err((error, message)) = self.0.send(message) {
            message.delivery_opaque.report(
                error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown)
                    .into(),
            );
        }
    }
}

/// Drops a producer once no request sends to it and everything it was sent has its report.
fn retire(producer: Arc<ThreadedProducer<Listener>>) {
    while Arc::strong_count(&producer) > 1 || producer.in_flight_count() > 0 {
        if producer.flush(RETIREMENT_INTERVAL).is_ok() {
            std::thread::sleep(RETIREMENT_INTERVAL);
        }
    }
    drop(producer);
    tracing::debug!("the producer with the earlier credentials is closed");
}

fn create(
    access: &Access,
    settings: Settings,
    listener: Listener,
) -> Result<ThreadedProducer<Listener>> {
    let mut config = access.client_config("pinpipe-ingest");
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        // The partitioner of Java's producers: the same key goes to the same partition.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("batch.num.messages", "10000")
        // Report a missing topic before the delivery timeout.
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
        .set("statistics.interval.ms", "5000")
        .tuned(access, ClientRole::Producer);
    ThreadedProducer::from_config_and_context(&config, listener)
        .context("can't create the Kafka producer: check kafka.bootstrapServers")
}
