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

use self::{known::Known, records::Records, writer::Writer};
use crate::{
    read,
    refused::RefusedRows,
    retry::{RETRY_TIMEOUT, retry},
    rows::Origin,
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
    /// `None` for records that are older than all of the topic's.
    fn of((origin, refusal): (Origin, &'a Refusal)) -> Option<Self> {
        let row = Self {
            order: origin.order,
            // That of a re-driven record isn't in the state. Its original has the same value.
            position: origin.position.unwrap_or(origin.order),
            refusal,
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
    refused: &RefusedRows,
) -> Result<u64> {
    let mut rows: Vec<Row<'_>> = refused.records().filter_map(Row::of).collect();
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
                let Some(number) = object(rows[0]) else {
                    continue;
                };
                let mut records = Records::open(self.store, &objects[number].key, rows).await?;
                while let Some(found) = records.next().await? {
                    let found = found.into_iter();
                    let items =
                        found.map(|(row, value)| self.item(&known, &records.metadata, row, value));
                    // Readers drop repeats, of those that were re-driven before, too.
                    let new = items.filter(|item| !known.has(&item.letter.id));
                    written += writer.write(new.collect()).await?;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(time: i64, partition: i32, offset: i64) -> Order {
        Order {
            time,
            partition,
            offset,
        }
    }

    #[test]
    fn only_rows_of_the_topic_s_records_are_set_aside() {
        let refusal = Refusal::new("23514", "no");
        let read = |order, position| Origin {
            order,
            position: Some(position),
        };
        let state = |order| Origin {
            order,
            position: None,
        };
        let (record, copy) = (at(5, 1, 7), at(9, 0, 8));
        for (origin, expected) in [
            (read(at(0, -1, 3), at(0, -1, 3)), None),
            (read(at(0, 1, 7), at(0, 1, 7)), None),
            (state(at(0, 1, 7)), None),
            (read(record, record), Some(record)),
            (read(record, copy), Some(copy)),
            (state(record), Some(record)),
        ] {
            let position = Row::of((origin, &refusal)).map(|row| row.position);
            assert_eq!(position, expected, "{origin:?}");
        }
    }

    #[test]
    fn a_record_s_object_is_the_last_one_that_does_not_begin_behind_it() {
        let objects = [0, 10, 20].map(|first| RawObject {
            key: String::new(),
            first,
            bytes: 1,
        });
        for (offset, expected) in [(0, Some(0)), (9, Some(0)), (10, Some(1)), (99, Some(2))] {
            assert_eq!(object_with(&objects, offset), expected, "{offset}");
        }
        assert_eq!(object_with(&objects[1..], 9), None, "it is gone");
    }
}
