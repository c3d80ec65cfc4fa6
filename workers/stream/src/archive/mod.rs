//! The raw archive: every record as it was posted, in objects of an S3 store.
//!
//! An object is its own position: its key says where the archive resumed, its metadata where it
//! goes on. `If-None-Match: *` makes the PUT the atomic step, since of two workers that resumed at
//! one place both write the same key. The protocol is in `docs/internals/architecture.md`; the
//! layout in [`pinpipe_runtime::raw_zone`].

pub mod lines;
mod reset;
mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use pinpipe_runtime::{
    compressed,
    raw_zone::{Facts, Index, RawPartition},
};
use tokio::sync::OnceCell;

use self::{
    lines::Lines,
    store::{Object, Put, Store},
};
use crate::{
    protocol::Taken,
    sink::{First, Halt, Limits, Position, Sink, SinkError, Source, Topic},
};

/// The sink.
#[derive(Debug)]
pub struct Archive {
    config: pinpipe_config::Archive,
    /// Whose archive: the consumer group.
    owner: String,
    /// Opened at first need.
    store: OnceCell<Store>,
}

/// What an object holds.
struct Content<'a> {
    body: Bytes,
    index: &'a Index,
    /// The earliest and the latest of its records' times.
    times: (i64, i64),
}

impl Archive {
    /// An archive that goes to the store when it is first needed.
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

    /// Where the archive of a partition ends: the highest key by number, and what its metadata
    /// says.
    async fn position(
        &self,
        store: &Store,
        raw: &RawPartition,
    ) -> Result<Option<Position>, SinkError> {
        let objects = store.list(&self.config.zone.prefix, raw).await?;
        let Some(last) = objects.last() else {
            return Ok(None);
        };
        let facts = store.facts(&last.key).await?;
        // Gone since it was listed: somebody is tidying up, so ask again.
        let facts = facts.with_context(|| format!("{} was listed and is gone", last.key))?;
        Ok(Some(Position {
            cluster_id: facts.cluster_id,
            topic_id: facts.topic_id,
            next: facts.next_offset,
        }))
    }

    /// Writes the object that accounts for `from..to`, its index object before it. Gives where the
    /// object of that key ends: at `to`, or elsewhere when another one is there.
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
        let facts = Facts {
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
            .with_context(|| format!("{} is there and is not", store.url(&key)))?;
        Halt::unless_same(source, &there.cluster_id, &there.topic_id)?;
        match Taken::decide(there.next_offset, from, to) {
            Taken::Done(end) | Taken::Behind(end) => Ok(end),
            Taken::Unreadable => {
                let what = format!(
                    "{} ends at {}, before it begins",
                    store.url(&key),
                    there.next_offset
                );
                Err(Halt::PositionUnreadable(what).into())
            }
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
        }
    }

    fn first(&self) -> First {
        First::Committed
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
    ) -> Result<BTreeMap<i32, Position>, SinkError> {
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
        self.not_reset(topic, id, partitions).await
    }

    async fn reset(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        to: &BTreeMap<i32, i64>,
    ) -> Result<(), SinkError> {
        for (&partition, &to) in to {
            self.reset_partition(
                &Source {
                    topic: topic.clone(),
                    partition,
                },
                id,
                to,
            )
            .await?;
        }
        Ok(())
    }

    async fn commit(
        &self,
        source: &Source,
        lines: &Lines,
        mut from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let store = self.store().await?;
        loop {
            let part = lines.part(from);
            if part.records() == 0 {
                return Ok(from);
            }
            let content = Content {
                body: lines.body(&part).await?,
                index: &part.index,
                times: part.times(),
            };
            let end = self.write(store, source, content, from, to).await?;
            if end >= to {
                return Ok(end);
            }
            tracing::info!(%source, from, next = end, "the object is there already: going on behind it");
            from = end;
        }
    }
}
