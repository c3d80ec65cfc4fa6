//! The loop: one membership in the consumer group, from joining to leaving.
//!
//! consume → decode and clean → batch → commit. One task owns all state; commits and questions
//! about where to resume run beside it and come back as results. Consumption stops while the byte
//! budget is used up: for a moment by not polling, for longer by pausing the partitions, since a
//! consumer that doesn't poll is thrown out of its group.

mod rebalance;
mod upkeep;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures::FutureExt;
use pinpipe_config::DeadLetterMode;
use pinpipe_core::{Cleaned, Kind, Order, Rejection};
use pinpipe_runtime::dead_letter::{Redriven, Verdict};
use rdkafka::{
    Message, Offset,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    commit::{Outcome, REMINDER, SinkHealth, commit},
    consumer::{Connected, Consumer, Event, TopicPartition, connect},
    dead_letter::DeadLetters,
    lane::Lane,
    metrics::Metrics,
    resume::Start,
    sink::{Batch, Consumed, Halt, Sink},
};

/// How often ages are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often positions and the group's offsets are brought up to date.
const BOOKKEEPING: Duration = Duration::from_millis(500);
/// How often the topics' ids are compared.
const IDENTITY_CHECK: Duration = Duration::from_secs(2);
/// How long what is gathered may take to be stored when partitions are taken from us, or the worker
/// is stopped.
const DRAIN: Duration = Duration::from_secs(15);
/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(5);
/// How long a worker that was stopped has to go on before it counts as going on: one that stops at
/// a record gets that far every time it looks again.
const PROBATION: Duration = Duration::from_secs(5);
/// Records taken before the loop looks at anything else.
const RUN: usize = 256;

/// What a session works with.
pub struct Worker<S: Sink> {
    /// The configuration.
    pub config: pinpipe_config::Stream,
    /// Where records go.
    pub sink: Arc<S>,
    /// Whether it answers.
    pub health: Arc<SinkHealth>,
    /// Where dead letters go; `None`: another worker writes them, this one counts.
    pub dead_letters: Option<DeadLetters>,
    /// Figures.
    pub metrics: Metrics,
    /// Bytes all batches may take.
    pub budget: usize,
    /// Asks for everything gathered to be stored now.
    pub flush: Arc<Notify>,
}

/// Why a session ended before the worker was to stop.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The sink must not go on.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// To be begun anew.
    #[error("{0:#}")]
    Again(#[from] anyhow::Error),
}

type Key = (Kind, i32);

struct Session<'a, S: Sink> {
    worker: &'a Worker<S>,
    resumed: &'a dyn Fn(),
    /// When to call `resumed`.
    resumes_at: Option<Instant>,
    consumer: Arc<Consumer>,
    lanes: HashMap<Key, Lane<S::Batch>>,
    commits: JoinSet<(Key, Outcome)>,
    under_way: HashMap<Key, AbortHandle>,
    /// Where assigned partitions resume: the answer the group waits for.
    assignments: JoinSet<Result<Vec<Start>, Halt>>,
    /// Where lanes resume whose position another worker has moved.
    moves: JoinSet<Result<Vec<Start>, Halt>>,
    /// Partitions to give up once they are drained.
    revoking: Option<(Vec<TopicPartition>, Instant)>,
    checks: JoinSet<anyhow::Result<bool>>,
    full_since: Option<Instant>,
    paused: bool,
    missing_told: Option<Instant>,
}

/// What came of the question where to resume.
type Resumed = Result<Result<Vec<Start>, Halt>, JoinError>;

/// Runs one membership until `stop`. `resumed` is called whenever partitions were taken up where
/// the sink left off, and kept.
pub async fn run<S: Sink>(
    worker: &Worker<S>,
    stop: &CancellationToken,
    resumed: &dyn Fn(),
) -> Result<(), End> {
    let topics = worker.topics().map(|(_, topic)| topic.name.as_str());
    let Connected {
        consumer,
        events,
        closing,
    } = connect(&worker.config, &topics)
        .map_err(|error| anyhow!(error).context("the consumer can't be set up"))?;
    let mut session = Session {
        worker,
        resumed,
        resumes_at: None,
        consumer: consumer.clone(),
        lanes: HashMap::new(),
        commits: JoinSet::new(),
        under_way: HashMap::new(),
        assignments: JoinSet::new(),
        moves: JoinSet::new(),
        revoking: None,
        checks: JoinSet::new(),
        full_since: None,
        paused: false,
        missing_told: None,
    };
    let ended = session.work(events, stop).await;
    if matches!(ended, Ok(()) | Err(End::Halt(Halt::RecordRejected { .. }))) {
        session.drain().await;
    }
    session.forget_all();
    drop(session);
    closing.store(true, Ordering::SeqCst);
    leave(consumer).await;
    ended
}

