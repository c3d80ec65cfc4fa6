//! A session: one membership in the consumer group, from joining to leaving.
//!
//! Consume → clean → batch → commit. One task owns all state. Commits and look-ups of where to
//! resume run in tasks beside it, which return results. Consumption stops while the byte budget is
//! used up: briefly by not polling, for longer by pausing the partitions, since the group expels a
//! consumer that doesn't poll.

mod rebalance;
mod upkeep;
mod worker;

pub use worker::Worker;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures::FutureExt;
use pinpipe_config::DeadLetterMode;
use pinpipe_core::{Kind, Order};
use rdkafka::{
    Message, Offset,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    buffer::PartitionBuffer,
    commit::{Outcome, REMINDER, commit},
    consumer::{Connected, Consumer, Event, TopicPartition, connect},
    resume::Start,
    sink::{Batch, Consumed, Halt, Sink},
};

/// The interval at which batches are checked for their age.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// The interval at which offsets are committed to the group.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// The interval at which the topics' ids are compared.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(2);
/// How long buffered records may take to be stored when partitions are revoked or the worker stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long leaving the group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a halted worker must run again before it counts as resumed: one that halts at a record
/// reads up to it on every attempt.
const PROBATION: Duration = Duration::from_secs(5);
/// Records read in one turn of the loop.
const RECORDS_PER_TURN: usize = 256;

/// Why a session ended before the worker was stopped.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The sink must stop.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The session must be restarted.
    #[error("{0:#}")]
    Restart(#[from] anyhow::Error),
}

type Key = (Kind, i32);

struct Session<'a, S: Sink> {
    worker: &'a Worker<S>,
    resumed: &'a dyn Fn(),
    /// When to call `resumed`.
    resumes_at: Option<Instant>,
    consumer: Arc<Consumer>,
    buffers: HashMap<Key, PartitionBuffer<S::Batch>>,
    commits: JoinSet<(Key, Outcome)>,
    in_flight: HashMap<Key, AbortHandle>,
    /// Look-ups of where assigned partitions resume. The group waits for the result.
    assignments: JoinSet<Result<Vec<Start>, Halt>>,
    /// Look-ups of where partitions resume whose position another worker has moved.
    moves: JoinSet<Result<Vec<Start>, Halt>>,
    /// Revoked partitions, to be released once they are drained, and the deadline for that.
    revoking: Option<(Vec<TopicPartition>, Instant)>,
    checks: JoinSet<anyhow::Result<bool>>,
    full_since: Option<Instant>,
    paused: bool,
    missing_logged: Option<Instant>,
}

/// The result of a look-up of where to resume.
type Resumed = Result<Result<Vec<Start>, Halt>, JoinError>;

/// Runs one session until `stop`. Calls `resumed` whenever assigned partitions have been consumed
/// for [`PROBATION`].
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
        buffers: HashMap::new(),
        commits: JoinSet::new(),
        in_flight: HashMap::new(),
        assignments: JoinSet::new(),
        moves: JoinSet::new(),
        revoking: None,
        checks: JoinSet::new(),
        full_since: None,
        paused: false,
        missing_logged: None,
    };
    let ended = session.run_loop(events, stop).await;
    if matches!(ended, Ok(()) | Err(End::Halt(Halt::RecordRejected { .. }))) {
        session.drain().await;
    }
    session.drop_all();
    drop(session);
    closing.store(true, Ordering::SeqCst);
    leave(consumer).await;
    ended
}

/// Leaves the group. Dropping the consumer blocks, so a thread of its own does it; after
/// [`LEAVE_TIMEOUT`] the process no longer waits for it.
async fn leave(consumer: Arc<Consumer>) {
    let (done, left) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(consumer);
        let _ = done.send(());
    });
    if tokio::time::timeout(LEAVE_TIMEOUT, left).await.is_err() {
        tracing::warn!(
            "leaving the consumer group timed out: its partitions move to other workers when the \
             group's session expires"
        );
    }
}

