//! The reference sink: the contract of [`crate::sink`] in memory. Its records, positions and dead
//! letters are checked by the oracle.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use anyhow::anyhow;
use pinpipe_config::StartFrom;
use pinpipe_core::Order;
use pinpipe_runtime::dead_letter::{Redriven, Verdict};

use super::{
    log,
    network::{Network, call},
    reader,
};
use crate::{
    dead_letter::{Pending, Writer},
    log::Position,
    sink::{
        Answer, Batch, Consumed, Grouping, Halt, InitialPosition, Limits, Part, Refusal, Sink,
        SinkError, Source, StoredPosition, Topic,
    },
};

/// Memory of a record, bytes.
pub const RECORD_BYTES: usize = 100;

/// A stored record: its time and its text.
pub type Row = (i64, String);

/// Clean records of one partition.
#[derive(Clone, Debug, Default)]
pub struct Records {
    records: Vec<(Position, Row)>,
    closed: bool,
}

impl Batch for Records {
    fn push(&mut self, record: Consumed<'_>) {
        assert!(!self.closed);
        if record.cleaned.is_ok() {
            let text = String::from_utf8(record.raw.to_vec()).unwrap();
            self.records.push((record.after, (record.order.time, text)));
        }
    }

    fn close(&mut self) {
        assert!(!self.closed);
        self.closed = true;
    }

    fn records(&self) -> usize {
        self.records.len()
    }

    fn bytes(&self) -> usize {
        self.records.len() * RECORD_BYTES
    }

    fn last(&self) -> Option<Position> {
        self.records.last().map(|(after, _)| *after)
    }

    fn split(&self) -> Option<(Self, Self)> {
        assert!(self.closed);
        let (first, second) = self.records.split_at(self.records.len() / 2);
        let half = |records: &[(Position, Row)]| Self {
            records: records.to_vec(),
            closed: true,
        };
        (!first.is_empty()).then(|| (half(first), half(second)))
    }
}

/// How the store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Like {
    /// Positions are rows: initial ones are stored, and each commit moves them.
    Table,
    /// Positions are stored with records only, and what another worker has stored of a batch is
    /// left out of it.
    Objects,
}

/// What is wrong with a partition of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Halts,
    /// Its position can't be read.
    Unreadable,
    Unavailable,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    pub like: Like,
    pub rows: BTreeMap<(i32, Position), Row>,
    pub positions: BTreeMap<i32, Position>,
    /// Each partition's first position.
    pub started_at: BTreeMap<i32, Position>,
    /// The furthest position of each partition.
    pub reached: BTreeMap<i32, Position>,
    /// Dead letters: partition, number of the record, whether it was refused.
    pub letters: BTreeSet<(i32, i64, bool)>,
    pub broken: BTreeMap<i32, Broken>,
    /// Partitions whose position was set back, behind the group's.
    pub replayed: BTreeSet<i32>,
    /// A violation that the oracle could not see afterwards.
    pub fault: Option<String>,
}

impl Store {
    pub const fn new(like: Like) -> Self {
        Self {
            like,
            rows: BTreeMap::new(),
            positions: BTreeMap::new(),
            started_at: BTreeMap::new(),
            reached: BTreeMap::new(),
            letters: BTreeSet::new(),
            broken: BTreeMap::new(),
            replayed: BTreeSet::new(),
            fault: None,
        }
    }

    /// The partitions without objects.
    pub fn noted(&self) -> BTreeSet<i32> {
        let mut partitions: BTreeSet<i32> = self.positions.keys().copied().collect();
        partitions.retain(|partition| {
            let objects = (*partition, Position::START)..(partition + 1, Position::START);
            self.like == Like::Objects && self.rows.range(objects).next().is_none()
        });
        partitions
    }

    fn move_to(&mut self, partition: i32, to: Position) {
        if self.positions.insert(partition, to) > Some(to) {
            self.fault = Some(format!("the position of partition {partition} went back"));
        }
        let reached = self.reached.entry(partition).or_default();
        *reached = to.max(*reached);
    }

    fn commit(
        &mut self,
        partition: i32,
        records: &[(Position, Row)],
        from: Position,
        to: Position,
    ) -> Answer {
        if self.broken.get(&partition) == Some(&Broken::Halts) {
            return Answer::Halt(Halt::TableUnsuitable("broken".into()));
        }
        let mut kept = records;
        let mut stored = from;
        match (self.like, self.positions.get(&partition).copied()) {
            (Like::Objects, None) => {}
            (_, Some(found)) if found == from => {}
            (Like::Table, Some(found)) if found == to => return Answer::AlreadyStored(to),
            (Like::Objects, Some(found)) if found >= to => return Answer::AlreadyStored(found),
            (Like::Objects, Some(found)) if found > from => {
                stored = found;
                kept = &kept[kept.partition_point(|(after, _)| *after <= stored)..];
            }
            _ => return Answer::Moved,
        }
        if kept.iter().any(|(_, (_, text))| text.contains("refused")) {
            return Answer::Refused(Refusal {
                code: "23514".into(),
                sentence: "refused".into(),
            });
        }
        if self.like == Like::Objects && kept.is_empty() {
            return Answer::Stored(stored);
        }
        if self.like == Like::Objects {
            self.started_at.entry(partition).or_insert(from);
        }
        for (after, row) in kept {
            let before = self.rows.insert((partition, *after), row.clone());
            if before.is_some_and(|before| before != *row) {
                self.fault = Some(format!("{partition}/{after} is stored twice, differently"));
            }
        }
        self.move_to(partition, to);
        Answer::Stored(to)
    }

