//! A run of the model: random steps, with the oracle's check after each effect on the store.

/// Prints a step where one seed is run alone.
macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if $world.trace {
            eprintln!($($what)*);
        }
    };
}

mod group;
mod log;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use pinpipe_config::StartFrom;

use super::{
    broker::Broker,
    member::{End, Member},
    network::Network,
    oracle::Store,
    random::Random,
};
use crate::{metrics::Metrics, sink::Limits};

/// The number of record keys, small so that records often share one.
const KEYS: usize = 7;
const MAX_PARTITIONS: usize = 4;
const MAX_MEMBERS: usize = 3;
/// The rounds without faults after which everything must have settled.
const MAX_SETTLE_ROUNDS: usize = 3000;

/// Everything in a run.
pub struct World<S: Store> {
    random: Random,
    broker: Arc<Mutex<Broker>>,
    network: Arc<Mutex<Network<S>>>,
    sink: Arc<S::Sink>,
    metrics: Metrics,
    members: BTreeMap<u32, Member<S::Sink>>,
    /// The number of members created so far, also the last one's id.
    created: u32,
    /// The member that each partition is assigned to.
    owners: BTreeMap<i32, u32>,
    /// The member that the coordinator wants each partition assigned to.
    targets: BTreeMap<i32, u32>,
    now: Instant,
    /// The number of partitions when the first position was stored.
    first_partitions: Option<usize>,
    trace: bool,
}

impl<S: Store> World<S> {
    pub fn new(seed: u64, metrics: Metrics, trace: bool) -> Self {
        let mut random = Random(seed);
        let network = Arc::new(Mutex::new(Network {
            store: S::default(),
            calls: Vec::new(),
        }));
        let from = if random.percent(70) {
            StartFrom::Earliest
        } else {
            StartFrom::Latest
        };
        let age = Duration::from_millis(random.below(40) as u64);
        let limits = Limits {
            records: 1 + random.below(6),
            bytes: 1 << 20,
            age,
        };
        let sink = Arc::new(S::sink(network.clone(), from, limits));
        let broker = Broker {
            clock: 1_700_000_000_000,
            ..Broker::default()
        };
        let mut world = Self {
            broker: Arc::new(Mutex::new(broker)),
            network,
            sink,
            metrics,
            members: BTreeMap::new(),
            created: 0,
            owners: BTreeMap::new(),
            targets: BTreeMap::new(),
            now: Instant::now(),
            first_partitions: None,
            random,
            trace,
        };
        trace!(world, "{from:?} {limits:?}");
        (0..=world.random.below(3)).for_each(|_| world.add_partition());
        world.append();
        world.join();
        world.join();
        world
    }

