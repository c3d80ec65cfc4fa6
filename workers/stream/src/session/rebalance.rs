//! What the group gives and takes: partitions are taken up where the sink left off, and stored
//! before they are let go.

use std::time::Instant;

use anyhow::anyhow;
use rdkafka::consumer::{CommitMode, Consumer as _};

use super::{DRAIN, End, Key, PROBATION, Resumed, Session, upkeep::list};
use crate::{
    consumer::{Event, TopicPartition},
    lane::Lane,
    resume::{Assigned, Resume, Start},
    sink::{Sink, Source},
};

impl<S: Sink> Session<'_, S> {
    pub(super) fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Assign(partitions) => {
                let mut assigned = Assigned::new();
                for (topic, partition) in partitions {
                    if let Some((kind, _)) = self.worker.topic(&topic) {
                        assigned.entry((kind, topic)).or_default().push(partition);
                    }
                }
                let resume = self.resume();
                self.assignments.spawn(resume.run(assigned));
            }
            Event::Revoke {
                partitions,
                lost: true,
            } => {
                tracing::warn!(
                    ?partitions,
                    "partitions were lost: what was gathered of them is dropped and read again by another worker"
                );
                self.give_up(&partitions)?;
            }
            Event::Revoke {
                partitions,
                lost: false,
            } => {
                for key in partitions
                    .iter()
                    .filter_map(|partition| self.worker.key(partition))
                {
                    self.seal(key);
                    if let Some(lane) = self.lanes.get_mut(&key) {
                        lane.drain();
                    }
                }
                self.revoking = Some((partitions, Instant::now() + DRAIN));
                self.finish_revoking();
            }
            Event::CommitFailed(error) => {
                tracing::debug!(%error, "offsets were not committed to the group: trying again");
                self.lanes.values_mut().for_each(|lane| lane.told(None));
            }
            Event::Statistics(statistics) => self.on_statistics(&statistics),
        }
        Ok(())
    }

    pub(super) fn on_assigned(&mut self, found: Resumed) -> Result<(), End> {
        let Some(starts) = starts(found)? else {
            return Ok(());
        };
        let offsets = starts.iter().map(|start| {
            (
                start.source.topic.name.as_str(),
                start.source.partition,
                start.fetch,
            )
        });
        let list = list(offsets);
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| anyhow!(error).context("an assignment was refused"))?;
        if self.paused {
            self.consumer.pause(&list).map_err(anyhow::Error::new)?;
        }
        for start in starts {
            self.take_up(start);
        }
        self.resumes_at = Some(Instant::now() + PROBATION);
        Ok(())
    }

    pub(super) fn on_moved(&mut self, found: Resumed) -> Result<(), End> {
        for start in starts(found)?.unwrap_or_default() {
            let key = (start.source.topic.kind, start.source.partition);
            // It may have been revoked meanwhile.
            if self.lanes.contains_key(&key) && !self.is_revoked(&start.source) {
                self.take_up(start);
                self.seek(key)?;
            }
        }
        Ok(())
    }

    pub(super) fn resume(&self) -> Resume<S> {
        Resume {
            consumer: self.consumer.clone(),
            sink: self.worker.sink.clone(),
            health: self.worker.health.clone(),
            reset: self.worker.config.reset.clone(),
        }
    }

    fn take_up(&mut self, start: Start) {
        tracing::info!(source = %start.source, stored = start.stored, next = start.fetch, "resuming");
        let key = (start.source.topic.kind, start.source.partition);
        self.lanes.insert(
            key,
            Lane::new(start.source, start.stored, start.fetch, start.committed),
        );
    }

    fn is_revoked(&self, source: &Source) -> bool {
        self.revoking.as_ref().is_some_and(|(partitions, _)| {
            partitions.iter().any(|(topic, partition)| {
                *topic == source.topic.name && *partition == source.partition
            })
        })
    }

    /// Gives revoked partitions up when nothing of them is under way any more, or when it took too
    /// long.
    pub(super) fn finish_revoking(&mut self) {
        let Some((partitions, deadline)) = &self.revoking else {
            return;
        };
        let drained = partitions
            .iter()
            .filter_map(|partition| self.worker.key(partition))
            .all(|key| self.lanes.get(&key).is_none_or(Lane::is_empty));
        if !drained && Instant::now() < *deadline {
            return;
        }
        if !drained {
            tracing::warn!(
                "what was gathered of revoked partitions could not be stored in time: it is dropped and read again by another worker"
            );
        }
        self.tell_group(CommitMode::Async);
        if let Some((partitions, _)) = self.revoking.take()
            && let Err(error) = self.give_up(&partitions)
        {
            tracing::warn!(%error, "partitions could not be given up");
        }
    }

    /// Drops lanes, and answers the group.
    fn give_up(&mut self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        // An assignment that is not answered yet is void: the group has changed its mind.
        self.assignments.abort_all();
        for key in partitions
            .iter()
            .filter_map(|partition| self.worker.key(partition))
        {
            self.forget(key);
        }
        let list = list(
            partitions
                .iter()
                .map(|(topic, partition)| (topic.as_str(), *partition, -1)),
        );
        self.consumer.incremental_unassign(&list)?;
        Ok(())
    }

    fn forget(&mut self, key: Key) {
        if let Some(handle) = self.under_way.remove(&key) {
            handle.abort();
        }
        if let Some(lane) = self.lanes.remove(&key) {
            self.worker
                .metrics
                .forget(&lane.source().topic.name, lane.source().partition);
        }
    }

    pub(super) fn forget_all(&mut self) {
        for key in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.forget(key);
        }
        self.worker.metrics.buffered_bytes.set(0);
    }
}

/// Where to resume, unless the question was taken back.
fn starts(found: Resumed) -> Result<Option<Vec<Start>>, End> {
    match found {
        Ok(starts) => Ok(Some(starts?)),
        Err(error) if error.is_cancelled() => Ok(None),
        Err(error) => Err(anyhow!(error)
            .context("where to resume was not found")
            .into()),
    }
}
