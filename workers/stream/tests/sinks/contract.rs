//! Generated calls, which every store must answer as the contract of [`pinpipe_stream::sink`] says.
//!
//! Two workers call the sink for the same partitions, each with the position it knows: so one of
//! them often is a zombie. Calls are repeated, their requests or replies are lost, batches are
//! committed in halves, and positions are reset. `PINPIPE_SEED` repeats one sequence,
//! `PINPIPE_SEQUENCES` sets their number.

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Mutex, PoisonError},
};

use pinpipe_core::Kind;
use pinpipe_stream::{
    log::Position,
    sink::{Answer, Batch as _, Part, Sink, Topic},
};

use crate::{
    proxy::{Lose, Proxy},
    support::{TIME, batch},
};

/// The partitions of a sequence.
const PARTITIONS: i32 = 2;
/// The calls of a sequence.
const CALLS: usize = 8;
/// The keys of a partition's records.
const KEYS: i64 = 5;

/// What a store holds, by the contract.
#[derive(Debug)]
pub struct Expected {
    /// Whether another worker's progress is left out of a batch instead of refused.
    pub trims: bool,
    /// By partition.
    pub positions: BTreeMap<i32, i64>,
    /// What was stored: by partition and first offset, the offset behind.
    pub stored: BTreeMap<(i32, i64), i64>,
}

impl Expected {
    /// The right answer to a commit; stores it.
    fn commit(&mut self, partition: i32, from: i64, to: i64) -> Answer {
        let position = self.positions.entry(partition).or_default();
        let answer = |offset| Position::offset(offset);
        if *position >= to && (self.trims || *position == to) {
            return Answer::AlreadyStored(answer(*position));
        }
        if *position != from && !(self.trims && *position > from) {
            return Answer::Moved;
        }
        // What was stored before a reset stays.
        let end = self.stored.entry((partition, *position)).or_default();
        *end = to.max(*end);
        *position = to;
        Answer::Stored(answer(to))
    }
}

/// The number of sequences: `more` where all is to be tested.
fn sequences(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
    match number("PINPIPE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PINPIPE_SEQUENCES").unwrap_or(usual),
    }
}

/// A generator of pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn offset(&mut self, bound: u64) -> i64 {
        i64::try_from(self.below(bound)).unwrap()
    }
}

/// The record of a partition at an offset.
pub fn record(partition: i32, offset: i64) -> String {
    let key = i64::from(partition) * KEYS + offset % KEYS;
    serde_json::json!({"ind": key, "country": format!("{partition}/{offset}")}).to_string()
}

/// The latest record of each key, by country, of what was stored of a topic.
pub fn latest(expected: &Expected) -> Vec<(i64, String)> {
    let mut rows = BTreeMap::new();
    for (&(partition, from), &to) in &expected.stored {
        for offset in from..to {
            let row: serde_json::Value = serde_json::from_str(&record(partition, offset)).unwrap();
            let country = row["country"].as_str().unwrap().to_owned();
            let key = (TIME + offset, country);
            let latest = rows
                .entry(row["ind"].as_i64().unwrap())
                .or_insert(key.clone());
            *latest = key.max(latest.clone());
        }
    }
    rows.into_iter()
        .map(|(key, (_, country))| (key, country))
        .collect()
}

/// A topic of its own for each sequence.
fn topic_of(seed: u64) -> Arc<Topic> {
    Arc::new(Topic {
        kind: Kind::Geo,
        name: format!("sequence-{seed}"),
        cluster_id: "cluster".into(),
        id: format!("id-{seed}"),
    })
}

/// What differs between stores.
pub struct Store<S> {
    /// The workers' sinks, the first behind the proxy.
    pub workers: [S; 2],
    pub proxy: Proxy,
    /// A part of the request that stores a batch.
    pub request: &'static [u8],
    /// Of how many commits one loses its request or reply.
    pub loses_one_in: u64,
    pub trims: bool,
}

