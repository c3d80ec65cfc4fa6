//! The model's reader: what a member of the group asks of the broker.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
};

use anyhow::{anyhow, ensure};
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::dead_letter::{Redriven, UnusableOrder};
use tokio::task::yield_now;

use super::log::{Broker, Entry, EntryKind, Like, raw, topic};
use crate::{
    log::{Extent, Log, Message, Position, ReadError, Reader, Stamp, TopicPartition},
    sink::Topic,
};

/// The reader's position in a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// None where it must be sought first.
    fetch: Option<Position>,
    /// How far it was read; none after a seek.
    position: Option<Position>,
}

/// What the group last asked of the member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// Nothing that is not answered.
    #[default]
    Nothing,
    /// To take partitions.
    Assign,
    /// To give partitions back.
    Revoke,
    /// To drop all partitions, which others have already.
    Lose,
}

/// The membership.
#[derive(Debug, Default)]
pub struct Membership {
    cursors: BTreeMap<i32, Cursor>,
    /// Partitions that are not read; like librdkafka, the reader still knows it when one that was
    /// revoked returns.
    paused: BTreeSet<i32>,
    /// The partitions whose next records have arrived.
    pub arrived: VecDeque<i32>,
    pub asked: Asked,
    /// Partitions that were given back.
    pub released: Vec<i32>,
    /// Whether the group has expelled it.
    pub expelled: bool,
    /// Whether it reads what the group has not assigned to it.
    pub is_bridge: bool,
    /// The positions of the dead letters, as it found them last.
    pub letters: BTreeMap<i32, Position>,
    /// The positions of the dead letters that it has committed since it was assigned them.
    pub letters_committed: BTreeMap<i32, Position>,
    /// The rejected records whose dead letters it has sent: partition and number.
    pub sent: BTreeSet<(i32, i64)>,
    /// Those whose dead letters are acknowledged.
    pub acknowledged: BTreeSet<(i32, i64)>,
    /// Whether it has met a position outside a log.
    pub is_out_of_range: bool,
}

impl Membership {
    /// The partitions assigned to the reader.
    pub fn partitions(&self) -> Vec<i32> {
        self.cursors.keys().copied().collect()
    }

    /// The position it reads next in a partition.
    pub fn position(&self, partition: i32) -> Option<Position> {
        self.cursors.get(&partition)?.fetch
    }

    fn read_next(
        &mut self,
        partition: i32,
        broker: &Broker,
    ) -> Option<Result<Delivered, ReadError>> {
        if self.paused.contains(&partition) {
            return None;
        }
        let cursor = self.cursors.get_mut(&partition)?;
        let fetch = cursor.fetch?;
        let log = broker.log(partition);
        if !log.extent().contains(fetch) {
            self.is_out_of_range = true;
            return Some(Err(ReadError::OutOfRange));
        }
        let mut index = log.index(fetch);
        while log.entries.get(index).is_some_and(|entry| entry.compacted) {
            index += 1;
        }
        let entry = log.entries.get(index).copied()?;
        cursor.fetch = Some(entry.after);
        cursor.position = cursor.fetch;
        (entry.kind != EntryKind::Marker).then(|| {
            Ok(Delivered {
                partition,
                index,
                entry,
                raw: raw(entry.kind, partition, index),
            })
        })
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], pause: bool) -> anyhow::Result<()> {
        for (_, partition) in partitions {
            ensure!(self.cursors.contains_key(partition), "it is not assigned");
            let changed = if pause {
                self.paused.insert(*partition)
            } else {
                self.paused.remove(partition)
            };
            ensure!(changed, "it is paused already, or not");
        }
        Ok(())
    }
}

/// A worker's connection to the broker.
#[derive(Clone)]
pub struct Connection {
    pub broker: Arc<Mutex<Broker>>,
    membership: Arc<Mutex<Membership>>,
}

impl Connection {
    pub fn new(broker: Arc<Mutex<Broker>>) -> Self {
        Self {
            broker,
            membership: Arc::default(),
        }
    }

    pub fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap()
    }

    async fn ask<T>(&self, query: impl FnOnce(&Broker) -> T + Send) -> anyhow::Result<T> {
        yield_now().await;
        Ok(query(&self.broker.lock().unwrap()))
    }
}

impl Log for Connection {
    async fn identify(&self, _: Kind, _: &str) -> anyhow::Result<Topic> {
        Ok(topic())
    }

    async fn extents(
        &self,
        _: &str,
        partitions: Option<&[i32]>,
    ) -> anyhow::Result<BTreeMap<i32, Extent>> {
        self.ask(|broker| {
            let all = broker.partition_ids();
            let partitions = partitions.unwrap_or(&all).iter();
            partitions
                .map(|partition| (*partition, broker.log(*partition).extent()))
                .collect()
        })
        .await
    }

    async fn committed(&self, _: &str, _: &[i32]) -> anyhow::Result<BTreeMap<i32, Position>> {
        self.ask(|broker| broker.committed.clone()).await
    }

    async fn letters_committed(
        &self,
        _: &Topic,
        partitions: &[i32],
    ) -> anyhow::Result<BTreeMap<i32, Position>> {
        let mut letters = self.ask(|broker| broker.letters.clone()).await?;
        letters.retain(|partition, _| partitions.contains(partition));
        let known = &mut self.membership().letters;
        known.retain(|partition, _| !partitions.contains(partition));
        known.extend(&letters);
        Ok(letters)
    }

