//! The dead-letter producer of rejected and refused records. Their headers name origin and reason
//! ([`pinpipe_runtime::dead_letter`]).
//!
//! Delivery is at least once: a position moves only after all replicas have acknowledged the dead
//! letters before it. How far those of rejected records are written is a position of its own, which
//! outlives a change of the sink that writes them. A dead letter's id is (topic id, partition,
//! offset, refusing sink), so that readers can drop the duplicates a crash leaves.
//!
//! One task sends all dead letters of a worker. It makes the producer with the first one, and makes
//! it again after an error that the producer does not recover from, or when the brokers are reached
//! in another way. Letters that the old one has not sent then are sent by the new one.
//!
//! A producer tries for minutes to send a letter before it gives it back (librdkafka's
//! `message.timeout.ms`). A shorter time gains nothing, since what it gives back is sent again. The
//! outage is reported as soon as there was no acknowledgement for a few seconds.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::anyhow;
use futures::{StreamExt as _, stream::FuturesUnordered};
use pinpipe_config::ClientRole;
use pinpipe_core::Order;
use pinpipe_runtime::{
    dead_letter::{DeadLetter, DeadLetterId, Redriven, Verdict},
    kafka::{self, Access, BrokerErrors, Tuned as _},
    outage::Outage,
};
use prometheus_client::metrics::gauge::Gauge;
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{FutureProducer, FutureRecord, Producer as _},
    util::Timeout,
};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, REMINDER},
    sink::Source,
};

/// Dead letters that are sent at once; others wait in memory, which the session accounts for.
const MAX_IN_FLIGHT: usize = 1000;
/// How long the broker may acknowledge none of the dead letters being sent before it counts as
/// unavailable, and the interval at which that is repeated.
const STALLED: Duration = Duration::from_secs(5);

/// A dead letter being sent. It is not sent again once all clones are dropped.
pub trait Acknowledgement: Clone + Send + 'static {
    /// Whether the broker has acknowledged it.
    fn is_acknowledged(&self) -> bool;
    /// Waits until the broker has acknowledged it.
    fn acknowledged(&mut self) -> impl Future<Output = ()> + Send;
}

/// Sends dead letters.
pub trait Writer {
    /// A dead letter being sent.
    type Sent: Acknowledgement;

    /// Starts to send the dead letter of the record at `position`. `sink` is the one that refused
    /// it.
    #[must_use]
    fn send(
        &self,
        topic: &str,
        source: &Source,
        position: Order,
        record: (Option<&[u8]>, Option<&[u8]>),
        letter: (Verdict, Option<Redriven>),
        sink: Option<&str>,
    ) -> Self::Sent;
}

/// Sends dead letters; clones share one producer.
#[derive(Clone)]
pub struct DeadLetters {
    queue: UnboundedSender<Outgoing>,
}

/// A dead letter being sent.
#[derive(Clone, Debug)]
pub struct Pending(watch::Receiver<bool>);

impl Pending {
    /// A dead letter, and what acknowledges it.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sent, acknowledged) = watch::channel(false);
        (sent, Self(acknowledged))
    }
}

impl Acknowledgement for Pending {
    fn is_acknowledged(&self) -> bool {
        *self.0.borrow()
    }

    async fn acknowledged(&mut self) {
        if self.0.wait_for(|sent| *sent).await.is_err() {
            // The sending task is gone only when the process ends.
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: OwnedHeaders,
    sent: watch::Sender<bool>,
}

impl DeadLetters {
    /// Sends in a task of its own; reports to `up` and `outage` whether the broker takes dead
    /// letters.
    #[must_use]
    pub fn new(
        access: watch::Receiver<Access>,
        client_id: &str,
        up: Gauge,
        outage: Outage,
    ) -> Self {
        up.set(1);
        let (queue, letters) = unbounded_channel();
        let errors = BrokerErrors::new(&access.borrow());
        let sender = Sender {
            errors,
            access,
            client_id: format!("{client_id}-dead-letters"),
            up,
            outage,
            last_logged: None,
        };
        tokio::spawn(sender.run(letters));
        Self { queue }
    }
}

impl Writer for DeadLetters {
    type Sent = Pending;

    fn send(
        &self,
        topic: &str,
        source: &Source,
        position: Order,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        (verdict, redriven): (Verdict, Option<Redriven>),
        sink: Option<&str>,
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
                sink: sink.map(str::to_owned),
            },
            cluster_id: source.topic.cluster_id.clone(),
            topic: source.topic.name.clone(),
            time,
            verdict,
            redriven,
        };
        let (sent, pending) = Pending::new();
        // The task ends only with the process.
        let _ = self.queue.send(Outgoing {
            topic: topic.to_owned(),
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: letter.headers(key),
            sent,
        });
        pending
    }
}

struct Sender {
    access: watch::Receiver<Access>,
    client_id: String,
    errors: BrokerErrors,
    up: Gauge,
    outage: Outage,
    last_logged: Option<Instant>,
}

