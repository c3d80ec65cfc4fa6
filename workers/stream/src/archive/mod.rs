//! The raw archive: every record as it was posted, in objects of an S3 store.
//!
//! An object is its own position: its key says where the archive resumed, its metadata where it goes on. `If-None-Match: *` makes
//! the PUT the atomic step, since of two workers that resumed at one place both write the same key. The protocol is in
//! `docs/architecture.md`; the layout in [`pinpipe_runtime::raw_zone`].

pub mod lines;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use aws_sdk_s3::{Client, primitives::ByteStream};
use bytes::Bytes;
use pinpipe_runtime::{
    raw_zone::{self, Facts, RawPartition},
    s3,
};
use tokio::sync::OnceCell;

use self::lines::{Lines, Part};
use crate::{
    protocol::Taken,
    sink::{First, Halt, Limits, Position, Sink, SinkError, Source, Topic},
};

/// The sink.
#[derive(Debug)]
pub struct Archive {
    config: pinpipe_config::Archive,
    /// Made at first need; the bucket is there then.
    client: OnceCell<Client>,
}

/// What became of a conditional PUT.
enum Put {
    /// It is there.
    Written,
    /// Something of that key is there already: another worker's, or ours whose answer was lost.
    Taken,
}

impl Archive {
    /// An archive that goes to the store when it is first needed.
    #[must_use]
    pub const fn new(config: pinpipe_config::Archive) -> Self {
        Self { config, client: OnceCell::const_new() }
    }

    async fn client(&self) -> anyhow::Result<&Client> {
        let zone = &self.config.zone;
        self.client
            .get_or_try_init(|| async {
                let client = s3::client(&zone.s3)?;
                s3::ensure_bucket(&client, &zone.bucket).await?;
                Ok(client)
            })
            .await
    }

    /// The metadata of the object `key`; none: no such object.
    async fn facts(&self, client: &Client, key: &str) -> Result<Option<Facts>, SinkError> {
        raw_zone::facts(client, &self.config.zone.bucket, key).await.map_err(|error| {
            if error.chain().any(<dyn std::error::Error>::is::<raw_zone::FactsError>) {
                Halt::PositionUnreadable(format!("{error:#}. Move it out of the archive's prefix to go on")).into()
            } else {
                SinkError::Away(error)
            }
        })
    }

    /// Where the archive of a partition ends: the highest key by number, and what its metadata says.
    async fn position(&self, client: &Client, raw: &RawPartition) -> Result<Option<Position>, SinkError> {
        let zone = &self.config.zone;
        let objects = raw_zone::list(client, &zone.bucket, &zone.prefix, raw).await?;
        let Some(last) = objects.last() else { return Ok(None) };
        let facts = self.facts(client, &last.key).await?;
        // Gone since it was listed: somebody is tidying up, so ask again.
        let facts = facts.with_context(|| format!("{} was listed and is gone", last.key))?;
        Ok(Some(Position { cluster_id: facts.cluster_id, topic_id: facts.topic_id, next: facts.next_offset }))
    }

    async fn put_index(&self, client: &Client, key: &str, part: &Part) -> anyhow::Result<()> {
        let body = serde_json::to_vec(&part.index)?;
        let put = client.put_object().bucket(&self.config.zone.bucket).key(key).content_type("application/json");
        put.body(body.into())
            .send()
            .await
            .with_context(|| format!("can't write the index object s3://{}/{key}", self.config.zone.bucket))?;
        Ok(())
    }

    async fn put(&self, client: &Client, key: &str, text: Bytes, facts: &Facts) -> Result<Put, SinkError> {
        let bucket = &self.config.zone.bucket;
        loop {
            let put = client
                .put_object()
                .bucket(bucket)
                .key(key)
                .if_none_match("*")
                .content_type("application/x-ndjson")
                .set_metadata(Some(facts.to_metadata()))
                .body(ByteStream::from(text.clone()));
            let Err(error) = put.send().await else { return Ok(Put::Written) };
            match error.raw_response().map(|response| response.status().as_u16()) {
                Some(412) => return Ok(Put::Taken),
                // Another conditional PUT of this key is under way: it decides.
                Some(409) => tokio::time::sleep(Duration::from_millis(100)).await,
                _ => {
                    // The answer may be lost and the object there.
                    if self.facts(client, key).await?.is_some() {
                        return Ok(Put::Taken);
                    }
                    return Err(anyhow::Error::new(error).context(format!("can't write s3://{bucket}/{key}")).into());
                }
            }
        }
    }
}

fn raw_partition(topic: &Topic, partition: i32) -> RawPartition {
    RawPartition { topic: topic.name.clone(), partition }
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

    fn batch(&self, _: &Source) -> Lines {
        Lines::default()
    }

    async fn positions(&self, topic: &Arc<Topic>, partitions: &[i32]) -> Result<BTreeMap<i32, Position>, SinkError> {
        let client = self.client().await?;
        let mut positions = BTreeMap::new();
        for &partition in partitions {
            if let Some(position) = self.position(client, &raw_partition(topic, partition)).await? {
                positions.insert(partition, position);
            }
        }
        Ok(positions)
    }

    async fn remember(&self, _: &Arc<Topic>, _: &BTreeMap<i32, i64>) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&self, source: &Source, lines: &Lines, mut from: i64, to: i64) -> Result<i64, SinkError> {
        let client = self.client().await?;
        let raw = raw_partition(&source.topic, source.partition);
        let prefix = &self.config.zone.prefix;
        loop {
            let part = lines.part(from);
            if part.records() == 0 {
                return Ok(from);
            }
            let (min_time, max_time) = part.times();
            let index = raw.index_key(prefix, from, to);
            let facts = Facts {
                next_offset: to,
                record_count: part.records() as u64,
                min_time,
                max_time,
                cluster_id: source.topic.cluster_id.clone(),
                topic_id: source.topic.id.clone(),
                index: index.clone(),
            };
            let key = raw.object_key(prefix, from);
            self.put_index(client, &index, &part).await?;
            match self.put(client, &key, part.text, &facts).await? {
                Put::Written => return Ok(to),
                Put::Taken => {
                    let there = self.facts(client, &key).await?;
                    let there =
                        there.with_context(|| format!("s3://{}/{key} is there and is not", self.config.zone.bucket))?;
                    Halt::unless_same(source, &there.cluster_id, &there.topic_id)?;
                    match Taken::decide(there.next_offset, from, to) {
                        Taken::Done(stored) => return Ok(stored),
                        Taken::Behind(next) => {
                            tracing::info!(key, next, "the object is there already: going on behind it");
                            from = next;
                        }
                        Taken::Unreadable => {
                            let what = format!(
                                "s3://{}/{key} ends at {}, before it begins",
                                self.config.zone.bucket, there.next_offset
                            );
                            return Err(Halt::PositionUnreadable(what).into());
                        }
                    }
                }
            }
        }
    }
}
