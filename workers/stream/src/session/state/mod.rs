//! The session as a state machine without I/O. It hears of assignments, results, read records and
//! the time, and answers with [`Action`]s for its driver.

mod memory;
mod pace;
mod refused;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use pinpipe_core::Kind;

use self::{memory::Memory, pace::Table, refused::Refused};
use crate::{
    buffer::{PartitionBuffer, Sealed},
    log::{Position, TopicPartition},
    resume::{Assigned, Found, Start},
    sink::{Answer, Batch, Halt, Limits, Refusal, Source, Topic},
};

/// How long buffered records may take to be stored when partitions are revoked or the worker stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a halted partition must run again before it counts as resumed: one that halts at a
/// record reads up to it on every attempt.
pub const PROBATION: Duration = Duration::from_secs(5);
/// The delay before a halted partition is tried again: somebody may have reset it meanwhile.
pub const HALT_RETRY_DELAY: Duration = Duration::from_secs(30);

/// A partition.
pub type Key = (Kind, i32);

/// What the driver must do, in this order.
pub enum Action<B, D> {
    /// Look up where partitions resume, and report it as [`State::on_found`].
    LookUp {
        /// The look-up's number.
        id: u64,
        /// The partitions.
        assigned: Assigned,
        /// Whether records stamped by producers were met.
        stamped_by_producers: bool,
    },
    /// Answer the group's assignment.
    Assign(Vec<(TopicPartition, Option<Position>)>),
    /// Answer the group's revocation.
    Unassign(Vec<TopicPartition>),
    /// Read on at a position.
    Seek(TopicPartition, Position),
    /// Stop reading partitions.
    Pause(Vec<TopicPartition>),
    /// Read partitions again.
    Unpause(Vec<TopicPartition>),
    /// Commit a group of batches, and report the answers as [`State::on_committed`].
    Commit(Group<B, D>),
    /// Abort the commit with this number: nobody waits for it any more.
    Abort(u64),
    /// Commit positions to the consumer group.
    CommitPositions(Vec<(TopicPartition, Position)>),
    /// The partition is read by another worker now.
    Released(TopicPartition),
}

/// Batches to commit together.
pub struct Group<B, D> {
    /// The commit's number.
    pub id: u64,
    /// Their topic.
    pub topic: Arc<Topic>,
    /// The batches.
    pub members: Vec<Member<B, D>>,
}

/// A batch of a group.
pub struct Member<B, D> {
    key: Key,
    /// The buffer that the batch comes from. The partition may get another one meanwhile.
    generation: u64,
    /// The batch.
    pub sealed: Sealed<B, D>,
    /// The position the sink must have.
    pub from: Position,
}

impl<B, D> Member<B, D> {
    /// The partition's number.
    pub const fn partition(&self) -> i32 {
        self.key.1
    }
}

/// How the session does, for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet.
    Unknown,
    /// All partitions are read.
    Running,
    /// A partition is halted.
    Halted(Halt),
}

struct Partition<B, D> {
    topic: String,
    /// None while it is looked up where to resume, and while the partition is halted.
    buffer: Option<PartitionBuffer<B, D>>,
    generation: u64,
    /// The look-up that is waited for.
    look_up: Option<u64>,
    halted: Option<Halted>,
    paused: bool,
    /// Records before it that their producers stamped are of the time before the broker stamped
    /// this topic's records.
    history: Position,
    /// Refused records, by the position behind each: their dead letters are written when they are
    /// read again.
    set_aside: BTreeMap<Position, Refusal>,
    refused: Refused,
}

struct Halted {
    halt: Halt,
    next: Next,
}

#[derive(Clone, Copy)]
enum Next {
    /// Try again then.
    Retry(Instant),
    /// The result of the look-up.
    Found,
    /// Count as resumed then.
    Resumed(Instant),
}

impl<B, D> Partition<B, D> {
    fn is_stopped(&self) -> bool {
        self.halted
            .as_ref()
            .is_some_and(|halted| !matches!(halted.next, Next::Resumed(_)))
    }
}

