//! The session's periodic work: sealing batches by age, gaps in the log, committing offsets to the
//! group, the memory budget, the topics' ids and statistics.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use rdkafka::{
    Offset, Statistics, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
};
use tokio::task::JoinError;

use super::{End, Key, Session};
use crate::{
    buffer::PartitionBuffer,
    resume::same_identity,
    sink::{Sink, Topic},
};

/// How long the consumer is not polled while the buffers are full before its partitions are paused.
const MAX_UNPOLLED: Duration = Duration::from_secs(2);

impl<S: Sink> Session<'_, S> {
    pub(super) fn on_tick(&mut self) {
        let (now, age) = (Instant::now(), self.worker.sink.limits().age);
        let due: Vec<Key> = self
            .buffers
            .iter()
            .filter(|(_, buffer)| buffer.is_due(now, age))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.seal(key);
        }
        self.enforce_budget();
        self.finish_revoking();
        if self.resumes_at.take_if(|at| *at <= now).is_some() {
            (self.resumed)();
        }
    }

    pub(super) fn flush(&mut self) {
        self.advance();
        for key in self.buffers.keys().copied().collect::<Vec<_>>() {
            self.seal(key);
        }
    }

    pub(super) fn bookkeeping(&mut self) {
        self.advance();
        self.commit_offsets(CommitMode::Async);
    }

    /// Skips gaps in the log: transaction markers move the consumer's position without a record.
    fn advance(&mut self) {
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        for element in positions.elements() {
            if let (Some((kind, _)), Offset::Offset(position)) =
                (self.worker.topic(element.topic()), element.offset())
                && let Some(buffer) = self.buffers.get_mut(&(kind, element.partition()))
            {
                buffer.advance(position);
            }
        }
    }

    /// Commits offsets to the group, for displays of the consumer lag and for the batch worker,
    /// which waits for the archive's offsets.
    pub(super) fn commit_offsets(&mut self, mode: CommitMode) {
        let offsets: Vec<(Key, i64)> = self
            .buffers
            .iter()
            .filter_map(|(key, buffer)| Some((*key, buffer.offset_to_commit()?)))
            .collect();
        if offsets.is_empty() {
            return;
        }
        let list = list(self.buffers.values().filter_map(|buffer| {
            Some((
                buffer.source().topic.name.as_str(),
                buffer.source().partition,
                buffer.offset_to_commit()?,
            ))
        }));
        match self.consumer.commit(&list, mode) {
            Ok(()) => {
                for (key, offset) in offsets {
                    if let Some(buffer) = self.buffers.get_mut(&key) {
                        buffer.set_group_offset(Some(offset));
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "offsets can't be committed to the group: retrying");
            }
        }
    }

    /// Keeps all batches within the memory budget: seals the largest open batch first, then stops
    /// consuming.
    pub(super) fn enforce_budget(&mut self) {
        let bytes: usize = self.buffers.values().map(PartitionBuffer::bytes).sum();
        self.worker
            .metrics
            .buffered_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if bytes < self.worker.budget {
            self.full_since = None;
            self.pause(false);
            return;
        }
        if self.full_since.is_none() {
            self.full_since = Some(Instant::now());
            let biggest = self
                .buffers
                .iter()
                .max_by_key(|(_, buffer)| buffer.open_bytes())
                .map(|(key, _)| *key);
            if let Some(key) = biggest {
                self.seal(key);
            }
        }
        if self
            .full_since
            .is_some_and(|since| since.elapsed() > MAX_UNPOLLED)
        {
            self.pause(true);
        }
    }

    fn pause(&mut self, pause: bool) {
        if self.paused == pause {
            return;
        }
        self.paused = pause;
        self.worker.metrics.paused.set(i64::from(pause));
        let Ok(assignment) = self.consumer.assignment() else {
            return;
        };
        let done = if pause {
            self.consumer.pause(&assignment)
        } else {
            self.consumer.resume(&assignment)
        };
        match done {
            Ok(()) if pause => {
                tracing::info!("consumption pauses until the sink has stored buffered records");
            }
            Ok(()) => tracing::info!("consumption resumes"),
            Err(error) => {
                tracing::warn!(%error, pause, "partitions could not be paused or resumed");
            }
        }
    }

    pub(super) fn check_identity(&mut self) {
        if !self.checks.is_empty() || self.buffers.is_empty() {
            return;
        }
        let mut topics: Vec<Arc<Topic>> = self
            .buffers
            .values()
            .map(|buffer| buffer.source().topic.clone())
            .collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics.dedup();
        let consumer = self.consumer.clone();
        self.checks
            .spawn_blocking(move || same_identity(&consumer, &topics));
    }

    pub(super) fn on_statistics(&self, statistics: &Statistics) {
        let connected = statistics
            .brokers
            .values()
            .any(|broker| broker.state == "UP" && broker.nodeid >= 0);
        self.worker.metrics.broker_up.set(i64::from(connected));
        for buffer in self.buffers.values() {
            let (topic, partition) = (&buffer.source().topic.name, buffer.source().partition);
            let log = statistics
                .topics
                .get(topic)
                .and_then(|topic| topic.partitions.get(&partition));
            if let Some(log) = log.filter(|log| log.ls_offset >= 0) {
                let lag = (log.ls_offset - buffer.done()).max(0);
                self.worker.metrics.lag(topic, partition, lag);
            }
        }
        // Adds the current counts to the window of recent ones.
        self.worker.metrics.threshold_values();
    }
}

pub(super) fn on_identity(check: Result<anyhow::Result<bool>, JoinError>) -> Result<(), End> {
    match check {
        Ok(Ok(false)) => {
            Err(anyhow!("a topic or its cluster was replaced: checking all positions again").into())
        }
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

/// librdkafka's list of partitions and offsets; a negative offset stands for none.
pub(super) fn list<'a>(
    partitions: impl Iterator<Item = (&'a str, i32, i64)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in partitions {
        let mut element = list.add_partition(topic, partition);
        if offset >= 0
            && let Err(error) = element.set_offset(Offset::Offset(offset))
        {
            tracing::error!(%error, topic, partition, offset, "librdkafka rejects an offset");
        }
    }
    list
}
