//! Where to read on: the sink's position held against the log.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use pinpipe_config::{Reset, ResetTo, StartFrom};
use pinpipe_core::Kind;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    metadata::MetadataPartition,
};

use crate::{
    backoff::Backoff,
    commit::{REMINDER, SinkHealth},
    consumer::Consumer,
    reset,
    sink::{First, Halt, Position, Sink, SinkError, Source, Topic},
};

/// How long a broker may take for one answer.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a partition goes on.
#[derive(Clone, Debug)]
pub struct Start {
    /// The partition.
    pub source: Source,
    /// The sink's position.
    pub stored: i64,
    /// The offset to read next.
    pub fetch: i64,
    /// The group's committed offset.
    pub committed: Option<i64>,
}

/// The offsets a partition's log holds: `low..high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The first offset.
    pub low: i64,
    /// The end.
    pub high: i64,
}

impl Log {
    /// Whether reading can go on at `position`.
    pub fn holds(self, position: i64) -> bool {
        (self.low..=self.high).contains(&position)
    }
}

/// Where the sink's position is (to be stored with the next batch) and what to read next. Neither
/// skips a record in silence.
pub fn start(
    source: &Source,
    first: First,
    stored: Option<&Position>,
    committed: Option<i64>,
    log: Log,
) -> Result<(i64, i64), Halt> {
    let out_of_range = |position| Halt::OffsetOutOfRange {
        source_name: source.to_string(),
        position,
        low: log.low,
        high: log.high,
    };
    let Some(stored) = stored else {
        let begin = committed.unwrap_or(log.low);
        return if log.holds(begin) {
            Ok((begin, begin))
        } else {
            Err(out_of_range(begin))
        };
    };
    Halt::unless_same(source, &stored.cluster_id, &stored.topic_id)?;
    if log.holds(stored.next) {
        return Ok((stored.next, stored.next));
    }
    match committed {
        // Between the two there was nothing to store (rejected records, markers), and so the
        // position stayed behind.
        Some(committed)
            if first == First::Committed && stored.next < committed && log.holds(committed) =>
        {
            Ok((stored.next, committed))
        }
        _ => Err(out_of_range(stored.next)),
    }
}

/// The sink's first positions of a topic: of all partitions when it has none yet, else 0 for those
/// that appeared since.
pub fn first_positions(
    from: StartFrom,
    stored: &BTreeMap<i32, Position>,
    logs: &BTreeMap<i32, Log>,
) -> BTreeMap<i32, i64> {
    logs.iter()
        .filter(|(partition, _)| !stored.contains_key(partition))
        .map(|(partition, log)| {
            let begin = match from {
                _ if !stored.is_empty() => 0,
                StartFrom::Earliest => log.low,
                StartFrom::Latest => log.high,
            };
            (*partition, begin)
        })
        .collect()
}

/// What is needed to find out.
pub struct Resume<S> {
    /// The consumer, to ask the brokers with.
    pub consumer: Arc<Consumer>,
    /// The sink.
    pub sink: Arc<S>,
    /// Told whether the sink answers.
    pub health: Arc<SinkHealth>,
    /// Positions a user asks for in place of the sink's.
    pub reset: Option<Reset>,
}

/// Partitions by topic.
pub type Assigned = BTreeMap<(Kind, String), Vec<i32>>;

impl<S: Sink> Resume<S> {
    /// Finds where to resume, trying until broker and sink have answered.
    pub async fn run(self, assigned: Assigned) -> Result<Vec<Start>, Halt> {
        let mut starts = Vec::new();
        for ((kind, name), partitions) in assigned {
            let (mut backoff, mut told) = (Backoff::default(), None);
            let found = loop {
                match self.topic(kind, &name, &partitions).await {
                    Ok(found) => break found,
                    Err(SinkError::Halt(halt)) => return Err(halt),
                    Err(error) => {
                        let wait = backoff.next();
                        if told.is_none_or(|told: Instant| told.elapsed() > REMINDER) {
                            told = Some(Instant::now());
                            tracing::warn!(
                                topic = name,
                                error = format!("{error:#}"),
                                "where to resume isn't known yet: trying on"
                            );
                        }
                        tokio::time::sleep(wait).await;
                    }
                }
            };
            starts.extend(found);
        }
        Ok(starts)
    }