impl<S: Sink> Store<S> {
    /// Runs the sequences; `check` compares what the store holds with what it must.
    pub async fn run(
        &self,
        usual: u64,
        check: impl AsyncFn(&Arc<Topic>, &Expected) -> Result<(), String>,
    ) {
        let calls: Mutex<Vec<String>> = Mutex::default();
        for seed in sequences(usual) {
            calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let (topic, mut random) = (topic_of(seed), Random(seed));
            let mut expected = Expected {
                trims: self.trims,
                positions: (0..PARTITIONS).map(|partition| (partition, 0)).collect(),
                stored: BTreeMap::new(),
            };
            let initial = (0..PARTITIONS).map(|partition| (partition, Position::START));
            self.workers[0]
                .store_initial_positions(&topic, &[].into(), &initial.collect())
                .await
                .unwrap();
            let mut run = Run {
                store: self,
                topic: &topic,
                expected: &mut expected,
                known: [[0; PARTITIONS as usize]; 2],
                calls: Vec::new(),
            };
            let mut result = Ok(());
            for number in 0..CALLS {
                result = run.call(&mut random, number).await;
                if result.is_err() {
                    break;
                }
            }
            let calls = run.calls.join("\n");
            if result.is_ok() {
                result = check(&topic, &expected).await;
            }
            if let Err(why) = result {
                panic!("PINPIPE_SEED={seed}: {why}\n{calls}\n{expected:?}");
            }
        }
    }
}

struct Run<'a, S> {
    store: &'a Store<S>,
    topic: &'a Arc<Topic>,
    expected: &'a mut Expected,
    /// The positions that each worker knows.
    known: [[i64; PARTITIONS as usize]; 2],
    calls: Vec<String>,
}