    fn store_initial(&mut self, known: usize, initial: BTreeMap<i32, Position>) {
        if self.positions.len() != known {
            return;
        }
        for (partition, position) in initial {
            if !self.positions.contains_key(&partition) {
                self.started_at.insert(partition, position);
                self.move_to(partition, position);
            }
        }
    }
}

pub type Connection = Arc<Mutex<Network<Store>>>;

/// The sink.
pub struct Reference {
    pub network: Connection,
    pub like: Like,
    pub from: StartFrom,
    pub limits: Limits,
}

impl Sink for Reference {
    type Batch = Records;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn initial_position(&self) -> InitialPosition {
        match self.like {
            Like::Table => InitialPosition::Stored(self.from),
            Like::Objects => InitialPosition::LogStart,
        }
    }

    fn batch(&self, _: &Source) -> Records {
        Records::default()
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        let (mut positions, noted, broken) = call(&self.network, |store| {
            let positions = store.positions.clone();
            (positions, store.noted(), store.broken.clone())
        })
        .await?;
        let unreadable = |partition| broken.get(partition) == Some(&Broken::Unreadable);
        if partitions.iter().any(unreadable) {
            return Err(Halt::PositionUnreadable("broken".into()).into());
        }
        if self.like == Like::Objects {
            positions.retain(|partition, _| partitions.contains(partition));
        }
        let stored = |partition, next| StoredPosition {
            cluster_id: topic.cluster_id.clone(),
            topic_id: topic.id.clone(),
            next,
            noted: noted.contains(&partition),
        };
        let positions = positions.into_iter();
        Ok(positions
            .map(|(partition, next)| (partition, stored(partition, next)))
            .collect())
    }

    async fn store_initial_positions(
        &self,
        _: &Arc<Topic>,
        known: &BTreeMap<i32, StoredPosition>,
        initial: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        let (known, initial) = (known.len(), initial.clone());
        Ok(call(&self.network, move |store| {
            store.store_initial(known, initial);
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
        _: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(
        &self,
        _: &Arc<Topic>,
        group: &[Part<'_, Records>],
    ) -> Result<Vec<Answer>, SinkError> {
        assert!(group.iter().all(|part| part.batch.closed));
        if self.limits.grouping == Grouping::Partition {
            assert_eq!(group.len(), 1);
        }
        let part = |part: &Part<'_, Records>| {
            let records = part.batch.records.clone();
            (part.partition, records, part.from, part.to)
        };
        let parts: Vec<_> = group.iter().map(part).collect();
        let answers = call(&self.network, move |store| {
            let broken = |partition| store.broken.get(partition) == Some(&Broken::Unavailable);
            if parts.iter().any(|(partition, ..)| broken(partition)) {
                return None;
            }
            let parts = parts.iter();
            Some(
                parts
                    .map(|(partition, records, from, to)| {
                        store.commit(*partition, records, *from, *to)
                    })
                    .collect(),
            )
        })
        .await?;
        answers.ok_or_else(|| anyhow!("broken").into())
    }
}

/// Writes dead letters into the store's list.
pub struct Letters {
    pub network: Connection,
    pub log: reader::Connection,
}

impl Letters {
    /// Whether the dead letter of a rejected record is written though it need not be.
    fn is_needless(&self, partition: i32, offset: i64) -> bool {
        let mut membership = self.log.membership();
        let written = membership.letters.get(&partition);
        let is_written = written.is_some_and(|written| offset < written.next_offset());
        let is_first = membership.sent.insert((partition, offset));
        let broker = self.log.broker.lock().unwrap();
        // A log without groups does not know what is written.
        (is_written || !is_first) && broker.like == log::Like::Kafka && !broker.letters_went_back
    }
}

impl Writer for Letters {
    type Sent = Pending;

    fn send(
        &self,
        _: &str,
        source: &Source,
        position: Order,
        _: (Option<&[u8]>, Option<&[u8]>),
        _: (Verdict, Option<Redriven>),
        sink: Option<&str>,
    ) -> Pending {
        let letter = (source.partition, position.offset, sink.is_some());
        if sink.is_none() && self.is_needless(source.partition, position.offset) {
            let fault = format!("the dead letter {letter:?} is written twice without need");
            self.network.lock().unwrap().store.fault = Some(fault);
        }
        let (sent, pending) = Pending::new();
        let (network, log) = (self.network.clone(), self.log.clone());
        tokio::spawn(async move {
            while !sent.is_closed() {
                let written = call(&network, move |store| store.letters.insert(letter)).await;
                if written.is_ok() {
                    sent.send_replace(true);
                    if !letter.2 {
                        log.membership().acknowledged.insert((letter.0, letter.1));
                    }
                    return;
                }
            }
        });
        pending
    }
}