    async fn topic(
        &self,
        kind: Kind,
        name: &str,
        partitions: &[i32],
    ) -> Result<Vec<Start>, SinkError> {
        let topic = Arc::new(self.identify(kind, name).await?);
        if let Some(reset) = self
            .reset
            .as_ref()
            .filter(|reset| reset::concerns(reset, name))
        {
            if reset.partition.is_some() {
                // Else the partition's position, being the only one, would make the others look
                // new.
                self.stored(&topic, partitions).await?;
            }
            self.carry_out(reset, &topic, partitions).await?;
        }
        let stored = self.stored(&topic, partitions).await?;
        let logs = self.logs(name, Some(partitions.to_vec())).await?;
        let committed = self.committed(name, partitions).await?;
        let mut starts = Vec::new();
        for &partition in partitions {
            let source = Source {
                topic: topic.clone(),
                partition,
            };
            let log = *logs
                .get(&partition)
                .with_context(|| format!("{source}: no such partition yet"))?;
            let committed = committed.get(&partition).copied();
            let (stored, fetch) = start(
                &source,
                self.sink.first(),
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

    /// The sink's positions, where it remembers its first ones with those.
    async fn stored(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Position>, SinkError> {
        let stored = self.positions(topic, partitions).await?;
        let First::Remembered(from) = self.sink.first() else {
            return Ok(stored);
        };
        if partitions
            .iter()
            .all(|partition| stored.contains_key(partition))
        {
            return Ok(stored);
        }
        if let Some((partition, position)) = stored.first_key_value() {
            let source = Source {
                topic: topic.clone(),
                partition: *partition,
            };
            Halt::unless_same(&source, &position.cluster_id, &position.topic_id)?;
        }
        let logs = self.logs(&topic.name, None).await?;
        self.sink
            .remember(topic, &stored, &first_positions(from, &stored, &logs))
            .await?;
        let stored = self.positions(topic, partitions).await?;
        if partitions
            .iter()
            .any(|partition| !stored.contains_key(partition))
        {
            return Err(anyhow!(
                "another worker has stored first positions of {} meanwhile",
                topic.name
            )
            .into());
        }
        Ok(stored)
    }

    /// Carries a reset out unless somebody has. A sink with positions of its own takes those of all
    /// the topic's partitions at once, whoever comes first; one without takes each where it is
    /// assigned.
    async fn carry_out(
        &self,
        reset: &Reset,
        topic: &Arc<Topic>,
        assigned: &[i32],
    ) -> Result<(), SinkError> {
        let at_once = self.sink.first() != First::Committed;
        let wanted: Vec<i32> = match reset.partition {
            Some(partition) if at_once => vec![partition],
            named => assigned
                .iter()
                .copied()
                .filter(|partition| named.is_none_or(|named| named == *partition))
                .collect(),
        };
        let pending = self.observed(self.sink.reset_pending(topic, &reset.id, &wanted).await)?;
        if pending.is_empty() {
            return Ok(());
        }
        let mut logs = self.logs(&topic.name, None).await?;
        if let Some(partition) = reset
            .partition
            .filter(|partition| !logs.contains_key(partition))
        {
            return Err(reset::no_such_partition(&topic.name, partition, &logs).into());
        }
        if !at_once || reset.partition.is_some() {
            logs.retain(|partition, _| pending.contains(partition));
        }
        let at = match reset.to {
            ResetTo::Time(time) => {
                self.offsets_at(&topic.name, logs.keys().copied().collect(), time)
                    .await?
            }
            _ => BTreeMap::new(),
        };
        let targets = reset::targets(&topic.name, reset.to, &logs, &at)?;
        if !at_once {
            let stored = self.positions(topic, &pending).await?;
            let without = targets
                .iter()
                .filter(|(partition, _)| !stored.contains_key(partition));
            self.tell_group(
                &topic.name,
                without.map(|(partition, to)| (*partition, *to)).collect(),
            )
            .await?;
        }
        tracing::warn!(
            topic = topic.name,
            id = reset.id,
            ?targets,
            "resetting positions as asked"
        );
        self.observed(self.sink.reset(topic, &reset.id, &targets).await)
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Position>, SinkError> {
        self.observed(self.sink.positions(topic, partitions).await)
    }

    /// Notes whether the sink has answered.
    fn observed<T>(&self, answer: Result<T, SinkError>) -> Result<T, SinkError> {
        match &answer {
            Ok(_) => self.health.up(),
            Err(SinkError::Away(error)) => self.health.down(error),
            Err(_) => {}
        }
        answer
    }

    async fn identify(&self, kind: Kind, name: &str) -> anyhow::Result<Topic> {
        let topic = name.to_owned();
        let mut identity = self
            .blocking(move |consumer| {
                Ok(pinpipe_runtime::kafka::identity(
                    consumer.client(),
                    &[&topic],
                    BROKER_TIMEOUT,
                )?)
            })
            .await?;
        let id = identity
            .topic_ids
            .remove(name)
            .with_context(|| format!("topic {name} has no id"))?;
        Ok(Topic {
            kind,
            name: name.to_owned(),
            cluster_id: identity.cluster_id,
            id,
        })
    }

    /// What the logs of some partitions, or of all, hold.
    async fn logs(
        &self,
        name: &str,
        partitions: Option<Vec<i32>>,
    ) -> anyhow::Result<BTreeMap<i32, Log>> {
        let name = name.to_owned();
        self.blocking(move |consumer| {
            let partitions = if let Some(partitions) = partitions {
                partitions
            } else {
                let metadata = consumer.fetch_metadata(Some(&name), BROKER_TIMEOUT)?;
                let topic = metadata.topics().iter().find(|topic| topic.name() == name);
                topic.map_or_else(Vec::new, |topic| {
                    topic
                        .partitions()
                        .iter()
                        .map(MetadataPartition::id)
                        .collect()
                })
            };
            partitions
                .into_iter()
                .map(|partition| {
                    let (low, high) =
                        consumer.fetch_watermarks(&name, partition, BROKER_TIMEOUT)?;
                    Ok((partition, Log { low, high }))
                })
                .collect()
        })
        .await
    }

    async fn committed(
        &self,
        name: &str,
        partitions: &[i32],
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(name, *partition);
        }
        self.blocking(move |consumer| {
            let committed = consumer.committed_offsets(list, BROKER_TIMEOUT)?;
            let offsets =
                committed
                    .elements()
                    .into_iter()
                    .filter_map(|element| match element.offset() {
                        Offset::Offset(offset) => Some((element.partition(), offset)),
                        _ => None,
                    });
            Ok(offsets.collect())
        })
        .await
    }

    /// The first offsets not before a time, milliseconds since the epoch, of the partitions that
    /// have such records.
    async fn offsets_at(
        &self,
        name: &str,
        partitions: Vec<i32>,
        time: i64,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(name, partition, Offset::Offset(time))?;
        }
        self.blocking(move |consumer| {
            let found = consumer.offsets_for_times(list, BROKER_TIMEOUT)?;
            let mut offsets = BTreeMap::new();
            for element in found.elements() {
                element
                    .error()
                    .with_context(|| format!("{}[{}]", element.topic(), element.partition()))?;
                if let Offset::Offset(offset) = element.offset() {
                    offsets.insert(element.partition(), offset);
                }
            }
            Ok(offsets)
        })
        .await
    }

    /// Commits offsets to the group, and waits until they are.
    async fn tell_group(&self, name: &str, offsets: BTreeMap<i32, i64>) -> anyhow::Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(name, partition, Offset::Offset(offset))?;
        }
        self.blocking(move |consumer| Ok(consumer.commit(&list, CommitMode::Sync)?))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Consumer) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let consumer = self.consumer.clone();
        match tokio::task::spawn_blocking(move || ask(&consumer)).await {
            Ok(answer) => answer,
            Err(error) => Err(anyhow!(error)),
        }
    }
}

