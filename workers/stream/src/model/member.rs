//! A worker of the model: the session's state machine and the tasks of its driver, with a reader in
//! memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    log::{Connection, Delivered, EntryKind, raw, topic},
    network::yield_once,
    reference::{Letters, Records, Reference, Sent},
};
use crate::{
    commit::{Answered, commit},
    log::{Position, TopicPartition},
    resume::{Found, Resume},
    session::{
        Worker, consume,
        state::{Action, Health, State},
    },
    sink::Sink as _,
};

type Committed = (Vec<Answered<Records, Sent>>, Duration);
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The reader's position in a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// None where it must be sought first.
    fetch: Option<Position>,
    /// How far it was read; none after a seek.
    position: Option<Position>,
}

/// The session must be restarted.
#[derive(Debug)]
pub struct Restart;

/// A member of the group.
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Member {
    worker: Arc<Worker<Reference, Letters>>,
    log: Connection,
    state: State<Records, Sent>,
    cursors: BTreeMap<i32, Cursor>,
    /// Partitions that are not read; like librdkafka, the reader still knows it when one that was
    /// revoked returns.
    paused: BTreeSet<i32>,
    commits: Vec<(u64, Task<Committed>)>,
    look_ups: Vec<(u64, Task<Vec<Found>>)>,
    released: Vec<i32>,
    /// Whether the group waits for the answer to an assignment or a revocation.
    pub is_asked: bool,
    pub is_revoking: bool,
    /// Whether its group session is alive.
    pub in_group: bool,
    /// Whether it is draining before it leaves.
    pub stopping: bool,
}

impl Member {
    pub fn new(worker: Arc<Worker<Reference, Letters>>, log: Connection) -> Self {
        let sink = worker.sink.clone();
        let topic = topic();
        let state = State::new(
            [(topic.kind, topic.name)],
            worker.sink.limits(),
            worker.budget,
            move |source| sink.batch(source),
        );
        Self {
            worker,
            log,
            state,
            cursors: BTreeMap::new(),
            paused: BTreeSet::new(),
            commits: Vec::new(),
            look_ups: Vec::new(),
            released: Vec::new(),
            is_asked: false,
            is_revoking: false,
            in_group: true,
            stopping: false,
        }
    }

    /// Whether the coordinator may send it another request: it answers one at a time.
    pub const fn is_free(&self) -> bool {
        self.in_group && !self.stopping && !self.is_asked && !self.is_revoking
    }

    pub fn assign(&mut self, partitions: &[i32]) {
        self.is_asked = true;
        self.state.on_assign(named(partitions));
    }

    pub fn revoke(&mut self, partitions: &[i32], now: Instant) {
        self.is_revoking = true;
        self.state.on_revoke(named(partitions), false, now);
    }

