//! The session as a state machine without I/O. It is told of assignments, results, read records and
//! the time, and answers with [`Action`]s for its driver.

mod answer;
mod assignment;
mod halt;
mod letters;
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

pub use self::halt::Health;
use self::{
    halt::{Halted, Next},
    letters::{CommitOfLetters, Letters},
    memory::Memory,
    pace::Table,
    refused::Refused,
};
use crate::{
    buffer::{PartitionBuffer, Sealed},
    dead_letter::Acknowledgement,
    log::{Position, TopicPartition},
    resume::Assigned,
    sink::{Batch, Limits, Refusal, Source, Topic},
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
    /// Abort the commit or look-up with this number: nobody waits for it any more.
    Abort(u64),
    /// Commit positions to the consumer group.
    CommitPositions(Vec<(TopicPartition, Position)>),
    /// Commit positions to the group of the dead letters, and report it as
    /// [`State::on_letters_committed`].
    CommitLetters(Vec<(Source, Position)>),
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
    pub sealed: Sealed<B>,
    /// Dead letters that must be acknowledged before the position moves.
    pub dead_letters: Vec<D>,
    /// The position the sink must have.
    pub from: Position,
}

impl<B, D> Member<B, D> {
    /// The partition's number.
    pub const fn partition(&self) -> i32 {
        self.key.1
    }
}

struct Partition<B, D> {
    topic: String,
    /// None while it is looked up where to resume, and while the partition is halted.
    buffer: Option<PartitionBuffer<B>>,
    letters: Letters<D>,
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
    letters: CommitOfLetters,
    last_id: u64,
    actions: VecDeque<Action<B, D>>,
}

impl<B: Batch, D: Acknowledgement> State<B, D> {
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
            letters: CommitOfLetters::default(),
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

    /// The buffer for the record before `after`, and the partition's dead letters; none if the
    /// record is not wanted.
    pub fn accept(
        &mut self,
        key: Key,
        after: Position,
    ) -> Option<(&mut PartitionBuffer<B>, &mut Letters<D>)> {
        let partition = self.partitions.get_mut(&key)?;
        let buffer = partition.buffer.as_mut()?;
        buffer
            .accepts(after)
            .then_some((buffer, &mut partition.letters))
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

    fn buffer(&self, key: Key) -> Option<&PartitionBuffer<B>> {
        self.partitions.get(&key)?.buffer.as_ref()
    }

    /// Whether a partition is assigned, though perhaps halted.
    #[cfg(test)]
    #[must_use]
    pub fn is_assigned(&self, key: Key) -> bool {
        self.partitions.contains_key(&key)
    }

    /// The assigned partitions: topics and numbers.
    pub fn assigned(&self) -> impl Iterator<Item = (&str, i32)> {
        let partitions = self.partitions.iter();
        partitions.map(|((_, number), partition)| (partition.topic.as_str(), *number))
    }

    /// Whether an assignment of the group waits for its answer.
    #[must_use]
    pub fn has_open_assignments(&self) -> bool {
        !self.assignments.is_empty()
    }

    /// All buffers.
    pub fn buffers(&self) -> impl Iterator<Item = (Key, &PartitionBuffer<B>)> {
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

    /// The reader's positions, which move over gaps in the log without a record. A position from
    /// before a seek that the driver has yet to do is ignored: records before it are read again.
    pub fn on_positions(&mut self, positions: &[(TopicPartition, Position)]) {
        for (read, position) in positions {
            let (topic, number) = read;
            let is_sought =
                |action: &Action<B, D>| matches!(action, Action::Seek(sought, _) if sought == read);
            if !self.actions.iter().any(is_sought)
                && let Some(kind) = self.kind(topic)
                && let Some(partition) = self.partitions.get_mut(&(kind, *number))
                && let Some(buffer) = &mut partition.buffer
            {
                buffer.advance(*position);
                partition.letters.pass(buffer.next());
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