/// Whether the topics are still those of these sources; an error: it can't be told now.
pub fn is_same(consumer: &Consumer, topics: &[Arc<Topic>]) -> anyhow::Result<bool> {
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    let identity = pinpipe_runtime::kafka::identity(consumer.client(), &names, BROKER_TIMEOUT)?;
    Ok(topics.iter().all(|topic| {
        identity.cluster_id == topic.cluster_id
            && identity.topic_ids.get(&topic.name) == Some(&topic.id)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        let topic = Topic {
            kind: Kind::Pin,
            name: "t".into(),
            cluster_id: "cluster".into(),
            id: "topic".into(),
        };
        Source {
            topic: Arc::new(topic),
            partition: 1,
        }
    }

    fn position(next: i64) -> Position {
        Position {
            cluster_id: "cluster".into(),
            topic_id: "topic".into(),
            next,
        }
    }

    const REMEMBERED: First = First::Remembered(StartFrom::Earliest);
    const LOG: Log = Log { low: 10, high: 20 };

    #[test]
    fn resumes_at_the_stored_position_within_the_log() {
        for next in [10, 15, 20] {
            for committed in [None, Some(3), Some(18)] {
                let begun = start(&source(), REMEMBERED, Some(&position(next)), committed, LOG);
                assert_eq!(begun, Ok((next, next)));
            }
        }
    }

    #[test]
    fn a_position_outside_the_log_stops_the_sink() {
        for next in [9, 21] {
            for (first, committed) in [
                (REMEMBERED, Some(15)),
                (First::Committed, None),
                (First::Committed, Some(5)),
            ] {
                let halt =
                    start(&source(), first, Some(&position(next)), committed, LOG).unwrap_err();
                assert_eq!(halt.reason(), "OffsetOutOfRange");
            }
        }
    }

    #[test]
    fn what_the_archive_had_nothing_to_store_of_is_no_gap() {
        assert_eq!(
            start(
                &source(),
                First::Committed,
                Some(&position(5)),
                Some(12),
                LOG
            ),
            Ok((5, 12))
        );
    }

    #[test]
    fn an_emptied_archive_goes_on_at_the_committed_offset() {
        assert_eq!(
            start(&source(), First::Committed, None, Some(15), LOG),
            Ok((15, 15))
        );
        assert_eq!(
            start(&source(), First::Committed, None, None, LOG),
            Ok((10, 10))
        );
        assert!(start(&source(), First::Committed, None, Some(5), LOG).is_err());
    }

    #[test]
    fn another_topic_of_the_name_stops_the_sink() {
        for (cluster_id, topic_id) in [("other", "topic"), ("cluster", "other")] {
            let stored = Position {
                cluster_id: cluster_id.into(),
                topic_id: topic_id.into(),
                next: 15,
            };
            let halt = start(&source(), REMEMBERED, Some(&stored), None, LOG).unwrap_err();
            assert_eq!(halt.reason(), "TopicReplaced");
        }
    }

    #[test]
    fn first_positions_are_of_all_partitions_at_first_and_later_ones_begin_at_0() {
        let logs = BTreeMap::from([(0, LOG), (1, Log { low: 0, high: 5 })]);
        let none = BTreeMap::new();
        assert_eq!(
            first_positions(StartFrom::Earliest, &none, &logs),
            BTreeMap::from([(0, 10), (1, 0)])
        );
        assert_eq!(
            first_positions(StartFrom::Latest, &none, &logs),
            BTreeMap::from([(0, 20), (1, 5)])
        );
        let some = BTreeMap::from([(0, position(15))]);
        assert_eq!(
            first_positions(StartFrom::Latest, &some, &logs),
            BTreeMap::from([(1, 0)])
        );
    }
}
