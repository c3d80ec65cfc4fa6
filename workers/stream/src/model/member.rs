//! A worker: what [`crate::session`] does with lanes, commits and the group, without its clocks and
//! its consumer.
//!
//! The rules it repeats are those of `session.rs`, `session/rebalance.rs` and `session/upkeep.rs`,
//! and the order of questions in [`crate::resume::Resume`]; lanes, commits, batches and the
//! decision where to start are the real ones.

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
    broker::{Broker, What, order, raw, source, topic},
    network::others_first,
};
use crate::{
    commit::{Outcome, SinkHealth, commit},
    lane::Lane,
    metrics::Metrics,
    resume::{Start, first_positions, start},
    sink::{Batch, Consumed, First, Halt, Sink, SinkError},
};

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What ends a session.
#[derive(Debug)]
pub enum End {
    /// In a model without replaced topics and deleted positions: always a mistake.
    Halt(Halt),
    /// To be begun anew.
    Again,
}

/// The consumer's place in a partition.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    fetch: i64,
    /// librdkafka forgets it when it is made to go on elsewhere.
    position: Option<i64>,
}

/// See the module.
pub struct Member<S: Sink> {
    sink: Arc<S>,
    metrics: Metrics,
    broker: Arc<Mutex<Broker>>,
    lanes: BTreeMap<i32, Lane<S::Batch>>,
    consumer: BTreeMap<i32, Cursor>,
    commits: BTreeMap<i32, Task<Outcome>>,
    assignment: Option<Task<Result<Vec<Start>, Halt>>>,
    moves: Vec<Task<Result<Vec<Start>, Halt>>>,
    revoking: Option<Vec<i32>>,
    /// Its group listens to it.
    pub in_group: bool,
    /// On its way out: it stores what it has and takes no more.
    pub stopping: bool,
}

impl<S: Sink> Member<S> {
    pub fn new(sink: Arc<S>, metrics: Metrics, broker: Arc<Mutex<Broker>>) -> Self {
        Self {
            sink,
            metrics,
            broker,
            lanes: BTreeMap::new(),
            consumer: BTreeMap::new(),
            commits: BTreeMap::new(),
            assignment: None,
            moves: Vec::new(),
            revoking: None,
            in_group: true,
            stopping: false,
        }
    }