    /// The partitions it has released since the last call.
    pub fn released(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.released)
    }

    /// Notices that its group session has expired, and joins again.
    pub fn lose_all(&mut self, now: Instant) {
        let all = self.partitions();
        self.state.on_revoke(named(&all), true, now);
        self.is_asked = false;
        self.act();
        self.released.clear();
        self.in_group = true;
    }

    /// Reads the next record of a partition.
    pub fn poll(&mut self, partition: i32, now: Instant) -> Result<(), Restart> {
        if self.stopping || !self.state.reads() {
            return Ok(());
        }
        let Some(cursor) = self.cursors.get_mut(&partition) else {
            return Ok(());
        };
        let is_paused = self.paused.contains(&partition);
        let Some(fetch) = cursor.fetch.filter(|_| !is_paused) else {
            return Ok(());
        };
        let broker = self.log.0.lock().unwrap();
        let log = broker.log(partition);
        if !log.extent().contains(fetch) {
            return Err(Restart);
        }
        let mut index = log.index(fetch);
        while log.entries.get(index).is_some_and(|entry| entry.compacted) {
            index += 1;
        }
        let Some(entry) = log.entries.get(index).copied() else {
            return Ok(());
        };
        drop(broker);
        cursor.fetch = Some(entry.after);
        cursor.position = cursor.fetch;
        if entry.kind != EntryKind::Marker {
            let message = Delivered {
                partition,
                index,
                entry,
                raw: raw(entry.kind, partition, index),
            };
            consume(&self.worker, &mut self.state, &message, now);
        }
        Ok(())
    }

    /// Stores everything buffered.
    pub fn flush(&mut self, now: Instant) {
        self.advance();
        self.state.flush(now);
    }

    pub fn bookkeeping(&mut self) {
        self.advance();
        let positions = self.state.positions_to_commit();
        self.commit_positions(positions);
    }

    fn advance(&mut self) {
        let cursors = self.cursors.iter();
        let positions: Vec<_> = cursors
            .filter_map(|(partition, cursor)| Some((name(*partition), cursor.position?)))
            .collect();
        self.state.on_positions(&positions);
    }

    fn commit_positions(&mut self, positions: Vec<(TopicPartition, Position)>) {
        let mut broker = self.log.0.lock().unwrap();
        if self.in_group && broker.like == super::log::Like::Kafka {
            let positions = positions.into_iter();
            broker
                .committed
                .extend(positions.map(|((_, partition), position)| (partition, position)));
        }
    }

    /// Whether everything up to the ends of the logs, but for `except`, is stored and committed to
    /// the group, and no request is unanswered.
    pub fn is_settled(&self, except: &[i32]) -> bool {
        let broker = self.log.0.lock().unwrap();
        let settled = |partition: &i32| {
            let mut buffers = self.state.buffers();
            buffers.any(|((_, number), buffer)| {
                number == *partition
                    && buffer.is_empty()
                    && buffer.position_to_commit().is_none()
                    && buffer.done() == broker.log(*partition).extent().high
            })
        };
        let mut partitions = self.cursors.keys();
        self.is_free()
            && partitions.all(|partition| except.contains(partition) || settled(partition))
    }

    /// Whether nothing waits to be stored.
    pub fn is_drained(&self) -> bool {
        self.state.is_drained()
    }

    /// Whether it is looking up where to resume.
    pub fn is_resuming(&self) -> bool {
        !self.look_ups.is_empty()
    }

    pub fn health(&self, now: Instant) -> Health {
        self.state.health(now)
    }

    /// The partitions assigned to its reader.
    pub fn partitions(&self) -> Vec<i32> {
        self.cursors.keys().copied().collect()
    }

    /// The position it reads next in a partition.
    pub fn position(&self, partition: i32) -> Option<Position> {
        self.cursors.get(&partition)?.fetch
    }

    /// Polls everything in flight and lets the state machine go on.
    pub fn proceed(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.look_ups.len() {
            if let Poll::Ready(found) = poll(&mut self.look_ups[at].1) {
                let (id, _) = self.look_ups.swap_remove(at);
                self.state.on_found(id, found, now);
            } else {
                at += 1;
            }
        }
        let mut at = 0;
        while at < self.commits.len() {
            if let Poll::Ready((answers, _)) = poll(&mut self.commits[at].1) {
                let (id, _) = self.commits.swap_remove(at);
                let took = Duration::from_millis(1);
                self.state.on_committed(id, answers, took, now);
            } else {
                at += 1;
            }
        }
        self.state.proceed(now);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::LookUp {
                    id,
                    assigned,
                    stamped_by_producers,
                } => {
                    let resume = Resume {
                        log: self.log.clone(),
                        sink: self.worker.sink.clone(),
                        health: self.worker.health.clone(),
                        readiness: self.worker.readiness.clone(),
                        reset: None,
                        stamped_by_producers,
                    };
                    let task = Box::pin(resume.run(assigned, |_| yield_once()));
                    self.look_ups.push((id, task));
                }
                Action::Assign(partitions) => {
                    self.is_asked = false;
                    for ((_, partition), fetch) in partitions {
                        let cursor = Cursor {
                            fetch,
                            ..Cursor::default()
                        };
                        self.cursors.insert(partition, cursor);
                    }
                }
                Action::Unassign(partitions) => {
                    self.is_revoking = false;
                    for (_, partition) in partitions {
                        self.cursors.remove(&partition);
                        self.released.push(partition);
                    }
                }
                Action::Seek((_, partition), to) => {
                    let cursor = self.cursors.get_mut(&partition).expect("it is assigned");
                    (cursor.fetch, cursor.position) = (Some(to), None);
                }
                Action::Pause(partitions) => self.pause(&partitions, true),
                Action::Unpause(partitions) => self.pause(&partitions, false),
                Action::Commit(group) => {
                    let (id, worker) = (group.id, self.worker.clone());
                    let task = async move {
                        let (sink, health) = (&*worker.sink, &worker.health);
                        commit(sink, health, &worker.metrics, group, |_| yield_once()).await
                    };
                    self.commits.push((id, Box::pin(task)));
                }
                Action::Abort(id) => {
                    self.commits.retain(|(other, _)| *other != id);
                    self.look_ups.retain(|(other, _)| *other != id);
                }
                Action::CommitPositions(positions) => self.commit_positions(positions),
                Action::Released(_) => {}
            }
        }
    }

    fn pause(&mut self, partitions: &[TopicPartition], pause: bool) {
        for (_, partition) in partitions {
            assert!(self.cursors.contains_key(partition), "it is assigned");
            let changed = if pause {
                self.paused.insert(*partition)
            } else {
                self.paused.remove(partition)
            };
            assert!(changed);
        }
    }
}

fn name(partition: i32) -> TopicPartition {
    (topic().name, partition)
}

fn named(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions
        .iter()
        .map(|partition| name(*partition))
        .collect()
}

pub fn poll<T>(task: &mut Task<T>) -> Poll<T> {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
