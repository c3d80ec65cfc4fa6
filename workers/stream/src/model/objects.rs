//! A store like S3: objects, a conditional PUT, and no operation on two objects at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use pinpipe_config::{Compression, StartFrom};

use super::{
    broker::{Broker, EntryKind, raw},
    network::{Network, call},
    oracle::Store,
};
use crate::{
    archive::lines::Lines,
    protocol::Taken,
    sink::{Halt, InitialPosition, Limits, Position, Sink, SinkError, Source, Topic},
};

#[derive(Clone, Debug)]
struct Object {
    next: i64,
    text: Bytes,
}

/// The bucket.
#[derive(Debug, Default)]
pub struct Bucket {
    /// By partition and the offset in the key.
    objects: BTreeMap<(i32, i64), Object>,
    /// The offsets of an object's lines, by partition, the two offsets in the key and the number of
    /// lines.
    indexes: BTreeMap<(i32, i64, i64, usize), Vec<i64>>,
    /// Where each partition's archive must start, if not at 0.
    started_at: BTreeMap<i32, i64>,
    /// The furthest position of each partition.
    reached: BTreeMap<i32, i64>,
}

/// The sink.
pub struct Archive {
    network: Arc<Mutex<Network<Bucket>>>,
    limits: Limits,
}

impl Bucket {
    fn partition(&self, partition: i32) -> impl DoubleEndedIterator<Item = (i64, &Object)> {
        self.objects
            .range((partition, 0)..=(partition, i64::MAX))
            .map(|((_, first), object)| (*first, object))
    }

    /// PUT with `If-None-Match: *`; false if the key is taken.
    fn put(&mut self, key: (i32, i64), object: Object) -> bool {
        if self.objects.contains_key(&key) {
            return false;
        }
        let reached = self.reached.entry(key.0).or_default();
        *reached = object.next.max(*reached);
        self.objects.insert(key, object);
        true
    }

    fn check_object(
        &self,
        broker: &Broker,
        partition: i32,
        first: i64,
        object: &Object,
    ) -> Result<(), String> {
        let name = format!("object {first}..{} of partition {partition}", object.next);
        let log = broker.log(partition);
        let lines: Vec<&[u8]> = object.text.split_inclusive(|byte| *byte == b'\n').collect();
        let index = self
            .indexes
            .get(&(partition, first, object.next, lines.len()));
        let index = index.ok_or_else(|| format!("{name} has no index"))?;
        for (line, offset) in lines.iter().zip(index) {
            let kind = log
                .entry(*offset)
                .map_or(EntryKind::Marker, |entry| entry.kind);
            if *line != (raw(kind, partition, *offset) + "\n").as_bytes() {
                return Err(format!("{name}: the line of offset {offset} differs"));
            }
        }
        let mut found = index.iter().copied().peekable();
        for (offset, _, entry) in log.records(first, object.next) {
            if found.next_if_eq(&offset).is_none() && !entry.compacted {
                return Err(format!("{name} lacks offset {offset}; it has {index:?}"));
            }
        }
        match found.next() {
            Some(offset) => Err(format!(
                "{name} has offset {offset} out of order: {index:?}"
            )),
            None => Ok(()),
        }
    }
}

impl Store for Bucket {
    type Sink = Archive;

    fn sink(network: Arc<Mutex<Network<Self>>>, _: StartFrom, limits: Limits) -> Archive {
        Archive { network, limits }
    }

    fn stored(&self, partition: i32) -> Option<i64> {
        self.partition(partition)
            .next_back()
            .map(|(_, object)| object.next)
    }

    fn no_longer_needed(_: Option<i64>, committed: Option<i64>) -> i64 {
        committed.unwrap_or(0)
    }

