//! The driver of a session. Commits and look-ups of where to resume run in tasks beside it. Reading
//! stops while the memory budget is used up: briefly by not polling, for longer by pausing
//! partitions, since the group expels a consumer that doesn't poll.

mod ending;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use pinpipe_core::Kind;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::{AbortHandle, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    bridge::Bridge,
    consume,
    letters::commit_letters,
    problems::Problems,
    state::{Action, DRAIN_TIMEOUT, Group, Health, Key, State},
};
use crate::{
    clock::Clock,
    commit::{Answered, commit},
    dead_letter::Writer,
    log::{Event, Message, Position, ReadError, Reader, TopicPartition},
    reset,
    resume::{Assigned, Found, Resume},
    sink::{Sink, Source, Topic},
};

/// The interval at which positions are committed to the group.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// The interval at which the topics' ids are compared.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(2);
/// The interval at which all positions are committed to the group of the dead letters: brokers
/// forget those of a group without members after some days (`offsets.retention.minutes`).
const RENEWAL_INTERVAL: Duration = Duration::from_hours(1);
/// Records read in one turn of the loop, and their bytes.
const RECORDS_PER_TURN: usize = 1024;
const BYTES_PER_TURN: usize = 1 << 20;

/// The end of a commit: its number, the answers, the time it took.
type Committed<B, D> = (u64, Vec<Answered<B, D>>, Duration);

/// A session.
pub struct Session<S: Sink, W: Writer, R, C> {
    worker: Arc<Worker<S, W>>,
    log: R,
    events: UnboundedReceiver<Event>,
    clock: C,
    stop: CancellationToken,
    pub(crate) state: State<S::Batch, W::Sent>,
    commits: JoinSet<Committed<S::Batch, W::Sent>>,
    /// The commits and look-ups under way, by their numbers.
    in_flight: HashMap<u64, AbortHandle>,
    pub(crate) look_ups: JoinSet<(u64, Vec<Found>)>,
    checks: JoinSet<anyhow::Result<bool>>,
    letters: JoinSet<Vec<(Source, Option<Position>)>>,
    problems: Problems,
    /// Ends before the first look-up.
    bridge: Option<Bridge>,
    reported: Health,
    bookkeeping_at: Instant,
    identity_at: Instant,
    renewal_at: Instant,
    /// How long buffered records may take to be stored once the worker stops.
    drain_timeout: Duration,
    /// Once the worker stops: until when buffered records may be stored.
    drains_until: Option<Instant>,
}

impl<S: Sink, W: Writer, R: Reader, C: Clock> Session<S, W, R, C> {
    /// A session of a worker that reads from `log`, until `stop`.
    pub fn new(
        worker: Arc<Worker<S, W>>,
        log: R,
        events: UnboundedReceiver<Event>,
        clock: C,
        stop: CancellationToken,
    ) -> Self {
        let sink = worker.sink.clone();
        let topics = worker.topics();
        let state = State::new(
            topics.map(|(kind, topic)| (kind, topic.name.clone())),
            sink.limits(),
            worker.budget,
            move |source| sink.batch(source),
        );
        let problems = Problems::new(worker.metrics.clone(), worker.readiness.clone());
        let now = clock.now();
        Self {
            worker,
            log,
            events,
            clock,
            stop,
            state,
            commits: JoinSet::new(),
            in_flight: HashMap::new(),
            look_ups: JoinSet::new(),
            checks: JoinSet::new(),
            letters: JoinSet::new(),
            problems,
            bridge: None,
            reported: Health::Unknown,
            bookkeeping_at: now,
            identity_at: now,
            renewal_at: now + RENEWAL_INTERVAL,
            drain_timeout: DRAIN_TIMEOUT,
            drains_until: None,
        }
    }

    /// The session whose buffered records may take so long to be stored once the worker stops.
    #[must_use]
    pub fn drains_within(self, drain_timeout: Duration) -> Self {
        Self {
            drain_timeout,
            ..self
        }
    }

