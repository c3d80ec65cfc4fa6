//! How a consumer connects, joins the group and leaves it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use pinpipe_config::ClientRole;
use pinpipe_runtime::kafka::{Access, BrokerErrors, Tuned as _, members};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    super::{Event, TopicPartition},
    Kafka,
    callbacks::Context,
    letters::LetterGroup,
};

/// Without heartbeats for so long a worker is out of its group, milliseconds.
pub(super) const SESSION_TIMEOUT: &str = "6000";
/// How long the group may take to say what its members have.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long leaving the group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The id of a worker's consumer: of its group and, if it is known, its pod.
fn client_id(group: &str, pod: Option<&str>) -> String {
    match pod {
        Some(pod) => format!("{group}-{pod}"),
        None => group.to_owned(),
    }
}

impl Kafka {
    /// A consumer that has not joined the group, and its events.
    pub fn connect(
        config: &pinpipe_config::Stream,
        access: Access,
        pod: Option<&str>,
    ) -> anyhow::Result<(Self, UnboundedReceiver<Event>)> {
        let (sender, events) = unbounded_channel();
        let consumer: StreamConsumer<Context> = access
            .client_config(&client_id(&config.group, pod))
            .set("group.id", &config.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // The partitions of a killed worker move to another pod within seconds. This is the
            // shortest time that brokers allow. A static membership would be shorter for a
            // container that restarts, but then one that stops keeps its partitions as long.
            .set("session.timeout.ms", SESSION_TIMEOUT)
            .set("heartbeat.interval.ms", "1500")
            // New topics and partitions are found within seconds.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("statistics.interval.ms", "2000")
            // Bytes that were damaged on their way are fetched again, not stored.
            .set("check.crcs", "true")
            // librdkafka's prefetch, per partition, comes on top of the worker's byte budget.
            .set("queued.max.messages.kbytes", "2048")
            // This small queue fills and empties within milliseconds: with librdkafka's default
            // backoff of a second the worker would be idle in between.
            .set("fetch.queue.backoff.ms", "1")
            .set("fetch.max.bytes", "8388608")
            .set("fetch.wait.max.ms", "100")
            .tuned(&access, ClientRole::Consumer)
            .create_with_context(Context {
                events: sender,
                closing: Arc::default(),
                broker_errors: BrokerErrors::new(&access),
            })?;
        let kafka = Self {
            consumer: Arc::new(consumer),
            letters: Arc::new(LetterGroup::new(&access, config)?),
            access: Arc::new(access),
            is_member: false,
        };
        Ok((kafka, events))
    }

    /// Joins the group, subscribed to the topics, which need not exist yet.
    pub fn join(self, topics: &[&str]) -> anyhow::Result<Self> {
        self.consumer.subscribe(topics)?;
        Ok(Self {
            is_member: true,
            ..self
        })
    }

    /// The partitions that the group still has for a killed worker of `pod`: one that stops leaves
    /// it. Ask before joining, since a group that rebalances does not tell. None where it can't be
    /// asked.
    pub async fn left_behind(&self, group: &str, pod: &str) -> Vec<TopicPartition> {
        let (client_id, group) = (client_id(group, Some(pod)), group.to_owned());
        let members = self
            .blocking(move |consumer| Ok(members(consumer.client(), &group, DESCRIBE_TIMEOUT)?))
            .await
            .unwrap_or_else(|error| {
                let error = format!("{error:#}");
                tracing::debug!(error, "the consumer group's members are not known");
                Vec::new()
            });
        let killed = members
            .into_iter()
            .filter(|member| member.client_id == client_id);
        killed.flat_map(|member| member.partitions).collect()
    }

    /// Leaves the group if it has joined it, and disconnects. Dropping the consumer blocks, so a
    /// thread of its own does it; after [`LEAVE_TIMEOUT`] the process no longer waits for it.
    pub async fn leave(self) {
        self.consumer
            .context()
            .closing
            .store(true, Ordering::SeqCst);
        let is_member = self.is_member;
        let (done, left) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            drop(self);
            let _ = done.send(());
        });
        if is_member && tokio::time::timeout(LEAVE_TIMEOUT, left).await.is_err() {
            tracing::warn!(
                "leaving the consumer group timed out: its partitions move to other workers when \
                 the group's session expires"
            );
        }
    }
}
