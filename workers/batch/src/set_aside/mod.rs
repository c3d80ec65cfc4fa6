//! Sets refused rows aside: writes the records behind them to the dead letters of their topic, from
//! where they can be re-driven.
//!
//! That is done before a sink's marker is replaced, so at least once. A row whose record is among
//! the dead letters of the sink already is not written again, whether this run is repeated or a
//! later one gets the same refusal. The raw record is read from the raw objects. Without one, a row
//! stays in the report alone: so does an imported record, which never was in a topic.

mod known;
mod records;
#[cfg(test)]
mod server_tests;
mod writer;

use std::collections::BTreeSet;

use anyhow::Result;
use pinpipe_config::{Batch, Topic};
use pinpipe_core::{Kind, Order, clean};
use pinpipe_runtime::{
    dead_letter::{DeadLetter, DeadLetterId, Redriven},
    failure::Refusal,
    raw_zone::{ObjectMetadata, RawObject, RawPartition},
};
use tracing::{info, warn};

use self::{known::Known, writer::Writer};
use crate::{
    read,
    retry::{RETRY_TIMEOUT, retry},
    sink::Refused,
    store::Store,
};

/// A dead letter and its record.
struct Item {
    letter: DeadLetter,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

/// A refused row of an archived record.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    /// The record's order.
    order: Order,
    /// Where the record stands in the log.
    position: Order,
    refusal: &'a Refusal,
}

impl<'a> Row<'a> {
    /// `None` for an answer, and for records that are older than all of the topic's.
    fn of(refused: &'a Refused) -> Option<Self> {
        let origin = refused.origin?;
        let row = Self {
            order: origin.order,
            // That of a re-driven record isn't in the state. Its original has the same value.
            position: origin.position.unwrap_or(origin.order),
            refusal: &refused.reason,
        };
        (row.position.time > 0 && row.position.partition >= 0).then_some(row)
    }
}

/// Sets the refused rows of one kind and sink aside. Returns how many of them are in the dead
/// letters now.
pub async fn set_aside(
    config: &Batch,
    store: &Store,
    sink: &str,
    kind: Kind,
    refused: &[Refused],
) -> Result<u64> {
    let mut rows: Vec<Row<'_>> = refused.iter().filter_map(Row::of).collect();
    if rows.is_empty() {
        return Ok(0);
    }
    rows.sort_unstable_by_key(|row| (row.position.partition, row.position.offset));
    let aside = Aside {
        config,
        store,
        sink,
        kind,
        topic: read::topic(&config.topics, kind),
    };
    retry(RETRY_TIMEOUT, "setting refused rows aside", || {
        aside.all(&rows)
    })
    .await
}

struct Aside<'a> {
    config: &'a Batch,
    store: &'a Store,
    sink: &'a str,
    kind: Kind,
    topic: &'a Topic,
}

impl Aside<'_> {
    async fn all(&self, rows: &[Row<'_>]) -> Result<u64> {
        let orders: BTreeSet<Order> = rows.iter().map(|row| row.order).collect();
        let known = Known::read(self.config, &self.topic.dead_letter, self.sink, &orders).await?;
        let writer = Writer::new(self.config, &self.topic.dead_letter)?;
        let (known_rows, new_rows): (Vec<&Row<'_>>, Vec<&Row<'_>>) =
            rows.iter().partition(|row| known.is_open(row.order));
        let mut written = 0;
        for rows in new_rows.chunk_by(|a, b| a.position.partition == b.position.partition) {
            let raw = RawPartition {
                topic: self.topic.name.clone(),
                partition: rows[0].position.partition,
            };
            let objects = self.store.raw_objects(&raw, 0).await?;
            let object = |row: &Row<'_>| object_with(&objects, row.position.offset);
            for rows in rows.chunk_by(|a, b| object(a) == object(b)) {
                let Some(number) = object(&rows[0]) else {
                    continue;
                };
                let found = records::read(self.store, &objects[number].key, rows).await?;
                let items: Vec<Item> = found
                    .records
                    .into_iter()
                    .map(|(row, value)| self.item(&known, &found.metadata, row, value))
                    .collect();
                // Readers drop repeats, of those that were re-driven before, too.
                let new = items.into_iter().filter(|item| !known.has(&item.letter.id));
                written += writer.write(new.collect()).await?;
            }
        }
        let (sink, topic) = (self.sink, &self.topic.dead_letter);
        let present = known_rows.len();
        info!(sink, topic, written, present, "refused rows are set aside");
        let rest = new_rows.len() - written;
        if rest > 0 {
            warn!(
                sink,
                rows = rest,
                "refused rows are in the report alone: their records are in no raw object, or \
                 were re-driven before"
            );
        }
        Ok((present + written) as u64)
    }

    fn item(&self, known: &Known, metadata: &ObjectMetadata, row: Row<'_>, value: Vec<u8>) -> Item {
        let Order {
            time,
            partition,
            offset,
        } = row.position;
        let max_bytes = usize::try_from(self.config.max_record_bytes).unwrap_or(usize::MAX);
        let cleaned = clean(self.kind, &value, max_bytes);
        let key = cleaned.map(|cleaned| cleaned.record.key().as_bytes().to_vec());
        Item {
            letter: DeadLetter {
                id: DeadLetterId {
                    topic_id: metadata.topic_id.clone(),
                    partition,
                    offset,
                    sink: Some(self.sink.to_owned()),
                },
                cluster_id: metadata.cluster_id.clone(),
                topic: self.topic.name.clone(),
                time,
                verdict: row.refusal.into(),
                redriven: (row.order != row.position).then(|| Redriven {
                    order: row.order,
                    attempt: known.attempt(row.order),
                }),
            },
            key: key.ok(),
            value,
        }
    }
}

/// The number of the object that holds `offset`, if one does: it may end before.
fn object_with(objects: &[RawObject], offset: i64) -> Option<usize> {
    objects
        .partition_point(|object| object.first <= offset)
        .checked_sub(1)
}
