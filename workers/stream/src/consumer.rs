//! The Kafka consumer: its settings, and the events it sends besides records.
//!
//! The session's loop answers rebalances, not librdkafka's callback, with `incremental_assign` and
//! `incremental_unassign`. librdkafka waits for that answer and keeps sending heartbeats, so that
//! the loop can ask the sink where to resume, or flush, without blocking a thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use pinpipe_runtime::kafka::BrokerErrors;
use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, StreamConsumer},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A topic's name and a partition's number.
pub type TopicPartition = (String, i32);

/// An event of the consumer.
#[derive(Debug)]
pub enum Event {
    /// The group assigns partitions. Must be answered.
    Assign(Vec<TopicPartition>),
    /// The group revokes partitions. Must be answered.
    Revoke {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Whether another worker owns them already, so that it is too late to commit.
        lost: bool,
    },
    /// Offsets were not committed to the group.
    CommitFailed(KafkaError),
    /// librdkafka's statistics.
    Statistics(Box<Statistics>),
}

/// librdkafka's callbacks.
pub struct Context {
    events: UnboundedSender<Event>,
    /// Set once the session no longer answers rebalances.
    closing: Arc<AtomicBool>,
    /// Why brokers can't be reached.
    pub broker_errors: BrokerErrors,
}

/// The consumer.
pub type Consumer = StreamConsumer<Context>;

/// A consumer, its events, and the flag to set before it is dropped.
pub struct Connected {
    /// The consumer.
    pub consumer: Arc<Consumer>,
    /// Its events.
    pub events: UnboundedReceiver<Event>,
    /// Set it once nothing answers rebalances any more.
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
        // The partitions of a killed worker move to another within seconds.
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        // New topics and partitions are found within seconds.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("statistics.interval.ms", "2000")
        // librdkafka's prefetch, per partition, comes on top of the worker's byte budget.
        .set("queued.max.messages.kbytes", "2048")
        // This small queue fills and empties quickly: with librdkafka's default backoff of a second
        // the worker would be idle in between.
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.max.bytes", "8388608")
        .set("fetch.wait.max.ms", "100")
        .create_with_context(Context {
            events: sender,
            closing: closing.clone(),
            broker_errors: BrokerErrors::new(&config.kafka.bootstrap_servers),
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
    fn send(&self, event: Event) {
        // The receiver is gone once the session has ended.
        let _ = self.events.send(event);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.broker_errors.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.send(Event::Statistics(Box::new(statistics)));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.broker_errors.error(error, reason);
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
            // librdkafka must be answered even while the consumer leaves the group.
            let answer = if assign {
                consumer.incremental_assign(list)
            } else {
                consumer.incremental_unassign(list)
            };
            if let Err(error) = answer {
                tracing::debug!(%error, "a rebalance while leaving the group failed");
            }
        } else if assign {
            self.send(Event::Assign(partitions(list)));
        } else {
            self.send(Event::Revoke {
                partitions: partitions(list),
                lost: consumer.assignment_lost(),
            });
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            self.send(Event::CommitFailed(error));
        }
    }
}