    /// Whether the group may ask something of it: it answers one thing after the other.
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
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.drain();
            }
        }
        self.revoking = Some(partitions);
    }

    /// Gives revoked partitions up once they are drained, or when it took `too_long`.
    pub fn finish_revoking(&mut self, too_long: bool) -> Vec<i32> {
        let drained = |partition| self.lanes.get(partition).is_none_or(Lane::is_empty);
        match &self.revoking {
            Some(partitions) if too_long || partitions.iter().all(drained) => {}
            _ => return Vec::new(),
        }
        self.tell_group();
        let partitions = self.revoking.take().unwrap_or_default();
        for partition in &partitions {
            self.forget(*partition);
        }
        partitions
    }

    /// Learns that the group has thrown it out, and comes again.
    pub fn lose_all(&mut self) {
        let all: Vec<i32> = self
            .lanes
            .keys()
            .chain(self.consumer.keys())
            .copied()
            .collect();
        for partition in all {
            self.forget(partition);
        }
        (self.assignment, self.revoking) = (None, None);
        self.moves.clear();
        self.in_group = true;
    }

    fn forget(&mut self, partition: i32) {
        self.commits.remove(&partition);
        self.lanes.remove(&partition);
        self.consumer.remove(&partition);
    }

    /// Takes what the consumer has next of a partition.
    pub fn poll(&mut self, partition: i32, now: Instant) -> Result<(), End> {
        let Some(cursor) = self.consumer.get_mut(&partition).filter(|_| !self.stopping) else {
            return Ok(());
        };
        let broker = self.broker.lock().unwrap();
        let log = broker.log(partition);
        if cursor.fetch < log.low || cursor.fetch > log.high() {
            return Err(End::Again);
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
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return Ok(());
        };
        if entry.what == What::Marker || !lane.wants(offset) {
            return Ok(());
        }
        let raw = raw(entry.what, partition, offset);
        let cleaned = pinpipe_core::clean(Kind::Geo, raw.as_bytes(), 1000);
        let batch = lane.take(offset, now, |source| self.sink.batch(source));
        let place = order(partition, offset, entry);
        let record = Consumed {
            raw: raw.as_bytes(),
            place,
            order: place,
            cleaned: &cleaned,
        };
        batch.push(record).unwrap();
        drop(broker);
        if lane.is_full(&self.sink.limits()) {
            self.seal(partition);
        }
        Ok(())
    }

    /// What is old enough goes to the sink.
    pub fn tick(&mut self, now: Instant) {
        let age = self.sink.limits().age;
        let due: Vec<i32> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.is_due(now, age))
            .map(|(p, _)| *p)
            .collect();
        for partition in due {
            self.seal(partition);
        }
    }

    /// Everything goes to the sink.
    pub fn flush(&mut self) {
        self.advance();
        for partition in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.seal(partition);
        }
    }

    pub fn bookkeeping(&mut self) {
        self.advance();
        self.tell_group();
    }

    fn advance(&mut self) {
        for (partition, lane) in &mut self.lanes {
            if let Some(position) = self
                .consumer
                .get(partition)
                .and_then(|cursor| cursor.position)
            {
                lane.advance(position);
            }
        }
    }

    fn tell_group(&mut self) {
        if !self.in_group {
            return;
        }
        let mut broker = self.broker.lock().unwrap();
        for (partition, lane) in &mut self.lanes {
            if let Some(offset) = lane.to_tell() {
                broker.committed.insert(*partition, offset);
                lane.told(Some(offset));
            }
        }
    }

    fn seal(&mut self, partition: i32) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.seal(|source| self.sink.batch(source));
            self.start_commit(partition);
        }
    }

    fn start_commit(&mut self, partition: i32) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        let Some((sealed, from)) = lane.start() else {
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
                |_| others_first(),
            )
            .await
        };
        self.commits.insert(partition, Box::pin(task));
    }

    /// Whether nothing is gathered, under way, or unanswered, and everything is told, up to the
    /// ends of the logs.
    pub fn is_settled(&self) -> bool {
        let broker = self.broker.lock().unwrap();
        let mut lanes = self.lanes.iter();
        self.in_group
            && self.assignment.is_none()
            && self.moves.is_empty()
            && self.revoking.is_none()
            && lanes.all(|(partition, lane)| {
                lane.is_empty()
                    && lane.to_tell().is_none()
                    && lane.done() == broker.log(*partition).high()
            })
    }

    /// Whether nothing is under way.
    pub fn is_drained(&self) -> bool {
        self.commits.is_empty()
    }

    /// Whether it is asking where to resume.
    pub fn is_resuming(&self) -> bool {
        self.assignment.is_some() || !self.moves.is_empty()
    }

    /// What its consumer has.
    pub fn partitions(&self) -> Vec<i32> {
        self.consumer.keys().copied().collect()
    }

    /// Where it reads a partition.
    pub fn place(&self, partition: i32) -> Option<i64> {
        self.consumer.get(&partition).map(|cursor| cursor.fetch)
    }

    /// Goes on with everything that may go on.
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
                self.take_up(&start);
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
                if self.lanes.contains_key(&partition) && !revoked {
                    self.take_up(&start);
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
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return Ok(());
        };
        match outcome {
            Outcome::Committed { to, stored } => {
                if lane.committed(to, stored) {
                    self.seek(partition);
                }
                self.start_commit(partition);
            }
            Outcome::Moved => {
                lane.restart(lane.done(), lane.done());
                lane.drain();
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

    fn take_up(&mut self, start: &Start) {
        let lane = Lane::new(
            start.source.clone(),
            start.stored,
            start.fetch,
            start.committed,
        );
        self.lanes.insert(start.source.partition, lane);
    }

    fn seek(&mut self, partition: i32) {
        if let (Some(lane), Some(cursor)) = (
            self.lanes.get(&partition),
            self.consumer.get_mut(&partition),
        ) {
            *cursor = Cursor {
                fetch: lane.next(),
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
            Err(_) => others_first().await,
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
    if let First::Remembered(from) = sink.first()
        && partitions
            .iter()
            .any(|partition| !stored.contains_key(partition))
    {
        others_first().await;
        let logs = {
            let broker = broker.lock().unwrap();
            broker
                .numbers()
                .into_iter()
                .map(|partition| (partition, broker.watermarks(partition)))
                .collect()
        };
        sink.remember(&topic, &stored, &first_positions(from, &stored, &logs))
            .await?;
        stored = sink.positions(&topic, partitions).await?;
        if partitions
            .iter()
            .any(|partition| !stored.contains_key(partition))
        {
            return Err(anyhow!("another worker has stored first positions meanwhile").into());
        }
    }
    others_first().await;
    let logs: BTreeMap<_, _> = {
        let broker = broker.lock().unwrap();
        partitions
            .iter()
            .map(|partition| (*partition, broker.watermarks(*partition)))
            .collect()
    };
    others_first().await;
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
            sink.first(),
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
