//! The look-up of where partitions resume, which also carries out resets.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use anyhow::{Context, anyhow};
use futures::future::join_all;
use pinpipe_config::ResetTo;
use pinpipe_core::Kind;
use pinpipe_runtime::admin::Readiness;

use super::{Start, initial_positions, start};
use crate::{
    backoff::{Backoff, REMINDER},
    clock::Clock,
    commit::SinkHealth,
    log::{Extent, Log, NOT_AUTHORIZED, NotAuthorized, Position},
    reset::{self, RequestedReset},
    sink::{Halt, InitialPosition, Sink, SinkError, Source, StoredPosition, Topic},
};

/// The look-up of where to resume.
pub struct Resume<L, S, C> {
    /// The log.
    pub log: L,
    /// The time between two attempts.
    pub clock: C,
    /// The sink.
    pub sink: Arc<S>,
    /// Reports whether the sink is available.
    pub health: Arc<SinkHealth>,
    /// Where a missing right is reported.
    pub readiness: Readiness,
    /// A reset that a user has requested.
    pub reset: Option<Arc<RequestedReset>>,
    /// Whether this worker writes the dead letters of rejected records.
    pub writes_dead_letters: bool,
    /// Whether records stamped by their producers were met, so that the topic's setting must be
    /// asked for.
    pub stamped_by_producers: bool,
}

/// Partitions by topic.
pub type Assigned = BTreeMap<(Kind, String), Vec<i32>>;

/// Where a partition resumes, or why it must stop.
#[derive(Clone, Debug)]
pub struct Found {
    /// The kind of the partition's topic.
    pub kind: Kind,
    /// The partition's number.
    pub partition: i32,
    /// Where it resumes.
    pub start: Result<Start, Halt>,
}

impl<L: Log, S: Sink, C: Clock> Resume<L, S, C> {
    /// Finds where to resume, retrying until log and sink have answered.
    pub async fn run(self, assigned: Assigned) -> Vec<Found> {
        let topics = assigned.iter().map(async |((kind, name), partitions)| {
            let starts = self.find(*kind, name, partitions).await;
            let found = |(partition, start): (&i32, _)| Found {
                kind: *kind,
                partition: *partition,
                start,
            };
            partitions.iter().zip(starts).map(found).collect()
        });
        let found: Vec<Vec<Found>> = join_all(topics).await;
        found.into_iter().flatten().collect()
    }

    /// Where partitions of a topic resume. A halt may be about one of them, so each is looked up by
    /// itself then.
    async fn find(&self, kind: Kind, name: &str, partitions: &[i32]) -> Vec<Result<Start, Halt>> {
        match self.answer(kind, name, partitions).await {
            Ok(starts) => starts,
            Err(_) if partitions.len() > 1 => {
                let mut starts = Vec::with_capacity(partitions.len());
                for partition in partitions {
                    match self.answer(kind, name, &[*partition]).await {
                        Ok(start) => starts.extend(start),
                        Err(halt) => starts.push(Err(halt)),
                    }
                }
                starts
            }
            Err(halt) => vec![Err(halt)],
        }
    }

    /// Looks partitions up until log and sink have answered.
    async fn answer(
        &self,
        kind: Kind,
        name: &str,
        partitions: &[i32],
    ) -> Result<Vec<Result<Start, Halt>>, Halt> {
        let (mut backoff, mut last_logged) = (Backoff::default(), None);
        let mut forbidden = false;
        loop {
            let answer = self.look_up(kind, name, partitions).await;
            let refused = match &answer {
                Err(SinkError::Unavailable(error)) => error.downcast_ref::<NotAuthorized>(),
                _ => None,
            };
            if forbidden || refused.is_some() {
                forbidden = refused.is_some();
                let message = refused.map(ToString::to_string);
                self.readiness.degraded(NOT_AUTHORIZED, message);
            }
            match answer {
                Ok(starts) => return Ok(starts),
                Err(SinkError::Halt(halt)) => return Err(halt),
                Err(error) => {
                    let wait = backoff.wait();
                    if last_logged.is_none_or(|at: Instant| at.elapsed() > REMINDER) {
                        last_logged = Some(Instant::now());
                        tracing::warn!(
                            topic = name,
                            error = format!("{error:#}"),
                            "can't find out where to resume: retrying"
                        );
                    }
                    self.clock.sleep(wait).await;
                }
            }
        }
    }