/// The state of a session.
pub struct State<B, D> {
    topics: BTreeMap<Kind, String>,
    limits: Limits,
    empty: Box<dyn Fn(&Source) -> B + Send>,
    partitions: BTreeMap<Key, Partition<B, D>>,
    tables: BTreeMap<Table, pace::Pace>,
    memory: Memory,
    /// Look-ups whose result answers an assignment of the group.
    assignments: BTreeSet<u64>,
    /// Revoked partitions, to be released once they are drained, and the deadline for that.
    revoking: Option<(Vec<TopicPartition>, Instant)>,
    /// When the session counts as running.
    running_at: Option<Instant>,
    last_id: u64,
    actions: VecDeque<Action<B, D>>,
}

impl<B: Batch, D> State<B, D> {
    /// A session without partitions.
    pub fn new(
        topics: impl IntoIterator<Item = (Kind, String)>,
        limits: Limits,
        budget: usize,
        empty: impl Fn(&Source) -> B + Send + 'static,
    ) -> Self {
        Self {
            topics: topics.into_iter().collect(),
            limits,
            empty: Box::new(empty),
            partitions: BTreeMap::new(),
            tables: BTreeMap::new(),
            memory: Memory::new(budget),
            assignments: BTreeSet::new(),
            revoking: None,
            running_at: None,
            last_id: 0,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action<B, D>> {
        self.actions.pop_front()
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn kind(&self, topic: &str) -> Option<Kind> {
        let mut topics = self.topics.iter();
        topics.find_map(|(kind, name)| (name == topic).then_some(*kind))
    }

    fn keys(&self, partitions: &[TopicPartition]) -> Vec<Key> {
        let key = |(topic, partition): &TopicPartition| Some((self.kind(topic)?, *partition));
        partitions.iter().filter_map(key).collect()
    }

    /// The buffer for the record before `after`; none if the record is not wanted.
    pub fn accept(&mut self, key: Key, after: Position) -> Option<&mut PartitionBuffer<B, D>> {
        let buffer = self.partitions.get_mut(&key)?.buffer.as_mut()?;
        buffer.accepts(after).then_some(buffer)
    }

    /// The refusal of the record before `after`, which is to be set aside.
    #[must_use]
    pub fn refusal(&self, key: Key, after: Position) -> Option<&Refusal> {
        self.partitions.get(&key)?.set_aside.get(&after)
    }

    /// Whether a record before `after` that its producer has stamped is of the time before the
    /// broker stamped this topic's records.
    #[must_use]
    pub fn is_history(&self, key: Key, after: Position) -> bool {
        self.partitions
            .get(&key)
            .is_some_and(|partition| after <= partition.history)
    }

    /// A record of the partition was pushed.
    pub fn on_pushed(&mut self, key: Key, now: Instant) {
        if let Some(buffer) = self.buffer(key)
            && buffer.is_full(&self.limits)
        {
            self.seal(key, now);
        }
    }

    fn buffer(&self, key: Key) -> Option<&PartitionBuffer<B, D>> {
        self.partitions.get(&key)?.buffer.as_ref()
    }

    /// All buffers.
    pub fn buffers(&self) -> impl Iterator<Item = (Key, &PartitionBuffer<B, D>)> {
        let buffers = self.partitions.iter();
        buffers.filter_map(|(key, partition)| Some((*key, partition.buffer.as_ref()?)))
    }

    fn seal(&mut self, key: Key, now: Instant) {
        if let Some(Partition {
            buffer: Some(buffer),
            ..
        }) = self.partitions.get_mut(&key)
        {
            buffer.seal(now, &self.empty);
        }
    }

    /// Stores everything buffered at once.
    pub fn flush(&mut self, now: Instant) {
        for key in self.partitions.keys().copied().collect::<Vec<_>>() {
            self.seal(key, now);
        }
    }

    /// Whether nothing waits to be stored.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.buffers().all(|(_, buffer)| buffer.is_empty())
    }

    /// The reader's positions, which move over gaps in the log without a record.
    pub fn on_positions(&mut self, positions: &[(TopicPartition, Position)]) {
        for ((topic, number), position) in positions {
            if let Some(kind) = self.kind(topic)
                && let Some(partition) = self.partitions.get_mut(&(kind, *number))
                && let Some(buffer) = &mut partition.buffer
            {
                buffer.advance(*position);
            }
        }
    }

    /// The positions to commit to the consumer group, which are taken for committed.
    pub fn positions_to_commit(&mut self) -> Vec<(TopicPartition, Position)> {
        let mut positions = Vec::new();
        for ((_, number), partition) in &mut self.partitions {
            if let Some(buffer) = &mut partition.buffer
                && let Some(position) = buffer.position_to_commit()
            {
                buffer.set_group_position(Some(position));
                positions.push(((partition.topic.clone(), *number), position));
            }
        }
        positions
    }

    /// Positions were not committed to the group: they are committed again.
    pub fn on_commit_failed(&mut self) {
        for partition in self.partitions.values_mut() {
            if let Some(buffer) = &mut partition.buffer {
                buffer.set_group_position(None);
            }
        }
    }

    /// The group assigns partitions.
    pub fn on_assign(&mut self, partitions: Vec<TopicPartition>) {
        let mut assigned = Assigned::new();
        for (topic, partition) in partitions {
            if let Some(kind) = self.kind(&topic) {
                assigned.entry((kind, topic)).or_default().push(partition);
            }
        }
        let id = self.id();
        self.assignments.insert(id);
        self.actions.push_back(Action::LookUp {
            id,
            assigned,
            stamped_by_producers: false,
        });
    }

    /// It was found out where partitions resume.
    pub fn on_found(&mut self, id: u64, found: Vec<Found>, now: Instant) {
        let answers_group = self.assignments.remove(&id);
        if answers_group {
            self.running_at = Some(now + PROBATION);
            let mut partitions = Vec::new();
            for one in &found {
                let Some(topic) = self.topics.get(&one.kind).cloned() else {
                    continue;
                };
                let fetch = one.start.as_ref().ok().map(|start| start.fetch);
                partitions.push(((topic.clone(), one.partition), fetch));
                let partition = Partition {
                    topic,
                    buffer: None,
                    generation: 0,
                    look_up: Some(id),
                    halted: None,
                    paused: false,
                    history: Position::START,
                    set_aside: BTreeMap::new(),
                    refused: Refused::default(),
                };
                self.partitions.insert((one.kind, one.partition), partition);
            }
            self.actions.push_back(Action::Assign(partitions));
        }
        for one in found {
            let key = (one.kind, one.partition);
            let waits = |partition: &Partition<B, D>| partition.look_up == Some(id);
            // It may have been revoked, or looked up again meanwhile.
            if !self.partitions.get(&key).is_some_and(waits) || self.is_revoked(key) {
                continue;
            }
            match one.start {
                Ok(start) => {
                    let fetch = start.fetch;
                    self.open(key, start, now);
                    if !answers_group {
                        self.seek(key, fetch);
                    }
                }
                Err(halt) => self.halt(key, halt, now),
            }
        }
    }

    fn open(&mut self, key: Key, start: Start, now: Instant) {
        let generation = self.id();
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        tracing::info!(
            source = %start.source,
            stored = %start.stored,
            next = %start.fetch,
            "resuming"
        );
        partition.generation = generation;
        partition.look_up = None;
        partition.history = partition.history.max(start.history);
        if let Some(halted) = &mut partition.halted {
            halted.next = Next::Resumed(now + PROBATION);
        }
        partition.buffer = Some(PartitionBuffer::new(
            start.source,
            start.stored,
            start.fetch,
            start.committed,
        ));
    }

    fn seek(&mut self, key: Key, to: Position) {
        if let Some(partition) = self.partitions.get(&key) {
            let partition = (partition.topic.clone(), key.1);
            self.actions.push_back(Action::Seek(partition, to));
        }
    }

    /// Looks up again where a partition resumes; what is buffered of it is read again.
    fn look_up(&mut self, key: Key, stamped_by_producers: bool) {
        let id = self.id();
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        partition.buffer = None;
        partition.look_up = Some(id);
        let assigned = [((key.0, partition.topic.clone()), vec![key.1])].into();
        self.actions.push_back(Action::LookUp {
            id,
            assigned,
            stamped_by_producers,
        });
    }

    /// A record was met that its producer has stamped and that is not known to be history.
    pub fn on_stamped_by_producer(&mut self, key: Key) {
        self.look_up(key, true);
    }

    /// Halts a partition; what is buffered of it is read again.
    pub fn halt(&mut self, key: Key, halt: Halt, now: Instant) {
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.buffer = None;
            partition.look_up = None;
            partition.halted = Some(Halted {
                halt,
                next: Next::Retry(now + HALT_RETRY_DELAY),
            });
        }
    }

    /// Halts a partition before the record that is read next; what is buffered is stored.
    pub fn halt_before_next(&mut self, key: Key, halt: Halt, now: Instant) {
        self.seal(key, now);
        if let Some(partition) = self.partitions.get_mut(&key) {
            if let Some(buffer) = &mut partition.buffer {
                buffer.drain();
            }
            partition.halted = Some(Halted {
                halt,
                next: Next::Retry(now + HALT_RETRY_DELAY),
            });
        }
    }

    /// How the session does.
    #[must_use]
    pub fn health(&self, now: Instant) -> Health {
        let mut halts = self.partitions.values().filter_map(|partition| {
            let halted = partition.halted.as_ref()?;
            Some(halted.halt.clone())
        });
        if let Some(halt) = halts.next() {
            return Health::Halted(halt);
        }
        match self.running_at {
            Some(at) if at <= now => Health::Running,
            _ => Health::Unknown,
        }
    }

    fn retry_halted(&mut self, now: Instant) {
        let mut retried = Vec::new();
        for (key, partition) in &mut self.partitions {
            let Some(halted) = &mut partition.halted else {
                continue;
            };
            match halted.next {
                Next::Resumed(at) if at <= now => partition.halted = None,
                Next::Retry(at) if at <= now => {
                    let drained = partition
                        .buffer
                        .as_ref()
                        .is_none_or(PartitionBuffer::is_empty);
                    if drained {
                        halted.next = Next::Found;
                        retried.push(*key);
                    } else {
                        halted.next = Next::Retry(now + HALT_RETRY_DELAY);
                    }
                }
                _ => {}
            }
        }
        for key in retried {
            self.look_up(key, false);
        }
    }

    /// The group revokes partitions; if they are `lost`, another worker owns them already.
    pub fn on_revoke(&mut self, partitions: Vec<TopicPartition>, lost: bool, now: Instant) {
        if lost {
            tracing::warn!(
                ?partitions,
                "partitions were lost: another worker reads their buffered records again"
            );
            self.release(partitions, now);
            return;
        }
        for key in self.keys(&partitions) {
            self.seal(key, now);
            if let Some(partition) = self.partitions.get_mut(&key)
                && let Some(buffer) = &mut partition.buffer
            {
                buffer.drain();
            }
        }
        self.revoking = Some((partitions, now + DRAIN_TIMEOUT));
    }

    fn is_revoked(&self, (kind, number): Key) -> bool {
        self.revoking.as_ref().is_some_and(|(partitions, _)| {
            let mut partitions = partitions.iter();
            partitions.any(|(topic, partition)| {
                self.topics.get(&kind) == Some(topic) && *partition == number
            })
        })
    }

    /// Releases revoked partitions once they are drained, or after the deadline.
    fn finish_revoking(&mut self, now: Instant) {
        let Some((partitions, deadline)) = &self.revoking else {
            return;
        };
        let drained = self
            .keys(partitions)
            .into_iter()
            .all(|key| self.buffer(key).is_none_or(PartitionBuffer::is_empty));
        if !drained && now < *deadline {
            return;
        }
        if !drained {
            tracing::warn!(
                "buffered records of revoked partitions could not be stored in time: another \
                 worker reads them again"
            );
        }
        let positions = self.positions_to_commit();
        if !positions.is_empty() {
            self.actions.push_back(Action::CommitPositions(positions));
        }
        if let Some((partitions, _)) = self.revoking.take() {
            self.release(partitions, now);
        }
    }

    /// Drops the buffers of partitions and answers the group.
    fn release(&mut self, partitions: Vec<TopicPartition>, now: Instant) {
        // The revocation supersedes assignments that are not answered yet.
        self.assignments.clear();
        for key in self.keys(&partitions) {
            if let Some(partition) = self.partitions.remove(&key) {
                let released = (partition.topic, key.1);
                self.actions.push_back(Action::Released(released));
            }
        }
        self.abort_unawaited();
        self.running_at.get_or_insert(now);
        self.actions.push_back(Action::Unassign(partitions));
    }

    /// A commit has ended with an answer for each of its batches, after `took`.
    pub fn on_committed(
        &mut self,
        id: u64,
        answers: Vec<(Member<B, D>, Answer)>,
        took: Duration,
        now: Instant,
    ) {
        if !self.finish_commit(id, took) {
            return;
        }
        for (member, answer) in answers {
            self.on_answer(member, answer, now);
        }
    }

    fn on_answer(&mut self, member: Member<B, D>, answer: Answer, now: Instant) {
        let Member {
            key,
            generation,
            sealed,
            ..
        } = member;
        let Some(partition) = self
            .partitions
            .get_mut(&key)
            .filter(|partition| partition.generation == generation)
        else {
            return;
        };
        let Some(buffer) = &mut partition.buffer else {
            return;
        };
        match answer {
            Answer::Stored(stored) | Answer::AlreadyStored(stored) => {
                partition.refused.stored(sealed.batch.records());
                let ahead = buffer.committed(sealed.to, stored);
                let (done, next) = (buffer.done(), buffer.next());
                partition.set_aside.retain(|after, _| *after > done);
                if ahead {
                    self.seek(key, next);
                }
            }
            Answer::Moved => {
                tracing::warn!(
                    source = %buffer.source(),
                    "another worker has moved the position: continuing from there"
                );
                self.look_up(key, false);
            }
            Answer::Halt(halt) => self.halt(key, halt, now),
            Answer::Refused(refusal) => self.on_refused(key, &sealed, refusal, now),
        }
    }

    /// Splits a refused batch, down to the record that is refused. That one is read again, to be
    /// set aside in the dead letters.
    fn on_refused(&mut self, key: Key, sealed: &Sealed<B, D>, refusal: Refusal, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        let Some(buffer) = &mut partition.buffer else {
            return;
        };
        if let Some((first, second)) = sealed.batch.split() {
            buffer.split(sealed, first, second);
            return;
        }
        let source_name = buffer.source().to_string();
        let refused = sealed.batch.last().filter(|_| sealed.batch.records() == 1);
        match refused {
            Some(after) if partition.refused.may_set_aside(now) => {
                tracing::warn!(
                    source = source_name,
                    before = %after,
                    code = refusal.code,
                    why = refusal.sentence,
                    "the sink refuses a record, which is set aside in the dead letters"
                );
                partition.set_aside.insert(after, refusal);
                let done = buffer.done();
                buffer.restart(done);
                self.seek(key, done);
            }
            _ => {
                let halt = Halt::RecordsRefused {
                    source_name,
                    limit: refused::LIMIT,
                    of: refused::WINDOW,
                    code: refusal.code,
                    sentence: refusal.sentence,
                };
                self.halt(key, halt, now);
            }
        }
    }

    /// Does what is due at `now`. Call it after every event and when [`Self::due_at`] comes.
    pub fn proceed(&mut self, now: Instant) {
        self.retry_halted(now);
        self.start_commits(now);
        if self.relieve_memory(now) {
            self.start_commits(now);
        }
        self.finish_revoking(now);
        self.update_pauses();
    }

    /// When [`Self::proceed`] has something to do next.
    #[must_use]
    pub fn due_at(&self) -> Option<Instant> {
        let halts = self.partitions.values().filter_map(|partition| {
            match partition.halted.as_ref()?.next {
                Next::Retry(at) | Next::Resumed(at) => Some(at),
                Next::Found => None,
            }
        });
        let revoking = self.revoking.as_ref().map(|(_, deadline)| *deadline);
        halts
            .chain(revoking)
            .chain(self.commit_due_at())
            .chain(self.memory.due_at())
            .min()
    }

    fn update_pauses(&mut self) {
        let (mut paused, mut unpaused) = (Vec::new(), Vec::new());
        let wanted: Vec<(Key, bool)> = self
            .partitions
            .iter()
            .map(|(key, partition)| (*key, partition.is_stopped() || self.is_over(*key)))
            .collect();
        for (key, pause) in wanted {
            if let Some(partition) = self.partitions.get_mut(&key)
                && partition.paused != pause
            {
                partition.paused = pause;
                let list = if pause { &mut paused } else { &mut unpaused };
                list.push((partition.topic.clone(), key.1));
            }
        }
        if !paused.is_empty() {
            self.actions.push_back(Action::Pause(paused));
        }
        if !unpaused.is_empty() {
            self.actions.push_back(Action::Unpause(unpaused));
        }
    }
}
