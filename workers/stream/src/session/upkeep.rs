//! What is done now and then: batches that are old enough, gaps, the group's offsets, memory, the
//! topics' ids, figures.

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
    lane::Lane,
    resume::is_same,
    sink::{Sink, Topic},
};

/// How long full buffers may keep us from polling before the partitions are paused.
const UNPOLLED: Duration = Duration::from_secs(2);

impl<S: Sink> Session<'_, S> {
    pub(super) fn on_tick(&mut self) {
        let (now, age) = (Instant::now(), self.worker.sink.limits().age);
        let due: Vec<Key> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.is_due(now, age))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.seal(key);
        }
        self.keep_budget();
        self.finish_revoking();
        if self.resumes_at.take_if(|at| *at <= now).is_some() {
            (self.resumed)();
        }
    }

    pub(super) fn flush(&mut self) {
        self.advance();
        for key in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.seal(key);
        }
    }

    pub(super) fn bookkeeping(&mut self) {
        self.advance();
        self.tell_group(CommitMode::Async);
    }

    /// Takes gaps in the log into account: control records of transactions move the consumer's
    /// position without a record.
    fn advance(&mut self) {
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        for element in positions.elements() {
            if let (Some((kind, _)), Offset::Offset(position)) =
                (self.worker.topic(element.topic()), element.offset())
                && let Some(lane) = self.lanes.get_mut(&(kind, element.partition()))
            {
                lane.advance(position);
            }
        }
    }

    /// Commits to the group what is dealt with: for lag displays, and for the batch worker, which
    /// waits for the archive's offsets.
    pub(super) fn tell_group(&mut self, mode: CommitMode) {
        let offsets: Vec<(Key, i64)> = self
            .lanes
            .iter()
            .filter_map(|(key, lane)| Some((*key, lane.to_tell()?)))
            .collect();
        if offsets.is_empty() {
            return;
        }
        let list = list(self.lanes.values().filter_map(|lane| {
            Some((
                lane.source().topic.name.as_str(),
                lane.source().partition,
                lane.to_tell()?,
            ))
        }));
        match self.consumer.commit(&list, mode) {
            Ok(()) => {
                for (key, offset) in offsets {
                    if let Some(lane) = self.lanes.get_mut(&key) {
                        lane.told(Some(offset));
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "offsets can't be committed to the group yet"),
        }
    }

    /// Keeps all batches within the budget: the biggest open one is closed first, then consumption
    /// waits.
    pub(super) fn keep_budget(&mut self) {
        let bytes: usize = self.lanes.values().map(Lane::bytes).sum();
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
                .lanes
                .iter()
                .max_by_key(|(_, lane)| lane.open_bytes())
                .map(|(key, _)| *key);
            if let Some(key) = biggest {
                self.seal(key);
            }
        }
        if self
            .full_since
            .is_some_and(|since| since.elapsed() > UNPOLLED)
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
                tracing::info!("consumption waits until the sink has taken what is gathered")
            }
            Ok(()) => tracing::info!("consumption goes on"),
            Err(error) => {
                tracing::warn!(%error, pause, "partitions could not be paused or resumed")
            }
        }
    }

    pub(super) fn check_identity(&mut self) {
        if !self.checks.is_empty() || self.lanes.is_empty() {
            return;
        }
        let mut topics: Vec<Arc<Topic>> = self
            .lanes
            .values()
            .map(|lane| lane.source().topic.clone())
            .collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics.dedup();
        let consumer = self.consumer.clone();
        self.checks
            .spawn_blocking(move || is_same(&consumer, &topics));
    }

    pub(super) fn on_statistics(&self, statistics: &Statistics) {
        let connected = statistics
            .brokers
            .values()
            .any(|broker| broker.state == "UP" && broker.nodeid >= 0);
        self.worker.metrics.broker_up.set(i64::from(connected));
        for lane in self.lanes.values() {
            let (topic, partition) = (&lane.source().topic.name, lane.source().partition);
            let figures = statistics
                .topics
                .get(topic)
                .and_then(|figures| figures.partitions.get(&partition));
            if let Some(figures) = figures.filter(|figures| figures.ls_offset >= 0) {
                self.worker
                    .metrics
                    .lag(topic, partition, (figures.ls_offset - lane.done()).max(0));
            }
        }
        self.worker.metrics.figures();
    }
}

pub(super) fn on_identity(check: Result<anyhow::Result<bool>, JoinError>) -> Result<(), End> {
    match check {
        Ok(Ok(false)) => {
            Err(anyhow!("a topic is not the one it was: looking at all positions again").into())
        }
        Ok(Err(error)) => {
            tracing::debug!(
                error = format!("{error:#}"),
                "the topics' ids can't be compared now"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A list of partitions and offsets; a negative offset means none.
pub(super) fn list<'a>(
    partitions: impl Iterator<Item = (&'a str, i32, i64)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in partitions {
        let mut element = list.add_partition(topic, partition);
        if offset >= 0
            && let Err(error) = element.set_offset(Offset::Offset(offset))
        {
            tracing::error!(%error, topic, partition, offset, "librdkafka refuses an offset");
        }
    }
    list
}
