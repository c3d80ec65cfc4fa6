//! The raw archive: every record as it was posted, in objects of an S3 store.
//!
//! The objects are also the position: an object's key holds the position it starts at, its metadata
//! the one behind it. `If-None-Match: *` makes the PUT atomic, since two workers that resume at one
//! position write the same key. `docs/internals/architecture.md` describes the protocol,
//! [`pinpipe_runtime::raw_zone`] the layout.

mod begin;
mod connection;
mod failure;
mod last;
pub mod lines;
mod reset;
mod store;
mod upload;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use pinpipe_config::Compression;
use pinpipe_runtime::{
    compressed,
    raw_zone::{Index, ObjectMetadata, RawPartition},
    s3,
};
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

use self::{
    connection::Connection,
    lines::Lines,
    store::{Object, Put, Store},
};
use crate::{
    log::Position,
    protocol::Taken,
    sink::{
        Answer, Grouping, Halt, InitialPosition, Limits, Part, SecretRefused, Sink, SinkError,
        Source, StoredPosition, Topic,
    },
};

/// Partitions whose ends are looked up at the same time.
const CONCURRENT_LOOKUPS: usize = 16;

/// The sink.
#[derive(Debug)]
pub struct Archive {
    config: pinpipe_config::Archive,
    /// The consumer group.
    owner: String,
    connection: RwLock<Connection>,
}

