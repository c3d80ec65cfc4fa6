//! Rebalances: assigned partitions resume at the sink's position, and revoked partitions are
//! released once their records are stored.

use std::time::Instant;

use anyhow::anyhow;
use rdkafka::consumer::{CommitMode, Consumer as _};

use super::{DRAIN_TIMEOUT, End, Key, PROBATION, Resumed, Session, upkeep::list};
use crate::{
    buffer::PartitionBuffer,
    consumer::{Event, TopicPartition},
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
                    "partitions were lost: another worker reads their buffered records again"
                );
                self.release(&partitions)?;
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
                    if let Some(buffer) = self.buffers.get_mut(&key) {
                        buffer.drain();
                    }
                }
                self.revoking = Some((partitions, Instant::now() + DRAIN_TIMEOUT));
                self.finish_revoking();
            }
            Event::CommitFailed(error) => {
                tracing::debug!(%error, "offsets were not committed to the group: retrying");
                self.buffers
                    .values_mut()
                    .for_each(|buffer| buffer.set_group_offset(None));
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
            self.open_buffer(start);
        }
        self.resumes_at = Some(Instant::now() + PROBATION);
        Ok(())
    }

    pub(super) fn on_moved(&mut self, found: Resumed) -> Result<(), End> {
        for start in starts(found)?.unwrap_or_default() {
            let key = (start.source.topic.kind, start.source.partition);
            // It may have been revoked meanwhile.
            if self.buffers.contains_key(&key) && !self.is_revoked(&start.source) {
                self.open_buffer(start);
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

    fn open_buffer(&mut self, start: Start) {
        tracing::info!(
            source = %start.source,
            stored = start.stored,
            next = start.fetch,
            "resuming"
        );
        let key = (start.source.topic.kind, start.source.partition);
        self.buffers.insert(
            key,
            PartitionBuffer::new(start.source, start.stored, start.fetch, start.committed),
        );
    }

    fn is_revoked(&self, source: &Source) -> bool {
        self.revoking.as_ref().is_some_and(|(partitions, _)| {
            partitions.iter().any(|(topic, partition)| {
                *topic == source.topic.name && *partition == source.partition
            })
        })
    }

    /// Releases revoked partitions once they are drained, or after the deadline.
    pub(super) fn finish_revoking(&mut self) {
        let Some((partitions, deadline)) = &self.revoking else {
            return;
        };
        let drained = partitions
            .iter()
            .filter_map(|partition| self.worker.key(partition))
            .all(|key| self.buffers.get(&key).is_none_or(PartitionBuffer::is_empty));
        if !drained && Instant::now() < *deadline {
            return;
        }
        if !drained {
            tracing::warn!(
                "buffered records of revoked partitions could not be stored in time: another \
                 worker reads them again"
            );
        }
        self.commit_offsets(CommitMode::Async);
        if let Some((partitions, _)) = self.revoking.take()
            && let Err(error) = self.release(&partitions)
        {
            tracing::warn!(%error, "partitions could not be released");
        }
    }

    /// Drops the buffers of partitions and answers the group.
    fn release(&mut self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        // The revocation supersedes assignments that are not answered yet.
        self.assignments.abort_all();
        for key in partitions
            .iter()
            .filter_map(|partition| self.worker.key(partition))
        {
            self.drop_buffer(key);
        }
        let list = list(
            partitions
                .iter()
                .map(|(topic, partition)| (topic.as_str(), *partition, -1)),
        );
        self.consumer.incremental_unassign(&list)?;
        Ok(())
    }

    fn drop_buffer(&mut self, key: Key) {
        if let Some(handle) = self.in_flight.remove(&key) {
            handle.abort();
        }
        if let Some(buffer) = self.buffers.remove(&key) {
            self.worker
                .metrics
                .remove_partition(&buffer.source().topic.name, buffer.source().partition);
        }
    }

    pub(super) fn drop_all(&mut self) {
        for key in self.buffers.keys().copied().collect::<Vec<_>>() {
            self.drop_buffer(key);
        }
        self.worker.metrics.buffered_bytes.set(0);
    }
}

/// Where to resume; none where the look-up was aborted.
fn starts(found: Resumed) -> Result<Option<Vec<Start>>, End> {
    match found {
        Ok(starts) => Ok(Some(starts?)),
        Err(error) if error.is_cancelled() => Ok(None),
        Err(error) => Err(anyhow!(error)
            .context("the look-up of where to resume failed")
            .into()),
    }
}