impl<S: Sink> Session<'_, S> {
    async fn run_loop(
        &mut self,
        mut events: UnboundedReceiver<Event>,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        let consumer = self.consumer.clone();
        let mut tick = tokio::time::interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bookkeeping = tokio::time::interval(COMMIT_INTERVAL);
        bookkeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut identity = tokio::time::interval(IDENTITY_INTERVAL);
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
                    for _ in 0..RECORDS_PER_TURN {
                        let Some(received) = consumer.recv().now_or_never() else { break };
                        self.on_received(received)?;
                    }
                    self.enforce_budget();
                }
            }
        }
    }

    /// Whether to poll the consumer: always, except between the moment the buffers are full and the
    /// moment the partitions are paused.
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
                return Err(
                    anyhow!("a position is outside the log: checking all positions again").into(),
                );
            }
            Err(KafkaError::MessageConsumptionFatal(code)) => {
                return Err(anyhow!("the consumer can't go on: {code}").into());
            }
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                // Reported for every partition at every metadata refresh.
                if self
                    .missing_logged
                    .is_none_or(|logged| logged.elapsed() > REMINDER)
                {
                    self.missing_logged = Some(Instant::now());
                    tracing::warn!("a topic does not exist: waiting until it is created");
                }
            }
            Err(error) => tracing::debug!(%error, "the consumer reports an error"),
        }
        Ok(())
    }

    fn on_message(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Halt> {
        let worker = self.worker;
        let Some((kind, topic)) = worker.topic(message.topic()) else {
            return Ok(());
        };
        let key = (kind, message.partition());
        let Some(buffer) = self
            .buffers
            .get_mut(&key)
            .filter(|buffer| buffer.accepts(message.offset()))
        else {
            return Ok(());
        };
        let raw = message.payload().unwrap_or_default();
        let time = message.timestamp().to_millis().unwrap_or(0);
        let position = Order {
            time,
            partition: message.partition(),
            offset: message.offset(),
        };
        let redriven = worker.redriven(kind, message, position);
        let order = redriven.map_or(position, |redriven| redriven.order);
        let cleaned = pinpipe_core::clean(kind, raw, worker.config.max_record_bytes as usize);
        worker.metrics.read(kind, &cleaned);
        if let (Err(rejection), DeadLetterMode::Fail) = (&cleaned, worker.config.dead_letter_mode) {
            // Keeps the partition's position before the record, whatever the consumer has read.
            buffer.drain();
            return Err(Halt::RecordRejected {
                source_name: buffer.source().to_string(),
                offset: position.offset,
                reason: rejection.reason(),
                problem: rejection.to_string(),
            });
        }
        let batch = buffer.batch_for(position.offset, Instant::now(), |source| {
            worker.sink.batch(source)
        });
        if let Err(why) = batch.push(Consumed {
            raw,
            position,
            after: crate::log::Position::offset(position.offset + 1),
            order,
            cleaned: &cleaned,
        }) {
            worker.metrics.unstorable(kind);
            tracing::warn!(
                source = %buffer.source(),
                offset = position.offset,
                %why,
                "a record can't be stored in this sink and is left out"
            );
        }
        if let (Some(verdict), Some(producer)) = (worker.verdict(&cleaned), &worker.dead_letters) {
            let record = (message.key(), message.payload());
            let dead_letter = producer.send(
                &topic.dead_letter,
                buffer.source(),
                position,
                record,
                (verdict, redriven),
            );
            buffer.add_dead_letter(dead_letter, raw.len());
        }
        if buffer.is_full(&worker.sink.limits()) {
            self.seal(key);
        }
        Ok(())
    }

    fn seal(&mut self, key: Key) {
        if let Some(buffer) = self.buffers.get_mut(&key) {
            buffer.seal(|source| self.worker.sink.batch(source));
            self.start_commit(key);
        }
    }

    fn start_commit(&mut self, key: Key) {
        let Some(buffer) = self.buffers.get_mut(&key) else {
            return;
        };
        let Some((sealed, from)) = buffer.start() else {
            return;
        };
        let source = buffer.source().clone();
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
        self.in_flight.insert(key, handle);
    }

    fn on_commit(&mut self, done: Result<(Id, (Key, Outcome)), JoinError>) -> Result<(), End> {
        let (id, (key, outcome)) = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => return Err(anyhow!(error).context("a commit task failed").into()),
        };
        // The partition may have been revoked and assigned again since.
        if self
            .in_flight
            .get(&key)
            .is_none_or(|handle| handle.id() != id)
        {
            return Ok(());
        }
        self.in_flight.remove(&key);
        let Some(buffer) = self.buffers.get_mut(&key) else {
            return Ok(());
        };
        match outcome {
            Outcome::Committed { to, stored } => {
                if buffer.committed(to, stored) {
                    self.seek(key)?;
                }
                self.start_commit(key);
            }
            Outcome::Moved => {
                tracing::warn!(
                    source = %buffer.source(),
                    "another worker has moved the position: continuing from there"
                );
                buffer.restart(buffer.done(), buffer.done());
                buffer.drain();
                let topic = buffer.source().topic.name.clone();
                let resume = self.resume();
                self.moves
                    .spawn(resume.run([((key.0, topic), vec![key.1])].into()));
            }
            Outcome::Halted(halt) => return Err(halt.into()),
        }
        self.enforce_budget();
        self.finish_revoking();
        Ok(())
    }

    /// Makes the consumer continue at the buffer's next offset.
    fn seek(&self, key: Key) -> Result<(), End> {
        let Some(buffer) = self.buffers.get(&key) else {
            return Ok(());
        };
        let (topic, partition) = (&buffer.source().topic.name, buffer.source().partition);
        tokio::task::block_in_place(|| {
            self.consumer.seek(
                topic,
                partition,
                Offset::Offset(buffer.next()),
                Duration::from_secs(5),
            )
        })
        .map_err(|error| {
            anyhow!(error).context(format!("seeking in {} failed", buffer.source()))
        })?;
        Ok(())
    }

    /// Stores the buffered records before the worker stops.
    async fn drain(&mut self) {
        self.flush();
        let all = async {
            while let Some(done) = self.commits.join_next_with_id().await {
                if self.on_commit(done).is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, all).await.is_err() {
            tracing::warn!(
                "buffered records could not be stored in time: the next worker reads them again"
            );
        }
        // With an unavailable broker this takes up to librdkafka's request timeout. Without it only
        // displays of the consumer lag are a little behind.
        self.commit_offsets(CommitMode::Async);
    }
}