/// What the keys of a partition's objects depend on, apart from their position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    compression: Compression,
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
            connection: RwLock::const_new(Connection::closed()),
        }
    }

    /// Runs `work` on the store.
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Store) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let open = self.connection.read().await.store.clone();
        let store = if let Some(store) = open {
            store
        } else {
            let mut connection = self.connection.write().await;
            connection.open(&self.config.zone, &self.owner).await?
        };
        let done = work(&store).await;
        let reopens = match &done {
            // The Secret may have been renewed.
            Err(SinkError::Unavailable(error)) => error.is::<SecretRefused>(),
            Err(SinkError::Halt(halt)) => is_about_store(halt),
            Ok(_) => false,
        };
        if reopens {
            self.close().await;
        }
        done
    }

    async fn close(&self) {
        self.connection.write().await.store = None;
    }

    /// Where a partition's archive ends, by the metadata of the object with the highest position in
    /// its key; without objects, where it begins.
    async fn position(
        &self,
        store: &Store,
        topic: &Topic,
        raw: &RawPartition,
    ) -> Result<Option<StoredPosition>, SinkError> {
        let prefix = &self.config.zone.prefix;
        self.check_format(store, raw).await?;
        let Some(last) = store.last_object(prefix, raw).await? else {
            return self.begin(store, topic, raw).await;
        };
        let facts = store.facts(&last.key).await?;
        // Somebody deletes objects: the caller retries.
        let facts = facts.with_context(|| format!("{} was deleted meanwhile", last.key))?;
        Ok(Some(StoredPosition {
            cluster_id: facts.cluster_id,
            topic_id: facts.topic_id,
            next: Position::offset(facts.next_offset),
            noted: false,
        }))
    }

    async fn lookup(
        &self,
        store: &Store,
        topic: &Topic,
        partition: i32,
    ) -> Result<(i32, Option<StoredPosition>), SinkError> {
        let raw = raw_partition(topic, partition);
        Ok((partition, self.position(store, topic, &raw).await?))
    }

    /// Records the compression of a partition's objects before the first is written. It is a part
    /// of their keys: two workers that compress differently would not exclude each other.
    async fn check_format(&self, store: &Store, raw: &RawPartition) -> Result<(), SinkError> {
        let key = raw.index_folder(&self.config.zone.prefix) + "format.json";
        let own = Format {
            compression: self.config.compression,
        };
        let found: Option<Format> = store.get_json(&key).await?;
        let recorded = match found {
            Some(format) => format,
            None => match store.create_json(&key, &own).await? {
                Put::Written => return Ok(()),
                // Another worker came first.
                Put::Taken => store.get_json(&key).await?.unwrap_or(own),
            },
        };
        if recorded == own {
            return Ok(());
        }
        Err(Halt::StoreUnsuitable(format!(
            "{} says that the objects of this partition have compression {:?}, and \
             spec.archive.compression is {:?}: set it back, or name another prefix",
            store.url(&key),
            recorded.compression,
            own.compression
        ))
        .into())
    }

    /// Writes the index object, then the object for the offsets `from..to`. Returns where the
    /// object with that key ends, and whether it was written now.
    async fn write(
        &self,
        store: &Store,
        source: &Source,
        content: Content<'_>,
        from: i64,
        to: i64,
    ) -> Result<(i64, Put), SinkError> {
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
            return Ok((to, Put::Written));
        }
        let there = store
            .facts(&key)
            .await?
            .with_context(|| format!("{} was deleted meanwhile", store.url(&key)))?;
        Halt::check_identity(source, &there.cluster_id, &there.topic_id)?;
        match Taken::decide(there.next_offset, from, to) {
            Taken::Done(end) | Taken::Behind(end) => Ok((end, Put::Taken)),
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
        store: &Store,
        source: &Source,
        part: &Part<'_, Lines>,
    ) -> Result<Answer, SinkError> {
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
            let (end, put) = self.write(store, source, content, from, to).await?;
            if put == Put::Written {
                return Ok(Answer::Stored(part.to));
            }
            if end >= to {
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

/// Whether the store may be another one, or set up otherwise, when the partition is tried again.
const fn is_about_store(halt: &Halt) -> bool {
    matches!(halt, Halt::StoreUnsuitable(_))
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
        InitialPosition::LogStart
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.with(async |_| Ok(())).await
    }

    async fn renew(&self) -> anyhow::Result<()> {
        s3::client(&self.config.zone.s3).await?;
        self.close().await;
        Ok(())
    }

    fn batch(&self, _: &Source) -> Lines {
        Lines::new(self.config.compression)
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        self.with(async |store| {
            let mut lookups = Vec::with_capacity(partitions.len());
            for &partition in partitions {
                lookups.push(self.lookup(store, topic, partition).boxed());
            }
            let found: Vec<(i32, Option<StoredPosition>)> = stream::iter(lookups)
                .buffer_unordered(CONCURRENT_LOOKUPS)
                .try_collect()
                .await?;
            let positions = found.into_iter();
            Ok(positions
                .filter_map(|(partition, position)| Some((partition, position?)))
                .collect())
        })
        .await
    }

    async fn store_initial_positions(
        &self,
        topic: &Arc<Topic>,
        _: &BTreeMap<i32, StoredPosition>,
        initial: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        self.with(async |store| {
            for (&partition, position) in initial {
                let start = position.next_offset();
                let start = self.first_begin(store, topic, partition, start).await?;
                self.note_begin(store, topic, partition, start).await?;
            }
            Ok(())
        })
        .await
    }

    async fn reset_pending(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        partitions: &[i32],
    ) -> Result<Vec<i32>, SinkError> {
        self.with(async |store| self.pending_resets(store, topic, id, partitions).await)
            .await
    }

    async fn reset(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        to: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        self.with(async |store| {
            for (&partition, &to) in to {
                let source = Source {
                    topic: topic.clone(),
                    partition,
                };
                self.reset_partition(store, &source, id, to.next_offset())
                    .await?;
            }
            Ok(())
        })
        .await
    }

    async fn commit(
        &self,
        topic: &Arc<Topic>,
        group: &[Part<'_, Lines>],
    ) -> Result<Vec<Answer>, SinkError> {
        let answers = self.with(async |store| {
            let mut answers = Vec::with_capacity(group.len());
            for part in group {
                let source = Source {
                    topic: topic.clone(),
                    partition: part.partition,
                };
                answers.push(match self.store_lines(store, &source, part).await {
                    Err(SinkError::Halt(halt)) => Answer::Halt(halt),
                    stored => stored?,
                });
            }
            Ok(answers)
        });
        let answers = answers.await?;
        if answers
            .iter()
            .any(|answer| matches!(answer, Answer::Halt(halt) if is_about_store(halt)))
        {
            self.close().await;
        }
        Ok(answers)
    }
}