    async fn look_up(
        &self,
        kind: Kind,
        name: &str,
        partitions: &[i32],
    ) -> Result<Vec<Result<Start, Halt>>, SinkError> {
        let topic = Arc::new(self.log.identify(kind, name).await?);
        let requested = self.reset.as_ref();
        if let Some(requested) = requested.filter(|it| it.reset.applies_to(name)) {
            let carried_out = self.carry_out(requested, &topic, partitions).await;
            if let Err(SinkError::Halt(halt)) = &carried_out {
                requested.note(name, Err(halt.to_string()));
            }
            carried_out?;
        }
        let stored = self.stored(&topic, partitions).await?;
        // Before the logs' ends, which the one who writes dead letters now may pass meanwhile.
        let letters = if self.writes_dead_letters {
            Some(self.log.letters_committed(&topic, partitions).await?)
        } else {
            None
        };
        let extents = self.log.extents(name, Some(partitions)).await?;
        let committed = self.log.committed(name, partitions).await?;
        if self.stamped_by_producers && !self.log.is_stamped_by_broker(name).await? {
            return Err(Halt::TopicUnsuitable(name.to_owned()).into());
        }
        let mut starts = Vec::new();
        for &partition in partitions {
            let source = Source {
                topic: topic.clone(),
                partition,
            };
            let extent = *extents
                .get(&partition)
                .with_context(|| format!("{source}: no such partition yet"))?;
            let committed = committed.get(&partition).copied();
            let started = start(
                &source,
                self.sink.initial_position(),
                stored.get(&partition),
                committed,
                extent,
            );
            starts.push(started.map(|(stored, fetch)| Start {
                source,
                stored,
                fetch,
                committed,
                letters: None,
                history: if self.stamped_by_producers {
                    extent.high
                } else {
                    Position::START
                },
            }));
        }
        if let Some(letters) = letters {
            self.resume_letters(&topic, &letters, &extents, &mut starts)
                .await;
        }
        Ok(starts)
    }

    /// Lets a writer of dead letters resume where they are written to. Where nobody has written any
    /// they begin at the sink's position, which is noted before the first record is read: a later
    /// writer may be another sink.
    async fn resume_letters(
        &self,
        topic: &Topic,
        committed: &BTreeMap<i32, Position>,
        extents: &BTreeMap<i32, Extent>,
        starts: &mut [Result<Start, Halt>],
    ) {
        let mut first = Vec::new();
        for start in starts.iter_mut().flatten() {
            let partition = start.source.partition;
            let mut written = start.fetch;
            if let (Some(committed), Some(log)) =
                (committed.get(&partition), extents.get(&partition))
            {
                written = log.nearest(*committed);
                if written > *committed {
                    tracing::warn!(
                        source = %start.source,
                        %committed,
                        %written,
                        "records were deleted before their dead letters were written"
                    );
                }
            } else {
                first.push((partition, written));
            }
            start.letters = Some(written);
            start.fetch = start.fetch.min(written);
        }
        // Without a right to the topic this fails. The session commits it later.
        if !first.is_empty()
            && let Err(error) = self.log.commit_letters(topic, &first).await
        {
            tracing::debug!(
                topic = topic.name,
                error = format!("{error:#}"),
                "where the dead letters begin can't be noted yet"
            );
        }
    }

    /// The sink's positions, after storing initial ones where the sink does that.
    async fn stored(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        let stored = self.positions(topic, partitions).await?;
        if partitions
            .iter()
            .all(|partition| stored.contains_key(partition))
        {
            return Ok(stored);
        }
        let InitialPosition::Stored(from) = self.sink.initial_position() else {
            return self.begin(topic, partitions, stored).await;
        };
        if let Some((partition, position)) = stored.first_key_value() {
            let source = Source {
                topic: topic.clone(),
                partition: *partition,
            };
            Halt::check_identity(&source, &position.cluster_id, &position.topic_id)?;
        }
        let logs = self.log.extents(&topic.name, None).await?;
        self.sink
            .store_initial_positions(topic, &stored, &initial_positions(from, &stored, &logs))
            .await?;
        let stored = self.positions(topic, partitions).await?;
        if partitions
            .iter()
            .any(|partition| !stored.contains_key(partition))
        {
            return Err(anyhow!(
                "another worker has stored initial positions of {} meanwhile",
                topic.name
            )
            .into());
        }
        Ok(stored)
    }