    async fn commit_letters(&self, _: &Topic, positions: &[(i32, Position)]) -> anyhow::Result<()> {
        yield_now().await;
        let mut membership = self.membership();
        let mut broker = self.broker.lock().unwrap();
        if broker.like == Like::Kafka {
            broker.commits = true;
            for (partition, position) in positions {
                let before = broker.letters.insert(*partition, *position);
                broker.letters_went_back |= before > Some(*position);
                let own = membership.letters_committed.insert(*partition, *position);
                if own == before && own > Some(*position) {
                    broker.fault = Some(format!(
                        "a worker sets its own position of the dead letters of {partition} back"
                    ));
                }
            }
        }
        Ok(())
    }

    async fn positions_at(
        &self,
        _: &str,
        _: &[i32],
        _: i64,
    ) -> anyhow::Result<BTreeMap<i32, Position>> {
        Ok(BTreeMap::new())
    }

    async fn same_identity(&self, _: Vec<Arc<Topic>>) -> anyhow::Result<bool> {
        Ok(true)
    }

    async fn is_stamped_by_broker(&self, _: &str) -> anyhow::Result<bool> {
        Ok(true)
    }
}

impl Reader for Connection {
    type Message<'a> = Delivered;

    async fn read(&self) -> Result<Delivered, ReadError> {
        std::future::poll_fn(|_| self.fetched().next().map_or(Poll::Pending, Poll::Ready)).await
    }

    fn fetched(&self) -> impl Iterator<Item = Result<Delivered, ReadError>> {
        std::iter::from_fn(|| {
            let mut membership = self.membership();
            while let Some(partition) = membership.arrived.pop_front() {
                let read = membership.read_next(partition, &self.broker.lock().unwrap());
                if read.is_some() {
                    return read;
                }
            }
            None
        })
    }

    fn assign(&self, partitions: &[(TopicPartition, Option<Position>)]) -> anyhow::Result<()> {
        let mut membership = self.membership();
        let may_assign = membership.asked == Asked::Assign || membership.is_bridge;
        ensure!(may_assign, "nothing is assigned");
        membership.asked = Asked::Nothing;
        for ((_, partition), fetch) in partitions {
            let cursor = Cursor {
                fetch: *fetch,
                ..Cursor::default()
            };
            membership.cursors.insert(*partition, cursor);
        }
        Ok(())
    }

    fn unassign(&self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        let mut membership = self.membership();
        match membership.asked {
            Asked::Nothing | Asked::Assign => return Err(anyhow!("nothing is revoked")),
            Asked::Revoke => {
                let partitions = partitions.iter().map(|(_, partition)| *partition);
                membership.released.extend(partitions);
            }
            // The group has it again.
            Asked::Lose => {
                membership.expelled = false;
                membership.sent.clear();
            }
        }
        membership.asked = Asked::Nothing;
        for (_, partition) in partitions {
            membership.cursors.remove(partition);
            membership.letters_committed.remove(partition);
        }
        Ok(())
    }

    fn seek(&self, (_, partition): &TopicPartition, to: Position) -> anyhow::Result<()> {
        let mut membership = self.membership();
        let cursor = membership.cursors.get_mut(partition);
        let cursor = cursor.ok_or_else(|| anyhow!("it is not assigned"))?;
        (cursor.fetch, cursor.position) = (Some(to), None);
        Ok(())
    }

    fn pause(&self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        self.membership().set_paused(partitions, true)
    }

    fn unpause(&self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        self.membership().set_paused(partitions, false)
    }

    fn commit(&self, positions: &[(TopicPartition, Position)]) -> anyhow::Result<()> {
        let membership = self.membership();
        ensure!(!membership.expelled, "it is no member any more");
        if membership.is_bridge {
            return Ok(());
        }
        let mut broker = self.broker.lock().unwrap();
        if broker.like == Like::Kafka {
            broker.commits = true;
            let positions = positions.iter();
            broker
                .committed
                .extend(positions.map(|((_, partition), position)| (*partition, *position)));
        }
        Ok(())
    }

    fn positions(&self) -> Vec<(TopicPartition, Position)> {
        let membership = self.membership();
        let cursors = membership.cursors.iter();
        cursors
            .filter_map(|(partition, cursor)| Some(((topic().name, *partition), cursor.position?)))
            .collect()
    }
}

/// A record as a member reads it.
pub struct Delivered {
    pub partition: i32,
    pub index: usize,
    pub entry: Entry,
    pub raw: String,
}

impl Message for Delivered {
    fn topic(&self) -> &'static str {
        "geo"
    }
    fn partition(&self) -> i32 {
        self.partition
    }
    fn offset(&self) -> i64 {
        i64::try_from(self.index).unwrap()
    }
    fn after(&self) -> Position {
        self.entry.after
    }
    fn stamp(&self) -> Stamp {
        if self.entry.stamped_by_producer {
            Stamp::Producer
        } else {
            Stamp::Broker(self.entry.time)
        }
    }
    fn key(&self) -> Option<&[u8]> {
        None
    }
    fn value(&self) -> Option<&[u8]> {
        Some(self.raw.as_bytes())
    }
    fn redriven(&self, _: Order) -> Result<Option<Redriven>, UnusableOrder> {
        Ok(None)
    }
}