/// Leaves the group. Blocks a thread of its own, and is not waited for for ever: the process may
/// end meanwhile.
async fn leave(consumer: Arc<Consumer>) {
    let (done, left) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(consumer);
        let _ = done.send(());
    });
    if tokio::time::timeout(LEAVE, left).await.is_err() {
        tracing::warn!(
            "the consumer group could not be left in time: its partitions move on when the session times out"
        );
    }
}

impl<S: Sink> Worker<S> {
    fn topics(&self) -> [(Kind, &pinpipe_config::Topic); 3] {
        let topics = &self.config.topics;
        [
            (Kind::Pin, &topics.pin),
            (Kind::Geo, &topics.geo),
            (Kind::User, &topics.user),
        ]
    }

    fn topic(&self, name: &str) -> Option<(Kind, &pinpipe_config::Topic)> {
        self.topics()
            .into_iter()
            .find(|(_, topic)| topic.name == name)
    }

    fn key(&self, (topic, partition): &TopicPartition) -> Option<Key> {
        self.topic(topic).map(|(kind, _)| (kind, *partition))
    }

    /// What a re-driven record brings along. Whoever may write to the topics may claim anything
    /// here; what is no order is not used.
    fn redriven(
        &self,
        kind: Kind,
        message: &BorrowedMessage<'_>,
        place: Order,
    ) -> Option<Redriven> {
        let redriven = Redriven::read(message.headers()?, place);
        self.metrics.redriven(kind, &redriven);
        redriven.unwrap_or_else(|why| {
            let (topic, partition, offset) = (message.topic(), place.partition, place.offset);
            tracing::warn!(topic, partition, offset, %why, "a record's order is not used: its place in the log counts");
            None
        })
    }

    /// What a letter is to say of a record, if it gets one.
    fn verdict(&self, cleaned: &Result<Cleaned<'_>, Rejection>) -> Option<Verdict> {
        match cleaned {
            Err(rejection) => Some(rejection.into()),
            Ok(cleaned) => {
                let logs_repairs =
                    self.config.dead_letter_mode == DeadLetterMode::RejectAndLogRepairs;
                (logs_repairs && !cleaned.repairs.is_empty()).then(|| (&cleaned.repairs).into())
            }
        }
    }
}