impl<S: Sink> Run<'_, S> {
    async fn call(&mut self, random: &mut Random, number: usize) -> Result<(), String> {
        let worker = usize::try_from(random.below(2)).unwrap();
        match random.below(10) {
            0 => self.reset(random, number).await,
            1 | 2 => {
                self.read(worker).await;
                Ok(())
            }
            3 => {
                // A batch that was split: the halves follow each other.
                let partition = i32::try_from(random.below(2)).unwrap();
                let from = self.known[worker][usize::try_from(partition).unwrap()];
                let whole = self.batch(partition, from, from + 4);
                let (first, second) = whole.split().unwrap_or_else(|| {
                    (
                        self.batch(partition, from, from + 2),
                        self.batch(partition, from + 2, from + 4),
                    )
                });
                self.commit(worker, None, &[(partition, from, from + 2, &first)])
                    .await?;
                if self.known[worker][usize::try_from(partition).unwrap()] != from + 2 {
                    return Ok(());
                }
                self.commit(worker, None, &[(partition, from + 2, from + 4, &second)])
                    .await
            }
            _ => {
                let lose = match random.below(self.store.loses_one_in * 2) {
                    0 => Some(Lose::Request),
                    1 => Some(Lose::Reply),
                    _ => None,
                };
                let mut group = Vec::new();
                for (partition, &from) in (0..PARTITIONS).zip(&self.known[worker]) {
                    if partition == 0 || random.below(3) > 0 {
                        let to = from + 1 + random.offset(6);
                        group.push((partition, from, to, self.batch(partition, from, to)));
                    }
                }
                let group: Vec<_> = group
                    .iter()
                    .map(|(partition, from, to, batch)| (*partition, *from, *to, batch))
                    .collect();
                self.commit(worker, lose, &group).await?;
                match random.below(3) {
                    // The same call again.
                    0 => self.commit(worker, None, &group).await,
                    _ => Ok(()),
                }
            }
        }
    }

    fn batch(&self, partition: i32, from: i64, to: i64) -> S::Batch {
        let records: Vec<_> = (from..to)
            .map(|offset| (offset, record(partition, offset)))
            .collect();
        batch(&self.store.workers[0], self.topic, partition, &records)
    }

    async fn commit(
        &mut self,
        worker: usize,
        lose: Option<Lose>,
        group: &[(i32, i64, i64, &S::Batch)],
    ) -> Result<(), String> {
        let parts: Vec<_> = group
            .iter()
            .map(|(partition, from, to, batch)| Part {
                partition: *partition,
                batch: *batch,
                from: Position::offset(*from),
                to: Position::offset(*to),
            })
            .collect();
        if let (Some(lose), 0) = (lose, worker) {
            self.store.proxy.lose_next(self.store.request, lose);
        }
        let mut found = self.store.workers[worker].commit(self.topic, &parts).await;
        let was_lost = worker == 0 && lose.is_some() && self.store.proxy.has_lost();
        if was_lost && found.is_err() {
            // The caller doesn't know whether it was stored, and repeats the call.
            if lose == Some(Lose::Reply) {
                for (partition, from, to, _) in group {
                    self.expected.commit(*partition, *from, *to);
                }
            }
            found = self.store.workers[worker].commit(self.topic, &parts).await;
        }
        let found = found.map_err(|error| format!("{error:#}"))?;
        let expected: Vec<Answer> = group
            .iter()
            .map(|(partition, from, to, _)| self.expected.commit(*partition, *from, *to))
            .collect();
        let ranges: Vec<_> = parts
            .iter()
            .map(|part| format!("{}: {}..{}", part.partition, part.from, part.to))
            .collect();
        self.calls
            .push(format!("{worker} commits {ranges:?} {lose:?}: {found:?}"));
        for ((found, expected), part) in found.iter().zip(&expected).zip(&parts) {
            if !self.agrees(found, expected, part, was_lost) {
                return Err(format!("{found:?} instead of {expected:?}"));
            }
            let known = &mut self.known[worker][usize::try_from(part.partition).unwrap()];
            *known = match found {
                Answer::Stored(next) | Answer::AlreadyStored(next) => next.next_offset(),
                _ => self.expected.positions[&part.partition],
            };
        }
        Ok(())
    }

    /// A store of objects finds the progress of others object by object, so it may name a position
    /// before the last; and it repeats a request without a reply by itself.
    fn agrees(
        &self,
        found: &Answer,
        expected: &Answer,
        part: &Part<'_, S::Batch>,
        was_lost: bool,
    ) -> bool {
        match (found, expected) {
            (Answer::AlreadyStored(found), Answer::AlreadyStored(end)) if self.store.trims => {
                (part.to..=*end).contains(found)
            }
            (Answer::AlreadyStored(found), Answer::Stored(expected)) => {
                self.store.trims && was_lost && found == expected
            }
            _ => found == expected,
        }
    }

    /// The worker reads where to continue.
    async fn read(&mut self, worker: usize) {
        let partitions: Vec<i32> = (0..PARTITIONS).collect();
        let sink = &self.store.workers[worker];
        let found = sink.positions(self.topic, &partitions).await.unwrap();
        for (known, partition) in self.known[worker].iter_mut().zip(0..) {
            let next = found
                .get(&partition)
                .map_or(0, |stored| stored.next.next_offset());
            assert_eq!(
                next, self.expected.positions[&partition],
                "{:?}",
                self.calls
            );
            *known = next;
        }
    }

    /// Resets a partition: forward, or backward where the store can.
    async fn reset(&mut self, random: &mut Random, number: usize) -> Result<(), String> {
        let partition = i32::try_from(random.below(2)).unwrap();
        let position = self.expected.positions[&partition];
        let forward = self.store.trims || random.below(2) == 0;
        let to = if forward {
            position + random.offset(3)
        } else {
            random.offset(u64::try_from(position).unwrap() + 1)
        };
        // An archive without objects has no position to reset.
        if self.store.trims && position == 0 {
            return Ok(());
        }
        let id = format!("reset-{number}");
        let sink = &self.store.workers[0];
        let target = [(partition, Position::offset(to))].into();
        for _ in 0..2 {
            sink.reset(self.topic, &id, &target)
                .await
                .map_err(|error| format!("{error:#}"))?;
        }
        let pending = sink.reset_pending(self.topic, &id, &[partition]).await;
        if !pending.unwrap().is_empty() {
            return Err(format!("{id} is pending after it was carried out"));
        }
        self.calls.push(format!("reset of {partition} to {to}"));
        self.expected.positions.insert(partition, to);
        Ok(())
    }
}
