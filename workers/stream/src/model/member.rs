//! A worker of the model: the session without its timers and its consumer.
//!
//! It repeats the rules of `session/mod.rs`, `session/rebalance.rs` and `session/upkeep.rs`, and
//! the order of queries in [`crate::resume::Resume`]. Partition buffers, commits, batches and the
//! decision where to start are the real code.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Instant,
};

use anyhow::anyhow;
use pinpipe_core::Kind;
use pinpipe_runtime::{admin::Admin, outage::Outage};

use super::{
    broker::{Broker, EntryKind, order, raw, source, topic},
    network::yield_once,
};
use crate::{
    buffer::PartitionBuffer,
    commit::{Outcome, SinkHealth, commit},
    metrics::Metrics,
    resume::{Start, initial_positions, start},
    sink::{Batch, Consumed, Halt, InitialPosition, Sink, SinkError},
};

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The sink must stop. Always a failure, since the model replaces no topic and loses no
    /// position.
    Halt(Halt),
    /// The session must be restarted.
    Restart,
}

/// The consumer's position in a partition.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    fetch: i64,
    /// The position librdkafka reports; none after a seek.
    position: Option<i64>,
}

/// A member of the consumer group.
pub struct Member<S: Sink> {
    sink: Arc<S>,
    metrics: Metrics,
    broker: Arc<Mutex<Broker>>,
    buffers: BTreeMap<i32, PartitionBuffer<S::Batch>>,
    consumer: BTreeMap<i32, Cursor>,
    commits: BTreeMap<i32, Task<Outcome>>,
    assignment: Option<Task<Result<Vec<Start>, Halt>>>,
    moves: Vec<Task<Result<Vec<Start>, Halt>>>,
    revoking: Option<Vec<i32>>,
    /// Whether its group session is alive.
    pub in_group: bool,
    /// Whether it is draining before it leaves.
    pub stopping: bool,
}

impl<S: Sink> Member<S> {
    pub fn new(sink: Arc<S>, metrics: Metrics, broker: Arc<Mutex<Broker>>) -> Self {
        Self {
            sink,
            metrics,
            broker,
            buffers: BTreeMap::new(),
            consumer: BTreeMap::new(),
            commits: BTreeMap::new(),
            assignment: None,
            moves: Vec::new(),
            revoking: None,
            in_group: true,
            stopping: false,
        }
    }

    /// Whether the coordinator may send it another request: it answers one at a time.
    pub fn is_free(&self) -> bool {
        self.in_group && !self.stopping && self.assignment.is_none() && self.revoking.is_none()
    }

    pub fn assign(&mut self, partitions: Vec<i32>) {
        self.assignment = Some(Box::pin(resume(
            self.sink.clone(),
            self.broker.clone(),
            partitions,
        )));
    }

    pub fn revoke(&mut self, partitions: Vec<i32>) {
        for &partition in &partitions {
            self.seal(partition);
            if let Some(buffer) = self.buffers.get_mut(&partition) {
                buffer.drain();
            }
        }
        self.revoking = Some(partitions);
    }

    /// Releases revoked partitions once they are drained, or when that took `too_long`.
    pub fn finish_revoking(&mut self, too_long: bool) -> Vec<i32> {
        let drained = |partition| {
            self.buffers
                .get(partition)
                .is_none_or(PartitionBuffer::is_empty)
        };
        match &self.revoking {
            Some(partitions) if too_long || partitions.iter().all(drained) => {}
            _ => return Vec::new(),
        }
        self.commit_offsets();
        let partitions = self.revoking.take().unwrap_or_default();
        for partition in &partitions {
            self.drop_partition(*partition);
        }
        partitions
    }

    /// Notices that its group session has expired, and joins again.
    pub fn lose_all(&mut self) {
        let all: Vec<i32> = self
            .buffers
            .keys()
            .chain(self.consumer.keys())
            .copied()
            .collect();
        for partition in all {
            self.drop_partition(partition);
        }
        (self.assignment, self.revoking) = (None, None);
        self.moves.clear();
        self.in_group = true;
    }

    fn drop_partition(&mut self, partition: i32) {
        self.commits.remove(&partition);
        self.buffers.remove(&partition);
        self.consumer.remove(&partition);
    }