    /// Runs random steps, then no more faults until everything has settled.
    pub fn run(mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.now += Duration::from_millis(self.random.below(4) as u64);
            self.step()?;
        }
        self.settle()
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(100) {
            0..14 => self.append(),
            14..42 => self.poll()?,
            42..48 => self.bookkeeping(),
            48..54 => self.tick(),
            54..68 => self.deliver()?,
            68..82 => self.proceed()?,
            82..89 => self.coordinate(),
            _ => match self.random.below(16) {
                0 => self.crash(),
                1..4 => self.join(),
                4..8 => self.expire(),
                8 => self.notice(),
                9 => self.stop(),
                10..12 => self.rebalance(),
                12 => self.add_partition(),
                13 => self.compact(),
                14 => self.retain(),
                _ => self.replay(),
            },
        }
        Ok(())
    }

    fn some_member(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn poll(&mut self) -> Result<(), String> {
        let Some(id) = self.some_member() else {
            return Ok(());
        };
        let partitions = self
            .members
            .get(&id)
            .map(Member::partitions)
            .unwrap_or_default();
        let Some(partition) = self.random.pick(&partitions) else {
            return Ok(());
        };
        for _ in 0..=self.random.below(3) {
            trace!(self, "{id} polls {partition}");
            let Some(member) = self.members.get_mut(&id) else {
                break;
            };
            let polled = member.poll(partition, self.now);
            self.ended(id, polled)?;
        }
        Ok(())
    }

    fn tick(&mut self) {
        let (now, flush) = (self.now, self.random.percent(30));
        if let Some(member) = self.some_member().and_then(|id| self.members.get_mut(&id)) {
            if flush {
                member.flush();
            }
            member.tick(now);
        }
    }

    fn bookkeeping(&mut self) {
        if let Some(member) = self.some_member().and_then(|id| self.members.get_mut(&id)) {
            member.bookkeeping();
        }
    }

    /// Restarts a worker whose session has ended. A halt is a failure, since no step causes one.
    fn ended(&mut self, id: u32, result: Result<(), End>) -> Result<(), String> {
        match result {
            Ok(()) => Ok(()),
            Err(End::Halt(halt)) => Err(format!("worker {id} halts: {halt}")),
            Err(End::Restart) => {
                trace!(self, "{id} restarts");
                self.leave(id);
                Ok(())
            }
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        let in_flight = self.network.lock().unwrap().calls.len();
        if in_flight == 0 {
            return Ok(());
        }
        let (index, chance) = (self.random.below(in_flight), self.random.below(100));
        self.deliver_one(index, chance)
    }

    fn deliver_one(&mut self, index: usize, chance: usize) -> Result<(), String> {
        let mut network = self.network.lock().unwrap();
        let Network { store, calls } = &mut *network;
        let call = &mut calls[index];
        let (done, effect) = match (call.has_taken_effect(), chance) {
            // Takes effect, perhaps long after its caller has given up or crashed.
            (false, 0..80) => {
                call.take_effect(store);
                (!call.is_awaited(), true)
            }
            (true, 0..85) => {
                call.reply();
                (true, false)
            }
            // The caller gives up. The call may still be in flight, be lost, or have taken effect.
            (taken, _) => {
                call.lose();
                (taken || chance >= 90, false)
            }
        };
        trace!(
            self,
            "call {index}: chance {chance}, done {done}, effect {effect}"
        );
        if done {
            calls.swap_remove(index);
        }
        drop(network);
        if effect { self.check(false) } else { Ok(()) }
    }

    fn check(&mut self, settled: bool) -> Result<(), String> {
        let (network, broker) = (self.network.lock().unwrap(), self.broker.lock().unwrap());
        let store = &network.store;
        if self.first_partitions.is_none()
            && broker
                .partition_ids()
                .into_iter()
                .any(|number| store.stored(number).is_some())
        {
            self.first_partitions = Some(broker.partitions.len());
        }
        store.check(&broker, settled)?;
        store.check_start(self.first_partitions.unwrap_or(usize::MAX))
    }

    fn proceed(&mut self) -> Result<(), String> {
        let Some(id) = self.some_member() else {
            return Ok(());
        };
        self.proceed_one(id)
    }

    fn proceed_one(&mut self, id: u32) -> Result<(), String> {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let result = member.proceed();
        self.ended(id, result)
    }

    /// Runs without faults until everything is stored.
    fn settle(mut self) -> Result<(), String> {
        self.notice();
        while self.members.is_empty() {
            self.join();
        }
        for round in 0..MAX_SETTLE_ROUNDS {
            self.now += Duration::from_millis(20);
            if round % 100 == 0 {
                self.rebalance();
            }
            self.coordinate();
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                for partition in 0..i32::try_from(MAX_PARTITIONS).unwrap() {
                    let Some(member) = self.members.get_mut(&id) else {
                        break;
                    };
                    let polled = member.poll(partition, self.now);
                    self.ended(id, polled)?;
                }
                self.proceed_one(id)?;
            }
            for member in self.members.values_mut() {
                member.tick(self.now);
                member.bookkeeping();
            }
            if self.members.is_empty() {
                self.join();
            }
            let in_flight = self.network.lock().unwrap().calls.len();
            for index in (0..in_flight).rev() {
                self.deliver_one(index, 0)?;
            }
            let partitions = self.broker.lock().unwrap().partitions.len();
            let idle = self.network.lock().unwrap().calls.is_empty();
            if idle
                && self.owners.len() == partitions
                && self.members.values().all(Member::is_settled)
            {
                return self.check(true);
            }
        }
        Err(format!("nothing settles within {MAX_SETTLE_ROUNDS} rounds"))
    }
}