    /// Deletes the last objects, or all of them; then the archive continues at the group's offset.
    fn replay(&mut self, partition: i32, to: i64, broker: &Broker) -> bool {
        let gone: Vec<i64> = self
            .partition(partition)
            .map(|(first, _)| first)
            .filter(|first| *first >= to)
            .collect();
        let Some(&end) = gone.first() else {
            return false;
        };
        let emptied = gone.len() == self.partition(partition).count();
        if !emptied && end < broker.log(partition).low {
            return false;
        }
        for first in gone {
            self.objects.remove(&(partition, first));
        }
        self.reached.remove(&partition);
        if emptied {
            self.started_at.insert(
                partition,
                broker
                    .committed
                    .get(&partition)
                    .copied()
                    .unwrap_or(broker.log(partition).low),
            );
        }
        true
    }

    fn replay_needs_no_workers() -> bool {
        true
    }

    fn check(&self, broker: &Broker, settled: bool) -> Result<(), String> {
        for partition in broker.partition_ids() {
            let mut end = self.started_at.get(&partition).copied().unwrap_or(0);
            // An archive without objects starts at the group's offset, behind rejected records and
            // markers.
            if let Some((first, _)) = self.partition(partition).next()
                && broker
                    .log(partition)
                    .records(end, first)
                    .all(|(.., entry)| entry.compacted)
            {
                end = first;
            }
            for (first, object) in self.partition(partition) {
                if first != end || object.next <= first {
                    return Err(format!(
                        "partition {partition}: object {first}..{} follows {end}",
                        object.next
                    ));
                }
                self.check_object(broker, partition, first, object)?;
                end = object.next;
            }
            if self
                .reached
                .get(&partition)
                .is_some_and(|reached| end < *reached)
            {
                return Err(format!(
                    "the position of partition {partition} went back to {end}"
                ));
            }
            let log = broker.log(partition);
            let left = log
                .records(end, log.high())
                .find(|(.., entry)| !entry.compacted);
            if let Some((offset, ..)) = left.filter(|_| settled) {
                return Err(format!(
                    "partition {partition}: offset {offset} is in no object"
                ));
            }
        }
        Ok(())
    }

    fn check_start(&self, _: usize) -> Result<(), String> {
        Ok(())
    }
}

impl Sink for Archive {
    type Batch = Lines;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn initial_position(&self) -> InitialPosition {
        InitialPosition::GroupOffset
    }

    fn batch(&self, _: &Source) -> Lines {
        Lines::new(Compression::None)
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Position>, SinkError> {
        let mut positions = BTreeMap::new();
        for &partition in partitions {
            let next = call(&self.network, move |bucket| bucket.stored(partition)).await?;
            let position = |next| Position {
                cluster_id: topic.cluster_id.clone(),
                topic_id: topic.id.clone(),
                next,
            };
            positions.extend(next.map(|next| (partition, position(next))));
        }
        Ok(positions)
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
        lines: &Lines,
        mut from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let partition = source.partition;
        loop {
            let part = lines.part(from);
            if part.records() == 0 {
                return Ok(from);
            }
            let offsets = part.index.offsets.clone();
            call(&self.network, move |bucket| {
                bucket
                    .indexes
                    .insert((partition, from, to, offsets.len()), offsets)
            })
            .await?;
            let object = Object {
                next: to,
                text: part.text,
            };
            let put = call(&self.network, move |bucket| {
                bucket.put((partition, from), object)
            })
            .await;
            if matches!(put, Ok(true)) {
                return Ok(to);
            }
            // The key is taken, or the reply is lost and the object may exist.
            let head = move |bucket: &mut Bucket| {
                bucket
                    .objects
                    .get(&(partition, from))
                    .map(|object| object.next)
            };
            let existing = call(&self.network, head).await?;
            let Some(next) = existing else {
                return Err(put.err().unwrap().into());
            };
            match Taken::decide(next, from, to) {
                Taken::Done(stored) => return Ok(stored),
                Taken::Behind(next) => from = next,
                Taken::Unreadable => {
                    return Err(Halt::PositionUnreadable(format!("{next} <= {from}")).into());
                }
            }
        }
    }
}
