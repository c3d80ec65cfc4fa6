//! The raw archive: every record as it was posted, in objects of an S3 store.
//!
//! The objects are also the position: an object's key holds the position it starts at, its metadata
//! the one behind it. `If-None-Match: *` makes the PUT atomic, since two workers that resume at one
//! position write the same key. `docs/internals/architecture.md` describes the protocol,
//! [`pinpipe_runtime::raw_zone`] the layout.

pub mod lines;
mod reset;
mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use pinpipe_runtime::{
    compressed,
    raw_zone::{Index, ObjectMetadata, RawPartition},
};
use tokio::sync::OnceCell;

use self::{
    lines::Lines,
    store::{Object, Put, Store},
};
use crate::{
    log::Position,
    protocol::Taken,
    sink::{
        Answer, Grouping, Halt, InitialPosition, Limits, Part, Sink, SinkError, Source,
        StoredPosition, Topic,
    },
};

/// The sink.
#[derive(Debug)]
pub struct Archive {
    config: pinpipe_config::Archive,
    /// The consumer group.
    owner: String,
    /// The store, opened at first use.
    store: OnceCell<Store>,
}

/// The content of a raw object.
struct Content<'a> {
    body: Bytes,
    index: &'a Index,
    /// The earliest and the latest record time.
    times: (i64, i64),
}

impl Archive {
    /// An archive that connects when it is first used.
    #[must_use]
    pub const fn new(config: pinpipe_config::Archive, owner: String) -> Self {
        Self {
            config,
            owner,
            store: OnceCell::const_new(),
        }
    }

    async fn store(&self) -> Result<&Store, SinkError> {
        self.store
            .get_or_try_init(|| Store::open(&self.config.zone, &self.owner))
            .await
    }

    /// Where a partition's archive ends, by the metadata of the object with the highest offset in
    /// its key.
    async fn position(
        &self,
        store: &Store,
        raw: &RawPartition,
    ) -> Result<Option<StoredPosition>, SinkError> {
        let objects = store.list(&self.config.zone.prefix, raw).await?;
        let Some(last) = objects.last() else {
            return Ok(None);
        };
        let facts = store.facts(&last.key).await?;
        // Somebody deletes objects: the caller retries.
        let facts = facts.with_context(|| format!("{} was deleted meanwhile", last.key))?;
        Ok(Some(StoredPosition {
            cluster_id: facts.cluster_id,
            topic_id: facts.topic_id,
            next: Position::offset(facts.next_offset),
        }))
    }

    /// Writes the index object, then the object for the offsets `from..to`. Returns where the
    /// object with that key ends: at `to`, or elsewhere if there was one before.
    async fn write(
        &self,
        store: &Store,
        source: &Source,
        content: Content<'_>,
        from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let raw = raw_partition(&source.topic, source.partition);
        let (prefix, compression) = (&self.config.zone.prefix, self.config.compression);
        let facts = ObjectMetadata {
            next_offset: to,
            record_count: content.index.offsets.len() as u64,
            min_time: content.times.0,
            max_time: content.times.1,
            cluster_id: source.topic.cluster_id.clone(),
            topic_id: source.topic.id.clone(),
            index: raw.index_key(prefix, from, to, content.index.offsets.len()),
        };
        store.put_json(&facts.index, content.index).await?;
        let object = Object {
            body: content.body,
            content_type: compressed::content_type(compression),
            metadata: facts.to_metadata(),
        };
        let key = raw.object_key(prefix, from, compression);
        if store.create(&key, &object).await? == Put::Written {
            return Ok(to);
        }
        let there = store
            .facts(&key)
            .await?
            .with_context(|| format!("{} was deleted meanwhile", store.url(&key)))?;
        Halt::check_identity(source, &there.cluster_id, &there.topic_id)?;
        match Taken::decide(there.next_offset, from, to) {
            Taken::Done(end) | Taken::Behind(end) => Ok(end),
            Taken::Unreadable => {
                let problem = format!(
                    "{} ends at {}, before it starts",
                    store.url(&key),
                    there.next_offset
                );
                Err(Halt::PositionUnreadable(problem).into())
            }
        }
    }

    /// Stores the lines of a batch in one object, or in what is left of it by another worker.
    async fn store_lines(
        &self,
        source: &Source,
        part: &Part<'_, Lines>,
    ) -> Result<Answer, SinkError> {
        let store = self.store().await?;
        let (mut from, to) = (part.from.next_offset(), part.to.next_offset());
        loop {
            let rest = part.batch.part(from);
            if rest.records() == 0 {
                return Ok(Answer::Stored(Position::offset(from)));
            }
            let content = Content {
                body: part.batch.body(&rest).await?,
                index: &rest.index,
                times: rest.times(),
            };
            let end = self.write(store, source, content, from, to).await?;
            if end == to {
                return Ok(Answer::Stored(part.to));
            }
            if end > to {
                return Ok(Answer::AlreadyStored(Position::offset(end)));
            }
            tracing::info!(
                %source,
                from,
                next = end,
                "another worker has written the object: continuing behind it"
            );
            from = end;
        }
    }
}

fn raw_partition(topic: &Topic, partition: i32) -> RawPartition {
    RawPartition {
        topic: topic.name.clone(),
        partition,
    }
}

impl Sink for Archive {
    type Batch = Lines;

    fn limits(&self) -> Limits {
        let rotate = &self.config.rotate;
        Limits {
            records: usize::try_from(rotate.records).unwrap_or(usize::MAX),
            bytes: usize::try_from(rotate.bytes).unwrap_or(usize::MAX),
            age: Duration::from_secs(rotate.interval_seconds),
            grouping: Grouping::Partition,
        }
    }

    fn initial_position(&self) -> InitialPosition {
        InitialPosition::GroupOffset
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.store().await.map(drop)
    }

    fn batch(&self, _: &Source) -> Lines {
        Lines::new(self.config.compression)
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        let store = self.store().await?;
        let mut positions = BTreeMap::new();
        for &partition in partitions {
            if let Some(position) = self
                .position(store, &raw_partition(topic, partition))
                .await?
            {
                positions.insert(partition, position);
            }
        }
        Ok(positions)
    }

    async fn reset_pending(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        partitions: &[i32],
    ) -> Result<Vec<i32>, SinkError> {
        self.pending_resets(topic, id, partitions).await
    }

    async fn reset(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        to: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        for (&partition, &to) in to {
            self.reset_partition(
                &Source {
                    topic: topic.clone(),
                    partition,
                },
                id,
                to.next_offset(),
            )
            .await?;
        }
        Ok(())
    }

    async fn commit(
        &self,
        topic: &Arc<Topic>,
        group: &[Part<'_, Lines>],
    ) -> Result<Vec<Answer>, SinkError> {
        let mut answers = Vec::with_capacity(group.len());
        for part in group {
            let source = Source {
                topic: topic.clone(),
                partition: part.partition,
            };
            answers.push(match self.store_lines(&source, part).await {
                Err(SinkError::Halt(halt)) => Answer::Halt(halt),
                stored => stored?,
            });
        }
        Ok(answers)
    }
}
