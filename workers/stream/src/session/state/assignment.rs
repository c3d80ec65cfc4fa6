//! Assigned partitions resume at the sink's position, and revoked ones are released once their
//! records are stored.

use std::{collections::BTreeMap, time::Instant};

use super::{
    Action, DRAIN_TIMEOUT, Key, PROBATION, Partition, State, halt::Next, letters::Letters,
    refused::Refused,
};
use crate::{
    buffer::PartitionBuffer,
    dead_letter::Acknowledgement,
    log::{Position, TopicPartition},
    resume::{Assigned, Found, Start},
    sink::Batch,
};

impl<B: Batch, D: Acknowledgement> State<B, D> {
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
                    letters: Letters::new(),
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

    pub(super) fn open(&mut self, key: Key, start: Start, now: Instant) {
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
        partition.letters.resume(&start.source.topic, start.letters);
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

    pub(super) fn seek(&mut self, key: Key, to: Position) {
        if let Some(partition) = self.partitions.get(&key) {
            let partition = (partition.topic.clone(), key.1);
            self.actions.push_back(Action::Seek(partition, to));
        }
    }

    /// Looks up again where a partition resumes; what is buffered of it is read again.
    pub(super) fn look_up(&mut self, key: Key, stamped_by_producers: bool) {
        let id = self.id();
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        partition.buffer = None;
        if let Some(superseded) = partition.look_up.replace(id) {
            self.actions.push_back(Action::Abort(superseded));
        }
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

    pub(super) fn is_revoked(&self, (kind, number): Key) -> bool {
        self.revoking.as_ref().is_some_and(|(partitions, _)| {
            let mut partitions = partitions.iter();
            partitions.any(|(topic, partition)| {
                self.topics.get(&kind) == Some(topic) && *partition == number
            })
        })
    }

    /// Releases revoked partitions once they are drained, or after the deadline.
    pub(super) fn finish_revoking(&mut self, now: Instant) {
        let Some((partitions, deadline)) = &self.revoking else {
            return;
        };
        let keys = self.keys(partitions);
        let mut buffers = keys.iter().map(|key| self.buffer(*key));
        let drained = buffers.all(|buffer| buffer.is_none_or(PartitionBuffer::is_empty));
        let in_time = now < *deadline;
        if !drained && in_time {
            return;
        }
        // Another worker would write again what is not known to be written.
        if drained && in_time && !self.commit_letters_of(|key| keys.contains(&key)) {
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
    pub(super) fn release(&mut self, partitions: Vec<TopicPartition>, now: Instant) {
        // The revocation supersedes assignments that are not answered yet.
        for id in std::mem::take(&mut self.assignments) {
            self.actions.push_back(Action::Abort(id));
        }
        let mut paused = Vec::new();
        for key in self.keys(&partitions) {
            if let Some(partition) = self.partitions.remove(&key) {
                if partition.paused {
                    paused.push((partition.topic.clone(), key.1));
                }
                if let Some(id) = partition.look_up {
                    self.actions.push_back(Action::Abort(id));
                }
                let released = (partition.topic, key.1);
                self.actions.push_back(Action::Released(released));
            }
        }
        self.abort_unawaited();
        self.running_at.get_or_insert(now);
        // The reader would remember it, and not read the partition when it returns.
        if !paused.is_empty() {
            self.actions.push_back(Action::Unpause(paused));
        }
        self.actions.push_back(Action::Unassign(partitions));
    }
}