    /// Stores the log's start as the position of partitions of which the sink has nothing.
    async fn begin(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
        stored: BTreeMap<i32, StoredPosition>,
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        let missing = partitions.iter().copied();
        let missing: Vec<i32> = missing
            .filter(|partition| !stored.contains_key(partition))
            .collect();
        let logs = self.log.extents(&topic.name, Some(&missing)).await?;
        for (partition, committed) in self.log.committed(&topic.name, &missing).await? {
            let start = logs.get(&partition).map(|log| log.low);
            if start.is_some_and(|start| start < committed) {
                tracing::warn!(
                    topic = topic.name,
                    partition,
                    %committed,
                    "the sink has nothing of this partition, though its group has read a part of \
                     it: what was stored was deleted or moved, or could not be keyed. It starts \
                     again at the earliest record"
                );
            }
        }
        let initial: BTreeMap<i32, Position> = logs
            .iter()
            .map(|(partition, log)| (*partition, log.low))
            .collect();
        let begun = self
            .sink
            .store_initial_positions(topic, &stored, &initial)
            .await;
        self.observed(begun)?;
        self.positions(topic, partitions).await
    }

    /// Carries out a reset unless that was done before, and notes where the sink has it as done. A
    /// sink that stores initial positions is reset in all partitions of the topic at once, by the
    /// first worker; other sinks are reset by the worker each partition is assigned to.
    async fn carry_out(
        &self,
        requested: &RequestedReset,
        topic: &Arc<Topic>,
        assigned: &[i32],
    ) -> Result<(), SinkError> {
        let reset = &requested.reset;
        let at_once = self.sink.initial_position() != InitialPosition::LogStart;
        let logs = self.log.extents(&topic.name, None).await?;
        let named = reset.partitions(&topic.name);
        if let Some(named) = &named {
            if let Some(missing) = named.iter().find(|it| !logs.contains_key(it)) {
                return Err(reset::no_such_partition(&topic.name, *missing, &logs).into());
            }
            // With positions of these partitions alone the others would count as added later and
            // start at 0.
            self.stored(topic, assigned).await?;
        }
        let all = named.unwrap_or_else(|| logs.keys().copied().collect());
        let own = all.iter().copied();
        let own = own.filter(|partition| at_once || assigned.contains(partition));
        let own: Vec<i32> = own.collect();
        let pending = self.observed(self.sink.reset_pending(topic, &reset.id, &own).await)?;
        if !pending.is_empty() {
            self.set_positions(requested, topic, &logs, &pending)
                .await?;
        }
        let left = self.observed(self.sink.reset_pending(topic, &reset.id, &all).await)?;
        if left.is_empty() {
            requested.note(&topic.name, Ok(()));
        }
        Ok(())
    }

    /// Sets the positions of these partitions as a reset asks.
    async fn set_positions(
        &self,
        requested: &RequestedReset,
        topic: &Arc<Topic>,
        logs: &BTreeMap<i32, Extent>,
        pending: &[i32],
    ) -> Result<(), SinkError> {
        let reset = &requested.reset;
        let logs = logs.iter().map(|(partition, log)| (*partition, *log));
        let logs = logs.filter(|(partition, _)| pending.contains(partition));
        let logs: BTreeMap<i32, Extent> = logs.collect();
        let at = match reset.to {
            ResetTo::Time(time) => self.log.positions_at(&topic.name, pending, time).await?,
            _ => BTreeMap::new(),
        };
        let targets = reset::targets(&topic.name, &reset.to, &logs, &at)?;
        let listed = targets
            .iter()
            .map(|(partition, to)| format!("{partition}: {to}"));
        tracing::warn!(
            topic = topic.name,
            id = reset.id,
            targets = listed.collect::<Vec<_>>().join(", "),
            "resetting positions as requested"
        );
        self.observed(self.sink.reset(topic, &reset.id, &targets).await)?;
        requested.note_moved(&topic.name, &targets);
        Ok(())
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        self.observed(self.sink.positions(topic, partitions).await)
    }

    /// Reports to [`SinkHealth`] whether the sink answered.
    fn observed<T>(&self, answer: Result<T, SinkError>) -> Result<T, SinkError> {
        self.health.observe(&answer);
        answer
    }
}
