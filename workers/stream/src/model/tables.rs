//! A store like PostgreSQL: rows and positions change together in one transaction.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::{Buf, Bytes};
use pinpipe_config::{StartFrom, WriteMode};
use pinpipe_core::Order;

use super::{
    broker::{Broker, order, raw},
    network::{Network, call},
    oracle::Store,
};
use crate::{
    postgres::rows::Rows,
    protocol,
    sink::{Batch, InitialPosition, Limits, Position, Sink, SinkError, Source, Topic},
};

/// A row: its order and the record's text.
type Row = (Order, String);

/// The tables.
#[derive(Debug, Default)]
pub struct Tables {
    rows: BTreeMap<i64, Row>,
    positions: BTreeMap<i32, i64>,
    /// Each partition's first position.
    started_at: BTreeMap<i32, i64>,
    /// The furthest position of each partition.
    reached: BTreeMap<i32, i64>,
    /// A violated invariant that `check` could not see afterwards.
    fault: Option<String>,
}

/// The sink.
pub struct Upsert {
    network: Arc<Mutex<Network<Tables>>>,
    from: StartFrom,
    limits: Limits,
}

impl Tables {
    fn commit(
        &mut self,
        partition: i32,
        rows: Vec<(i64, Row)>,
        from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let Some(&stored) = self.positions.get(&partition) else {
            return Err(SinkError::Moved);
        };
        if !protocol::is_due(stored, from, to)? {
            return Ok(to);
        }
        for (key, row) in rows {
            let existing = self.rows.entry(key).or_insert_with(|| row.clone());
            if row.0 > existing.0 {
                *existing = row;
            }
        }
        if to < stored {
            self.fault = Some(format!(
                "the position of partition {partition} went back from {stored} to {to}"
            ));
        }
        self.positions.insert(partition, to);
        let reached = self.reached.entry(partition).or_default();
        *reached = to.max(*reached);
        Ok(to)
    }

    fn store_initial_positions(&mut self, known: usize, initial: BTreeMap<i32, i64>) {
        if self.positions.len() != known {
            return;
        }
        for (partition, position) in initial {
            if self.positions.contains_key(&partition) {
                continue;
            }
            self.positions.insert(partition, position);
            self.started_at.insert(partition, position);
            self.reached.insert(partition, position);
        }
    }
}

impl Store for Tables {
    type Sink = Upsert;

    fn sink(network: Arc<Mutex<Network<Self>>>, from: StartFrom, limits: Limits) -> Upsert {
        Upsert {
            network,
            from,
            limits,
        }
    }

    fn stored(&self, partition: i32) -> Option<i64> {
        self.positions.get(&partition).copied()
    }

    fn no_longer_needed(stored: Option<i64>, _: Option<i64>) -> i64 {
        stored.unwrap_or(0)
    }

    fn replay(&mut self, partition: i32, to: i64, _: &Broker) -> bool {
        let started_at = self.started_at.get(&partition).copied();
        let Some(stored) = self
            .positions
            .get_mut(&partition)
            .filter(|stored| to < **stored)
        else {
            return false;
        };
        *stored = to.max(started_at.unwrap_or(0));
        true
    }

    fn replay_needs_no_workers() -> bool {
        false
    }

    fn check(&self, broker: &Broker, settled: bool) -> Result<(), String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        // By key: the latest record, and the latest that compaction has not removed, perhaps before
        // it could be read.
        let mut latest: BTreeMap<i64, Order> = BTreeMap::new();
        let mut certain: BTreeMap<i64, Order> = BTreeMap::new();
        for (&partition, &reached) in &self.reached {
            for (offset, key, entry) in broker
                .log(partition)
                .records(self.started_at[&partition], reached)
            {
                let order = order(partition, offset, entry);
                let newest = latest.entry(key).or_insert(order);
                *newest = order.max(*newest);
                if !entry.compacted {
                    let newest = certain.entry(key).or_insert(order);
                    *newest = order.max(*newest);
                }
            }
        }
        for (key, (order, text)) in &self.rows {
            let Some(entry) = broker.log(order.partition).entry(order.offset) else {
                return Err(format!("row {key} has no record: {order:?}"));
            };
            if entry.time != order.time || *text != format!("{}/{}", order.partition, order.offset)
            {
                return Err(format!(
                    "row {key} differs from its record: {order:?} {text} {entry:?}"
                ));
            }
            if latest.get(key).is_none_or(|latest| order > latest) {
                return Err(format!(
                    "row {key} comes from a record behind the position: {order:?}"
                ));
            }
        }
        for (key, at_least) in &certain {
            match self.rows.get(key) {
                Some((order, _)) if order >= at_least && (!settled || order == at_least) => {}
                other => {
                    return Err(format!(
                        "row {key} is {other:?}, the latest record {at_least:?}"
                    ));
                }
            }
        }
        for log in broker.partition_ids().into_iter().filter(|_| settled) {
            let (stored, high) = (self.stored(log), broker.log(log).high());
            if stored != Some(high) {
                return Err(format!(
                    "partition {log} is stored up to {stored:?} of {high}"
                ));
            }
        }
        Ok(())
    }

    fn check_start(&self, first_partitions: usize) -> Result<(), String> {
        let late = self.started_at.iter().find(|(number, started_at)| {
            usize::try_from(**number).unwrap() >= first_partitions && **started_at > 0
        });
        match late {
            Some((partition, started_at)) => Err(format!(
                "partition {partition} was added later and starts at {started_at}"
            )),
            None => Ok(()),
        }
    }
}