impl<S: Sink> Session<'_, S> {
    async fn work(
        &mut self,
        mut events: UnboundedReceiver<Event>,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        let consumer = self.consumer.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bookkeeping = tokio::time::interval(BOOKKEEPING);
        bookkeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut identity = tokio::time::interval(IDENTITY_CHECK);
        identity.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(event) = events.recv() => self.on_event(event)?,
                Some(done) = self.commits.join_next_with_id() => self.on_commit(done)?,
                Some(found) = self.assignments.join_next() => self.on_assigned(found)?,
                Some(found) = self.moves.join_next() => self.on_moved(found)?,
                Some(check) = self.checks.join_next() => upkeep::on_identity(check)?,
                () = self.worker.flush.notified() => self.flush(),
                _ = tick.tick() => self.on_tick(),
                _ = bookkeeping.tick() => self.bookkeeping(),
                _ = identity.tick() => self.check_identity(),
                received = consumer.recv(), if self.polls() => {
                    self.on_received(received)?;
                    for _ in 0..RUN {
                        let Some(received) = consumer.recv().now_or_never() else { break };
                        self.on_received(received)?;
                    }
                    self.keep_budget();
                }
            }
        }
    }

    /// Whether to poll the consumer: not for the first moments of full buffers, and while the
    /// partitions are paused.
    fn polls(&self) -> bool {
        self.full_since.is_none() || self.paused
    }

    fn on_received(
        &mut self,
        received: Result<BorrowedMessage<'_>, KafkaError>,
    ) -> Result<(), End> {
        match received {
            Ok(message) => self.on_message(&message)?,
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)) => {
                return Err(anyhow!(
                    "a position is not within the log: looking at all positions again"
                )
                .into());
            }
            Err(KafkaError::MessageConsumptionFatal(code)) => {
                return Err(anyhow!("the consumer can't go on: {code}").into());
            }
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                // Reported for every partition at every look at the cluster.
                if self
                    .missing_told
                    .is_none_or(|told| told.elapsed() > REMINDER)
                {
                    self.missing_told = Some(Instant::now());
                    tracing::warn!("a topic is not there: waiting until it is created");
                }
            }
            Err(error) => tracing::debug!(%error, "the consumer reports"),
        }
        Ok(())
    }

    fn on_message(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Halt> {
        let worker = self.worker;
        let Some((kind, topic)) = worker.topic(message.topic()) else {
            return Ok(());
        };
        let key = (kind, message.partition());
        let Some(lane) = self
            .lanes
            .get_mut(&key)
            .filter(|lane| lane.wants(message.offset()))
        else {
            return Ok(());
        };
        let raw = message.payload().unwrap_or_default();
        let time = message.timestamp().to_millis().unwrap_or(0);
        let place = Order {
            time,
            partition: message.partition(),
            offset: message.offset(),
        };
        let redriven = worker.redriven(kind, message, place);
        let order = redriven.map_or(place, |redriven| redriven.order);
        let cleaned = pinpipe_core::clean(kind, raw, worker.config.max_record_bytes as usize);
        worker.metrics.read(kind, &cleaned);
        if let (Err(rejection), DeadLetterMode::Fail) = (&cleaned, worker.config.dead_letter_mode) {
            // Its position stays before the record, wherever the consumer has got to.
            lane.drain();
            return Err(Halt::RecordRejected {
                source_name: lane.source().to_string(),
                offset: place.offset,
                reason: rejection.reason(),
                problem: rejection.to_string(),
            });
        }
        let batch = lane.take(place.offset, Instant::now(), |source| {
            worker.sink.batch(source)
        });
        if let Err(why) = batch.push(Consumed {
            raw,
            place,
            order,
            cleaned: &cleaned,
        }) {
            worker.metrics.unstorable(kind);
            tracing::warn!(source = %lane.source(), offset = place.offset, %why, "a record is left out of this sink");
        }
        if let (Some(verdict), Some(letters)) = (worker.verdict(&cleaned), &worker.dead_letters) {
            let record = (message.key(), message.payload());
            let letter = letters.send(
                &topic.dead_letter,
                lane.source(),
                place,
                record,
                (verdict, redriven),
            );
            lane.add_letter(letter, raw.len());
        }
        if lane.is_full(&worker.sink.limits()) {
            self.seal(key);
        }
        Ok(())
    }

    fn seal(&mut self, key: Key) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.seal(|source| self.worker.sink.batch(source));
            self.start_commit(key);
        }
    }

    fn start_commit(&mut self, key: Key) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        let Some((sealed, from)) = lane.start() else {
            return;
        };
        let source = lane.source().clone();
        let (sink, health, metrics) = (
            self.worker.sink.clone(),
            self.worker.health.clone(),
            self.worker.metrics.clone(),
        );
        let handle = self.commits.spawn(async move {
            (
                key,
                commit(
                    &*sink,
                    &health,
                    &metrics,
                    &source,
                    sealed,
                    from,
                    tokio::time::sleep,
                )
                .await,
            )
        });
        self.under_way.insert(key, handle);
    }

    fn on_commit(&mut self, done: Result<(Id, (Key, Outcome)), JoinError>) -> Result<(), End> {
        let (id, (key, outcome)) = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => return Err(anyhow!(error).context("a commit broke off").into()),
        };
        // The partition may have gone and come again since.
        if self
            .under_way
            .get(&key)
            .is_none_or(|handle| handle.id() != id)
        {
            return Ok(());
        }
        self.under_way.remove(&key);
        let Some(lane) = self.lanes.get_mut(&key) else {
            return Ok(());
        };
        match outcome {
            Outcome::Committed { to, stored } => {
                if lane.committed(to, stored) {
                    self.seek(key)?;
                }
                self.start_commit(key);
            }
            Outcome::Moved => {
                tracing::warn!(source = %lane.source(), "another worker has moved the position: reading on from there");
                lane.restart(lane.done(), lane.done());
                lane.drain();
                let topic = lane.source().topic.name.clone();
                let resume = self.resume();
                self.moves
                    .spawn(resume.run([((key.0, topic), vec![key.1])].into()));
            }
            Outcome::Halted(halt) => return Err(halt.into()),
        }
        self.keep_budget();
        self.finish_revoking();
        Ok(())
    }

    /// Makes the consumer go on where the lane does.
    fn seek(&self, key: Key) -> Result<(), End> {
        let Some(lane) = self.lanes.get(&key) else {
            return Ok(());
        };
        let (topic, partition) = (&lane.source().topic.name, lane.source().partition);
        tokio::task::block_in_place(|| {
            self.consumer.seek(
                topic,
                partition,
                Offset::Offset(lane.next()),
                Duration::from_secs(5),
            )
        })
        .map_err(|error| {
            anyhow!(error).context(format!(
                "{} can't be read from another place",
                lane.source()
            ))
        })?;
        Ok(())
    }

    /// Stores what is gathered before the worker stops.
    async fn drain(&mut self) {
        self.flush();
        let all = async {
            while let Some(done) = self.commits.join_next_with_id().await {
                if self.on_commit(done).is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::warn!(
                "what is gathered could not be stored in time: it is read again by the next worker"
            );
        }
        // Bounded by librdkafka's request time-out when the broker is away; what isn't committed
        // here costs a lag display some offsets.
        self.tell_group(CommitMode::Async);
    }
}
