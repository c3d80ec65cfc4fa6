//! The Kafka consumer: its settings, and what it tells while it is polled.
//!
//! Rebalances are not answered inside librdkafka's callback but by the session's loop, by
//! `incremental_assign` and `incremental_unassign`: librdkafka waits for that answer and goes on
//! with its heartbeats meanwhile. So the loop can ask the sink where to resume, or flush what it
//! has, without blocking a thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, StreamConsumer},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A partition as Kafka names it.
pub type TopicPartition = (String, i32);

/// What the consumer tells beside records.
#[derive(Debug)]
pub enum Event {
    /// The group gives us partitions; to be answered.
    Assign(Vec<TopicPartition>),
    /// The group takes partitions; to be answered. Lost ones are another worker's already.
    Revoke {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Whether it is too late to commit.
        lost: bool,
    },
    /// Offsets were not committed to the group.
    CommitFailed(KafkaError),
    /// librdkafka's figures.
    Statistics(Box<Statistics>),
}

/// The callbacks.
pub struct Context {
    events: UnboundedSender<Event>,
    /// Set once nobody answers rebalances any more.
    closing: Arc<AtomicBool>,
}

/// The consumer.
pub type Consumer = StreamConsumer<Context>;

/// A consumer with what it tells, and the switch to set before it is dropped.
pub struct Connected {
    /// The consumer.
    pub consumer: Arc<Consumer>,
    /// What it tells.
    pub events: UnboundedReceiver<Event>,
    /// See [`Context`].
    pub closing: Arc<AtomicBool>,
}

/// A consumer of the group, subscribed to the topics, which need not exist yet.
pub fn connect(config: &pinpipe_config::Stream, topics: &[&str]) -> KafkaResult<Connected> {
    let (sender, events) = unbounded_channel();
    let closing = Arc::new(AtomicBool::new(false));
    let consumer: Consumer = pinpipe_runtime::kafka::client_config(&config.kafka, &config.group)
        .set("group.id", &config.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // A worker that was killed is replaced within seconds.
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        // New topics and partitions are found within seconds.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("statistics.interval.ms", "2000")
        // The worker has a byte budget of its own: what librdkafka fetches ahead comes on top, per
        // partition.
        .set("queued.max.messages.kbytes", "2048")
        // That is soon full, and soon empty again: librdkafka's own second of waiting would leave
        // the worker idle in between.
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.max.bytes", "8388608")
        .set("fetch.wait.max.ms", "100")
        .create_with_context(Context {
            events: sender,
            closing: closing.clone(),
        })?;
    consumer.subscribe(topics)?;
    Ok(Connected {
        consumer: Arc::new(consumer),
        events,
        closing,
    })
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| (element.topic().to_owned(), element.partition()))
        .collect()
}

impl Context {
    fn tell(&self, event: Event) {
        // The receiver is gone when the session has ended: nobody wants to know then.
        let _ = self.events.send(event);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "librdkafka");
            }
            // A broker that is away is retried for ever and shows in the metrics.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::warn!(facility, message, "librdkafka");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, message, "librdkafka")
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.tell(Event::Statistics(Box::new(statistics)));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assign = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            // An assignment on the way out is declined by giving it back at once.
            let answer = if assign {
                consumer.incremental_assign(list)
            } else {
                consumer.incremental_unassign(list)
            };
            if let Err(error) = answer {
                tracing::debug!(%error, "a rebalance while leaving the group");
            }
        } else if assign {
            self.tell(Event::Assign(partitions(list)));
        } else {
            self.tell(Event::Revoke {
                partitions: partitions(list),
                lost: consumer.assignment_lost(),
            });
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            self.tell(Event::CommitFailed(error));
        }
    }
}