    /// The session that goes on where `bridge` ends.
    #[must_use]
    pub fn after(self, bridge: Bridge) -> Self {
        Self {
            bridge: Some(bridge),
            ..self
        }
    }

    /// Reads partitions that no group assigns.
    pub fn assign(&mut self, partitions: Vec<TopicPartition>) {
        self.state.on_assign(partitions);
    }

    /// Does what is due, waits for the next thing to happen, and notes it. False once the worker
    /// has stopped and its records are stored. An error says why the session must be restarted.
    /// The future may be dropped while it waits.
    pub async fn turn(&mut self) -> anyhow::Result<bool> {
        let drains = self.drains_until.is_some() && self.state.is_drained();
        let drained = drains && self.state.commit_letters();
        self.proceed()?;
        // A gap at the end of the log may be on its way to the sink now.
        if self.has_ended(drained && self.state.is_drained()) {
            return Ok(false);
        }
        let (runs, due) = (self.drains_until.is_none(), self.due_at());
        let bridged = self.is_bridged();
        let log = self.log.clone();
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if runs => self.drain(),
            Some(event) = self.events.recv(), if runs => self.on_event(event),
            Some(done) = self.commits.join_next() => self.on_committed(done)?,
            Some(found) = self.look_ups.join_next(), if runs => self.on_found(found)?,
            Some(done) = self.letters.join_next() => self.on_letters_committed(done)?,
            Some(check) = self.checks.join_next(), if runs => on_identity(check)?,
            () = self.worker.flush.notified(), if !bridged => self.flush(),
            () = self.clock.sleep_until(due) => {}
            read = log.read(), if runs && self.state.reads() => {
                let now = self.clock.now();
                let mut bytes = self.on_read(read, now)?;
                for read in log.fetched().take(RECORDS_PER_TURN) {
                    bytes += self.on_read(read, now)?;
                    if bytes > BYTES_PER_TURN {
                        break;
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether another session of this worker still reads.
    fn is_bridged(&self) -> bool {
        self.bridge.as_ref().is_some_and(|bridge| !bridge.is_over())
    }

    /// When [`Self::proceed`] has something to do next.
    fn due_at(&self) -> Instant {
        let mut due = self.bookkeeping_at.min(self.identity_at);
        for at in [self.state.due_at(), self.drains_until] {
            due = at.map_or(due, |at| at.min(due));
        }
        due
    }

    /// Lets the state machine go on, and does what it asks for.
    fn proceed(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        if self.bookkeeping_at <= now {
            self.bookkeeping_at = now + COMMIT_INTERVAL;
            self.bookkeeping();
        }
        if self.identity_at <= now {
            self.identity_at = now + IDENTITY_INTERVAL;
            self.check_identity();
        }
        self.state.proceed(now);
        while let Some(action) = self.state.next_action() {
            self.act(action)?;
        }
        if !self.is_bridged() {
            let metrics = &self.worker.metrics;
            let bytes = i64::try_from(self.state.bytes()).unwrap_or(i64::MAX);
            metrics.buffered_bytes.set(bytes);
            metrics.paused.set(i64::from(self.state.is_paused()));
        }
        self.report(now);
        ensure!(
            !self.problems.is_due(),
            "a permission was missing: trying again"
        );
        Ok(())
    }

    fn report(&mut self, now: Instant) {
        let health = self.state.health(now);
        if health == self.reported {
            return;
        }
        let worker = &self.worker;
        match &health {
            Health::Unknown => return,
            Health::Running => {
                worker.readiness.set(Ok(()));
                worker.metrics.halted(None);
                self.problems.running();
            }
            Health::Halted(halt) => {
                let why = reset::explain(halt, &worker.config);
                tracing::error!(reason = halt.reason(), "{why}");
                worker.metrics.halted(Some(halt.reason()));
                worker.readiness.set(Err(why));
            }
        }
        self.reported = health;
    }

    fn act(&mut self, action: Action<S::Batch, W::Sent>) -> anyhow::Result<()> {
        match action {
            Action::LookUp {
                id,
                assigned,
                stamped_by_producers,
            } => self.look_up(id, assigned, stamped_by_producers),
            Action::Assign(partitions) => self
                .log
                .assign(&partitions)
                .context("an assignment was refused")?,
            Action::Unassign(partitions) => self
                .log
                .unassign(&partitions)
                .context("partitions could not be released")?,
            Action::Seek(partition, to) => self.log.seek(&partition, to)?,
            Action::Pause(partitions) => self.log.pause(&partitions)?,
            Action::Unpause(partitions) => self.log.unpause(&partitions)?,
            Action::Commit(group) => self.commit(group),
            Action::Abort(id) => {
                if let Some(handle) = self.in_flight.remove(&id) {
                    handle.abort();
                }
            }
            Action::CommitPositions(positions) => self.commit_positions(&positions),
            Action::CommitLetters(positions) => {
                let log = self.log.clone();
                self.letters
                    .spawn(async move { commit_letters(&log, positions).await });
            }
            Action::Released((topic, partition)) => {
                self.worker.metrics.remove_partition(&topic, partition);
            }
        }
        Ok(())
    }

    fn look_up(&mut self, id: u64, assigned: Assigned, stamped_by_producers: bool) {
        let resume = Resume {
            log: self.log.clone(),
            clock: self.clock.clone(),
            sink: self.worker.sink.clone(),
            health: self.worker.health.clone(),
            readiness: self.worker.readiness.clone(),
            reset: self.worker.reset.clone(),
            writes_dead_letters: self.worker.config.writes_dead_letters,
            stamped_by_producers,
        };
        let bridge = self.bridge.clone();
        let handle = self.look_ups.spawn(async move {
            if let Some(bridge) = bridge {
                bridge.end().await;
            }
            (id, resume.run(assigned).await)
        });
        self.in_flight.insert(id, handle);
    }

    fn commit(&mut self, group: Group<S::Batch, W::Sent>) {
        let (sink, health, metrics) = (
            self.worker.sink.clone(),
            self.worker.health.clone(),
            self.worker.metrics.clone(),
        );
        let (id, clock) = (group.id, self.clock.clone());
        let handle = self.commits.spawn(async move {
            let (answers, took) = commit(&*sink, &health, &metrics, group, &clock).await;
            (id, answers, took)
        });
        self.in_flight.insert(id, handle);
    }

    /// Commits positions to the group, for displays of the consumer lag and for the batch worker,
    /// which waits for the archive's positions. With an unavailable broker this takes up to
    /// librdkafka's request timeout. Without it only displays of the lag are a little behind.
    fn commit_positions(&mut self, positions: &[(TopicPartition, Position)]) {
        if positions.is_empty() {
            return;
        }
        if let Err(error) = self.log.commit(positions) {
            tracing::debug!(
                error = format!("{error:#}"),
                "positions can't be committed to the group: retrying"
            );
            self.state.on_commit_failed();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Assign(partitions) => self.state.on_assign(partitions),
            Event::Revoke { partitions, lost } => {
                self.state.on_revoke(partitions, lost, self.clock.now());
            }
            Event::CommitFailed(error) => {
                tracing::debug!(error, "positions were not committed to the group: retrying");
                self.state.on_commit_failed();
            }
            Event::Statistics { unreachable, ends } => self.on_statistics(unreachable, &ends),
        }
    }

    fn on_committed(
        &mut self,
        done: Result<Committed<S::Batch, W::Sent>, JoinError>,
    ) -> anyhow::Result<()> {
        match done {
            Ok((id, answers, took)) => {
                self.in_flight.remove(&id);
                self.state.on_committed(id, answers, took, self.clock.now());
                Ok(())
            }
            Err(error) if error.is_cancelled() => Ok(()),
            Err(error) => Err(anyhow!(error).context("a commit task failed")),
        }
    }

    fn on_found(&mut self, found: Result<(u64, Vec<Found>), JoinError>) -> anyhow::Result<()> {
        match found {
            Ok((id, found)) => {
                self.in_flight.remove(&id);
                self.state.on_found(id, found, self.clock.now());
                Ok(())
            }
            Err(error) if error.is_cancelled() => {
                // The right that it may have lacked is another worker's matter now.
                self.problems.running();
                Ok(())
            }
            Err(error) => Err(anyhow!(error).context("the look-up of where to resume failed")),
        }
    }

    /// Returns the bytes read.
    fn on_read(
        &mut self,
        read: Result<impl Message, ReadError>,
        now: Instant,
    ) -> anyhow::Result<usize> {
        match read {
            Ok(message) => {
                consume(&self.worker, &mut self.state, &message, now);
                Ok(message.value().map_or(0, <[u8]>::len))
            }
            Err(ReadError::OutOfRange) => Err(anyhow!(
                "a position is outside the log: checking all positions again"
            )),
            Err(ReadError::Fatal(error)) => Err(anyhow!("the consumer can't go on: {error}")),
            Err(ReadError::Problem {
                code,
                sentence,
                forbidden,
            }) => {
                self.problems.report(&code, &sentence, forbidden);
                Ok(0)
            }
        }
    }

    fn flush(&mut self) {
        self.state.on_positions(&self.log.positions());
        self.state.flush(self.clock.now());
    }

    fn bookkeeping(&mut self) {
        self.state.on_positions(&self.log.positions());
        let positions = self.state.positions_to_commit();
        self.commit_positions(&positions);
        let now = self.clock.now();
        if self.renewal_at <= now {
            self.renewal_at = now + RENEWAL_INTERVAL;
            self.state.renew_letters();
        }
        self.state.retry_letters();
    }

    fn on_letters_committed(
        &mut self,
        done: Result<Vec<(Source, Option<Position>)>, JoinError>,
    ) -> anyhow::Result<()> {
        let committed = done.context("a commit of the dead letters' positions failed")?;
        self.state.on_letters_committed(committed);
        Ok(())
    }

    fn check_identity(&mut self) {
        if !self.checks.is_empty() {
            return;
        }
        let topics = self.state.buffers();
        let mut topics: Vec<Arc<Topic>> = topics
            .map(|(_, buffer)| buffer.source().topic.clone())
            .collect();
        topics.dedup();
        if !topics.is_empty() {
            let log = self.log.clone();
            self.checks
                .spawn(async move { log.same_identity(topics).await });
        }
    }

    fn on_statistics(&self, unreachable: Option<String>, ends: &[(TopicPartition, Position)]) {
        let metrics = &self.worker.metrics;
        metrics.broker_up.set(i64::from(unreachable.is_none()));
        self.problems.connected(unreachable);
        let done: HashMap<Key, Position> = self
            .state
            .buffers()
            .map(|(key, buffer)| (key, buffer.done().max(buffer.stored())))
            .collect();
        for ((topic, partition), end) in ends {
            let key = |(kind, _): (Kind, _)| (kind, *partition);
            if let Some(done) = self
                .worker
                .topic(topic)
                .and_then(|topic| done.get(&key(topic)))
            {
                let lag = end.next_offset() - done.next_offset();
                metrics.lag(topic, *partition, lag.max(0));
            }
        }
    }
}

fn on_identity(check: Result<anyhow::Result<bool>, JoinError>) -> anyhow::Result<()> {
    match check {
        Ok(Ok(false)) => Err(anyhow!(
            "a topic or its cluster was replaced: checking all positions again"
        )),
        Ok(Err(error)) => {
            tracing::debug!(
                error = format!("{error:#}"),
                "the topics' ids can't be compared: retrying"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}