impl Sink for Upsert {
    type Batch = Rows;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn initial_position(&self) -> InitialPosition {
        InitialPosition::Stored(self.from)
    }

    fn batch(&self, source: &Source) -> Rows {
        Rows::new(source.topic.kind, WriteMode::Upsert)
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        _: &[i32],
    ) -> Result<BTreeMap<i32, Position>, SinkError> {
        let positions = call(&self.network, |tables| tables.positions.clone()).await?;
        let position = |next| Position {
            cluster_id: topic.cluster_id.clone(),
            topic_id: topic.id.clone(),
            next,
        };
        Ok(positions
            .into_iter()
            .map(|(partition, next)| (partition, position(next)))
            .collect())
    }

    async fn store_initial_positions(
        &self,
        _: &Arc<Topic>,
        known: &BTreeMap<i32, Position>,
        initial: &BTreeMap<i32, i64>,
    ) -> Result<(), SinkError> {
        let (known, initial) = (known.len(), initial.clone());
        Ok(call(&self.network, move |tables| {
            tables.store_initial_positions(known, initial);
        })
        .await?)
    }

    async fn reset_pending(
        &self,
        _: &Arc<Topic>,
        _: &str,
        _: &[i32],
    ) -> Result<Vec<i32>, SinkError> {
        Ok(Vec::new())
    }

    async fn reset(
        &self,
        _: &Arc<Topic>,
        _: &str,
        _: &BTreeMap<i32, i64>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(
        &self,
        source: &Source,
        rows: &Rows,
        from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let partition = source.partition;
        let rows = if rows.records() > 0 {
            decode(rows.copy_data())
        } else {
            Vec::new()
        };
        call(&self.network, move |tables| {
            tables.commit(partition, rows, from, to)
        })
        .await?
    }
}

/// Decodes rows of COPY's binary format: `ind, country, coordinates, timestamp, _time, _partition,
/// _offset`.
fn decode(mut data: Bytes) -> Vec<(i64, Row)> {
    data.advance(19);
    let mut rows = Vec::new();
    while data.get_i16() > 0 {
        let mut field = || {
            let length = usize::try_from(data.get_i32()).unwrap_or(0);
            data.split_to(length)
        };
        let (key, country) = (
            field().get_i64(),
            String::from_utf8(field().to_vec()).unwrap(),
        );
        let (_, _, mut time, mut partition, mut offset) =
            (field(), field(), field(), field(), field());
        let time = (time.get_i64() + 946_684_800_000_000) / 1000;
        rows.push((
            key,
            (
                Order {
                    time,
                    partition: partition.get_i32(),
                    offset: offset.get_i64(),
                },
                country,
            ),
        ));
    }
    rows
}

#[test]
fn rows_are_decoded_as_they_were_encoded() {
    use crate::sink::Consumed;
    let mut rows = Rows::new(pinpipe_core::Kind::Geo, WriteMode::Upsert);
    for offset in 0..4 {
        let raw = raw(super::broker::EntryKind::Record(offset % 3), 2, offset);
        let cleaned = pinpipe_core::clean(pinpipe_core::Kind::Geo, raw.as_bytes(), 1000);
        let order = Order {
            time: 50 - offset,
            partition: 2,
            offset,
        };
        rows.push(Consumed {
            raw: raw.as_bytes(),
            position: order,
            order,
            cleaned: &cleaned,
        })
        .unwrap();
    }
    rows.close();
    let found: Vec<_> = decode(rows.copy_data())
        .into_iter()
        .map(|(key, (order, text))| (key, order.offset, text))
        .collect();
    assert_eq!(
        found,
        [
            (0, 0, "2/0".into()),
            (1, 1, "2/1".into()),
            (2, 2, "2/2".into())
        ]
    );
}