    /// Reads the next record of a partition.
    pub fn poll(&mut self, partition: i32, now: Instant) -> Result<(), End> {
        let Some(cursor) = self.consumer.get_mut(&partition).filter(|_| !self.stopping) else {
            return Ok(());
        };
        let broker = self.broker.lock().unwrap();
        let log = broker.log(partition);
        if cursor.fetch < log.low || cursor.fetch > log.high() {
            return Err(End::Restart);
        }
        while log.entry(cursor.fetch).is_some_and(|entry| entry.compacted) {
            cursor.fetch += 1;
        }
        let Some(entry) = log.entry(cursor.fetch) else {
            return Ok(());
        };
        let offset = cursor.fetch;
        cursor.fetch += 1;
        cursor.position = Some(cursor.fetch);
        let Some(buffer) = self.buffers.get_mut(&partition) else {
            return Ok(());
        };
        if entry.kind == EntryKind::Marker || !buffer.accepts(offset) {
            return Ok(());
        }
        let raw = raw(entry.kind, partition, offset);
        let cleaned = pinpipe_core::clean(Kind::Geo, raw.as_bytes(), 1000);
        let batch = buffer.batch_for(offset, now, |source| self.sink.batch(source));
        let position = order(partition, offset, entry);
        let record = Consumed {
            raw: raw.as_bytes(),
            position,
            order: position,
            cleaned: &cleaned,
        };
        batch.push(record).unwrap();
        drop(broker);
        if buffer.is_full(&self.sink.limits()) {
            self.seal(partition);
        }
        Ok(())
    }

    /// Commits the batches that are due.
    pub fn tick(&mut self, now: Instant) {
        let age = self.sink.limits().age;
        let due: Vec<i32> = self
            .buffers
            .iter()
            .filter(|(_, buffer)| buffer.is_due(now, age))
            .map(|(p, _)| *p)
            .collect();
        for partition in due {
            self.seal(partition);
        }
    }

    /// Commits everything.
    pub fn flush(&mut self) {
        self.advance();
        for partition in self.buffers.keys().copied().collect::<Vec<_>>() {
            self.seal(partition);
        }
    }

    pub fn bookkeeping(&mut self) {
        self.advance();
        self.commit_offsets();
    }

    fn advance(&mut self) {
        for (partition, buffer) in &mut self.buffers {
            if let Some(position) = self
                .consumer
                .get(partition)
                .and_then(|cursor| cursor.position)
            {
                buffer.advance(position);
            }
        }
    }

    fn commit_offsets(&mut self) {
        if !self.in_group {
            return;
        }
        let mut broker = self.broker.lock().unwrap();
        for (partition, buffer) in &mut self.buffers {
            if let Some(offset) = buffer.offset_to_commit() {
                broker.committed.insert(*partition, offset);
                buffer.set_group_offset(Some(offset));
            }
        }
    }

    fn seal(&mut self, partition: i32) {
        if let Some(buffer) = self.buffers.get_mut(&partition) {
            buffer.seal(|source| self.sink.batch(source));
            self.start_commit(partition);
        }
    }

    fn start_commit(&mut self, partition: i32) {
        let Some(buffer) = self.buffers.get_mut(&partition) else {
            return;
        };
        let Some((sealed, from)) = buffer.start() else {
            return;
        };
        let (sink, metrics) = (self.sink.clone(), self.metrics.clone());
        let task = async move {
            let outage = Outage::new(Admin::new().readiness(), "SinkUnavailable");
            let health = SinkHealth::new(metrics.clone(), outage);
            commit(
                &*sink,
                &health,
                &metrics,
                &source(partition),
                sealed,
                from,
                |_| yield_once(),
            )
            .await
        };
        self.commits.insert(partition, Box::pin(task));
    }

    /// Whether everything up to the ends of the logs is stored and committed to the group, and no
    /// request is unanswered.
    pub fn is_settled(&self) -> bool {
        let broker = self.broker.lock().unwrap();
        let mut buffers = self.buffers.iter();
        self.in_group
            && self.assignment.is_none()
            && self.moves.is_empty()
            && self.revoking.is_none()
            && buffers.all(|(partition, buffer)| {
                buffer.is_empty()
                    && buffer.offset_to_commit().is_none()
                    && buffer.done() == broker.log(*partition).high()
            })
    }

    /// Whether no commit is in flight.
    pub fn is_drained(&self) -> bool {
        self.commits.is_empty()
    }

    /// Whether it is looking up where to resume.
    pub fn is_resuming(&self) -> bool {
        self.assignment.is_some() || !self.moves.is_empty()
    }

    /// The partitions assigned to its consumer.
    pub fn partitions(&self) -> Vec<i32> {
        self.consumer.keys().copied().collect()
    }

    /// The offset it reads next in a partition.
    pub fn position(&self, partition: i32) -> Option<i64> {
        self.consumer.get(&partition).map(|cursor| cursor.fetch)
    }