impl Sender {
    fn producer(&mut self) -> KafkaResult<Producer> {
        let access = self.access.borrow_and_update().clone();
        self.errors = BrokerErrors::new(&access);
        let client = access
            .client_config(&self.client_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            // Letters for a topic that doesn't exist fail by this time with that error.
            .set("topic.metadata.propagation.max.ms", "3000")
            // Above any topic's limit: the broker decides what is too large.
            .set("message.max.bytes", "100000000")
            .set("queue.buffering.max.kbytes", "32768")
            .tuned(&access, ClientRole::Producer)
            .create_with_context(self.errors.clone())?;
        Ok(Producer {
            client: Arc::new(client),
            retired: CancellationToken::new(),
        })
    }

    /// Sends each dead letter until the broker has it: the position behind its record waits for it.
    async fn run(mut self, mut letters: UnboundedReceiver<Outgoing>) {
        let (mut producer, mut backoff) = (None::<Producer>, Backoff::default());
        let mut in_flight = FuturesUnordered::new();
        let mut failed: Vec<Outgoing> = Vec::new();
        let mut stalled = pin!(sleep(STALLED));
        loop {
            if in_flight.is_empty() {
                stalled.as_mut().reset(Instant::now() + STALLED);
            }
            let mut letters_to_send = Vec::new();
            if in_flight.is_empty() && !failed.is_empty() {
                sleep(backoff.wait()).await;
                letters_to_send.append(&mut failed);
            } else {
                let accepts = failed.is_empty() && in_flight.len() < MAX_IN_FLIGHT;
                tokio::select! {
                    Some((letter, sent)) = in_flight.next() => {
                        stalled.as_mut().reset(Instant::now() + STALLED);
                        match self.on_sent(letter, sent) {
                            None => backoff = Backoff::default(),
                            letter => failed.extend(letter),
                        }
                    }
                    letter = letters.recv(), if accepts => {
                        let Some(letter) = letter else { return };
                        letters_to_send.push(letter);
                    }
                    Ok(()) = self.access.changed() => producer = None,
                    () = &mut stalled, if !in_flight.is_empty() => {
                        stalled.as_mut().reset(Instant::now() + STALLED);
                        self.stalled();
                    }
                }
            }
            letters_to_send.retain(|letter| !letter.sent.is_closed());
            if letters_to_send.is_empty() {
                if in_flight.is_empty() && failed.is_empty() {
                    // Whoever waited for the others has lost their partitions.
                    self.works();
                }
                continue;
            }
            if producer.as_ref().is_none_or(Producer::has_failed) {
                producer = self
                    .producer()
                    .map_err(|error| self.down(error.into()))
                    .ok();
            }
            for letter in letters_to_send {
                match &producer {
                    Some(producer) => in_flight.push(producer.send(letter)),
                    None => failed.push(letter),
                }
            }
        }
    }

    /// Acknowledges a letter, or returns it to be sent again.
    fn on_sent(&mut self, mut letter: Outgoing, sent: Delivery) -> Option<Outgoing> {
        match sent {
            Some(Ok(())) => {
                self.errors.clear();
                self.works();
                letter.sent.send_replace(true);
                return None;
            }
            Some(Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)))
                if letter.value.is_some() =>
            {
                tracing::warn!(
                    topic = letter.topic,
                    "a record is too large for the dead-letter topic: sending its headers alone"
                );
                letter.value = None;
            }
            Some(Err(error)) => self.down(error.into()),
            None => {}
        }
        Some(letter)
    }

    fn works(&mut self) {
        self.up.set(1);
        self.outage.up();
        self.last_logged = None;
    }

    /// Reports that the broker acknowledges nothing. librdkafka logs why, if connections fail.
    fn stalled(&mut self) {
        let unreachable = self.errors.unreachable();
        if unreachable.cause.is_some() {
            return self.down(unreachable.into());
        }
        self.down(anyhow!(
            "the Kafka brokers at {} don't acknowledge them; check that enough of the topic's \
             replicas are in sync",
            unreachable.bootstrap_servers
        ));
    }

    fn down(&mut self, error: anyhow::Error) {
        let error = format!("{:#}", self.errors.explain(error));
        let last = self.last_logged;
        if last.is_none_or(|at| at.elapsed() > REMINDER) {
            self.last_logged = Some(Instant::now());
            tracing::warn!(error, "dead letters can't be written yet: retrying");
        }
        self.up.set(0);
        self.outage.down(|| {
            format!("dead letters can't be written, and the positions before them wait: {error}")
        });
    }
}

/// What became of a letter; `None` if its producer was dropped before that was known.
type Delivery = Option<KafkaResult<()>>;

/// A producer. When it is dropped, it gives up what it has not sent: all letters in flight are
/// returned at once. Some of them may be stored, and are sent again all the same.
struct Producer {
    client: Arc<FutureProducer<BrokerErrors>>,
    retired: CancellationToken,
}

impl Producer {
    /// Whether it has met an error that it does not recover from.
    fn has_failed(&self) -> bool {
        self.client.client().fatal_error().is_some()
    }

    fn send(&self, letter: Outgoing) -> impl Future<Output = (Outgoing, Delivery)> + use<> {
        let (client, retired) = (self.client.clone(), self.retired.clone());
        async move {
            let record = FutureRecord {
                topic: &letter.topic,
                partition: None,
                payload: letter.value.as_deref(),
                key: letter.key.as_deref(),
                timestamp: None,
                headers: Some(letter.headers.clone()),
            };
            let sent = tokio::select! {
                biased;
                () = retired.cancelled() => None,
                sent = client.send(record, Timeout::Never) => {
                    Some(sent.map(drop).map_err(|(error, _)| error))
                }
            };
            (letter, sent)
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.retired.cancel();
        kafka::close(self.client.clone());
    }
}