    /// Polls everything in flight.
    pub fn proceed(&mut self) -> Result<(), End> {
        if let Some(task) = &mut self.assignment
            && let Poll::Ready(starts) = poll(task)
        {
            self.assignment = None;
            for start in starts.map_err(End::Halt)? {
                self.consumer.insert(
                    start.source.partition,
                    Cursor {
                        fetch: start.fetch,
                        position: None,
                    },
                );
                self.open_buffer(&start);
            }
        }
        let mut found = Vec::new();
        self.moves.retain_mut(|task| match poll(task) {
            Poll::Ready(starts) => {
                found.push(starts);
                false
            }
            Poll::Pending => true,
        });
        for starts in found {
            for start in starts.map_err(End::Halt)? {
                let partition = start.source.partition;
                let revoked = self
                    .revoking
                    .as_ref()
                    .is_some_and(|revoked| revoked.contains(&partition));
                if self.buffers.contains_key(&partition) && !revoked {
                    self.open_buffer(&start);
                    self.seek(partition);
                }
            }
        }
        for partition in self.commits.keys().copied().collect::<Vec<_>>() {
            if let Some(Poll::Ready(outcome)) = self.commits.get_mut(&partition).map(poll) {
                self.commits.remove(&partition);
                self.on_commit(partition, outcome)?;
            }
        }
        Ok(())
    }

    fn on_commit(&mut self, partition: i32, outcome: Outcome) -> Result<(), End> {
        let Some(buffer) = self.buffers.get_mut(&partition) else {
            return Ok(());
        };
        match outcome {
            Outcome::Committed { to, stored } => {
                if buffer.committed(to, stored) {
                    self.seek(partition);
                }
                self.start_commit(partition);
            }
            Outcome::Moved => {
                buffer.restart(buffer.done(), buffer.done());
                buffer.drain();
                self.moves.push(Box::pin(resume(
                    self.sink.clone(),
                    self.broker.clone(),
                    vec![partition],
                )));
            }
            Outcome::Halted(halt) => return Err(End::Halt(halt)),
        }
        Ok(())
    }

    fn open_buffer(&mut self, start: &Start) {
        let buffer = PartitionBuffer::new(
            start.source.clone(),
            start.stored,
            start.fetch,
            start.committed,
        );
        self.buffers.insert(start.source.partition, buffer);
    }

    fn seek(&mut self, partition: i32) {
        if let (Some(buffer), Some(cursor)) = (
            self.buffers.get(&partition),
            self.consumer.get_mut(&partition),
        ) {
            *cursor = Cursor {
                fetch: buffer.next(),
                position: None,
            };
        }
    }
}

fn poll<T>(task: &mut Task<T>) -> Poll<T> {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// [`crate::resume::Resume::run`] with this broker.
async fn resume<S: Sink>(
    sink: Arc<S>,
    broker: Arc<Mutex<Broker>>,
    partitions: Vec<i32>,
) -> Result<Vec<Start>, Halt> {
    loop {
        match starts(&*sink, &broker, &partitions).await {
            Ok(starts) => return Ok(starts),
            Err(SinkError::Halt(halt)) => return Err(halt),
            Err(_) => yield_once().await,
        }
    }
}

async fn starts<S: Sink>(
    sink: &S,
    broker: &Mutex<Broker>,
    partitions: &[i32],
) -> Result<Vec<Start>, SinkError> {
    let topic = topic();
    let mut stored = sink.positions(&topic, partitions).await?;
    if let InitialPosition::Stored(from) = sink.initial_position()
        && partitions
            .iter()
            .any(|partition| !stored.contains_key(partition))
    {
        yield_once().await;
        let logs = {
            let broker = broker.lock().unwrap();
            broker
                .partition_ids()
                .into_iter()
                .map(|partition| (partition, broker.watermarks(partition)))
                .collect()
        };
        sink.store_initial_positions(&topic, &stored, &initial_positions(from, &stored, &logs))
            .await?;
        stored = sink.positions(&topic, partitions).await?;
        if partitions
            .iter()
            .any(|partition| !stored.contains_key(partition))
        {
            return Err(anyhow!("another worker has stored initial positions meanwhile").into());
        }
    }
    yield_once().await;
    let logs: BTreeMap<_, _> = {
        let broker = broker.lock().unwrap();
        partitions
            .iter()
            .map(|partition| (*partition, broker.watermarks(*partition)))
            .collect()
    };
    yield_once().await;
    let committed = broker.lock().unwrap().committed.clone();
    let mut starts = Vec::new();
    for &partition in partitions {
        let source = source(partition);
        let log = *logs
            .get(&partition)
            .ok_or_else(|| anyhow!("no such partition"))?;
        let committed = committed.get(&partition).copied();
        let (stored, fetch) = start(
            &source,
            sink.initial_position(),
            stored.get(&partition),
            committed,
            log,
        )?;
        starts.push(Start {
            source,
            stored,
            fetch,
            committed,
        });
    }
    Ok(starts)
}
