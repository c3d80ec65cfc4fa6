//! A run: chance picks what happens next, and after everything that could matter the oracle is
//! asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use pinpipe_config::StartFrom;

use super::{
    broker::{Broker, Entry, PartitionLog, What},
    member::{End, Member},
    network::Network,
    oracle::Store,
    random::Random,
};
use crate::{metrics::Metrics, sink::Limits};

/// Keys of records: few, so that they meet.
const KEYS: usize = 7;
const MOST_PARTITIONS: usize = 4;
const MOST_MEMBERS: usize = 3;
/// Rounds without faults within which everything must have settled.
const PATIENCE: usize = 3000;

/// See the module.
pub struct World<S: Store> {
    random: Random,
    broker: Arc<Mutex<Broker>>,
    network: Arc<Mutex<Network<S>>>,
    sink: Arc<S::Sink>,
    metrics: Metrics,
    members: BTreeMap<u32, Member<S::Sink>>,
    /// Members made so far.
    born: u32,
    /// Whose each partition is, and whose it shall be.
    owners: BTreeMap<i32, u32>,
    targets: BTreeMap<i32, u32>,
    now: Instant,
    /// Partitions there were when the first position was stored.
    first_partitions: Option<usize>,
    trace: bool,
}

macro_rules! tell {
    ($world:expr, $($what:tt)*) => {
        if $world.trace {
            eprintln!($($what)*);
        }
    };
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
            born: 0,
            owners: BTreeMap::new(),
            targets: BTreeMap::new(),
            now: Instant::now(),
            first_partitions: None,
            random,
            trace,
        };
        tell!(world, "{from:?} {limits:?}");
        (0..=world.random.below(3)).for_each(|_| world.raise());
        world.append();
        world.join();
        world.join();
        world
    }

    /// So many moments of chance, then no more faults until everything has settled.
    pub fn run(mut self, moments: usize) -> Result<(), String> {
        for _ in 0..moments {
            self.now += Duration::from_millis(self.random.below(4) as u64);
            self.happen()?;
        }
        self.settle()
    }

    fn happen(&mut self) -> Result<(), String> {
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
                10..12 => self.aim(),
                12 => self.raise(),
                13 => self.compact(),
                14 => self.retain(),
                _ => self.replay(),
            },
        }
        Ok(())
    }

    fn some_partition(&mut self) -> i32 {
        let numbers = self.broker.lock().unwrap().numbers();
        self.random.pick(&numbers).unwrap()
    }

    fn some_member(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn append(&mut self) {
        let mut broker = self.broker.lock().unwrap();
        for _ in 0..=self.random.below(4) {
            // A broker's clock may stand still, or be set back.
            broker.clock += self.random.within(0, 2);
            let time = broker.clock
                - if self.random.percent(10) {
                    self.random.within(0, 5)
                } else {
                    0
                };
            let key = self.random.below(KEYS);
            let (what, partition) = match self.random.below(10) {
                0 => (What::Marker, self.random.below(broker.partitions.len())),
                1 => (What::Rejected, self.random.below(broker.partitions.len())),
                _ => (
                    What::Record(i64::try_from(key).unwrap()),
                    key % broker.partitions.len(),
                ),
            };
            let log = &mut broker.partitions[partition];
            tell!(self, "append {partition}/{} {what:?} at {time}", log.high());
            log.entries.push(Entry {
                what,
                time,
                compacted: false,
            });
        }
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
            tell!(self, "{id} polls {partition}");
            let Some(member) = self.members.get_mut(&id) else {
                break;
            };
            let polled = member.poll(partition, self.now);
            self.ended(id, polled)?;
        }
        Ok(())
    }

    fn tick(&mut self) {
        let (now, asked) = (self.now, self.random.percent(30));
        if let Some(member) = self.some_member().and_then(|id| self.members.get_mut(&id)) {
            if asked {
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

    /// A session that ends is begun anew; one that halts has been deceived.
    fn ended(&mut self, id: u32, result: Result<(), End>) -> Result<(), String> {
        match result {
            Ok(()) => Ok(()),
            Err(End::Halt(halt)) => Err(format!("worker {id} halts: {halt}")),
            Err(End::Again) => {
                tell!(self, "{id} begins anew");
                self.leave(id);
                Ok(())
            }
        }
    }

    fn leave(&mut self, id: u32) {
        self.members.remove(&id);
        self.owners.retain(|_, owner| *owner != id);
    }

    fn deliver(&mut self) -> Result<(), String> {
        let under_way = self.network.lock().unwrap().calls.len();
        if under_way == 0 {
            return Ok(());
        }
        let (index, chance) = (self.random.below(under_way), self.random.below(100));
        self.deliver_one(index, chance)
    }

    fn deliver_one(&mut self, index: usize, chance: usize) -> Result<(), String> {
        let mut network = self.network.lock().unwrap();
        let Network { store, calls } = &mut *network;
        let call = &mut calls[index];
        let (done, effect) = match (call.has_taken_effect(), chance) {
            // Takes effect after all, maybe long after its caller has given up or died.
            (false, 0..80) => {
                call.take_effect(store);
                (!call.is_awaited(), true)
            }
            (true, 0..85) => {
                call.answer();
                (true, false)
            }
            // The caller gives up: what it asked for is under way still, or got lost, or is done
            // without its knowing.
            (taken, _) => {
                call.lose();
                (taken || chance >= 90, false)
            }
        };
        tell!(
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
                .numbers()
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

    /// The group's coordinator: takes partitions from those who shall not have them, and gives
    /// those nobody has.
    fn coordinate(&mut self) {
        let too_long = self.random.percent(5);
        for (id, member) in &mut self.members {
            let given_up = member.finish_revoking(too_long);
            if member.in_group {
                self.owners
                    .retain(|partition, owner| owner != id || !given_up.contains(partition));
            }
            if member.stopping && (member.is_drained() || too_long) {
                tell!(self, "{id} leaves");
                member.bookkeeping();
            }
        }
        let gone: Vec<u32> = self
            .members
            .iter()
            .filter(|(_, member)| member.stopping && (member.is_drained() || too_long))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.leave(id);
        }
        for (id, member) in &mut self.members {
            let owned = |partition: &i32| self.owners.get(partition) == Some(id);
            let mine = |partition: &i32| self.targets.get(partition) == Some(id);
            if !member.is_free() {
                continue;
            }
            let taken: Vec<i32> = self
                .owners
                .keys()
                .copied()
                .filter(|p| owned(p) && !mine(p))
                .collect();
            if !taken.is_empty() {
                tell!(self, "{id} shall give up {taken:?}");
                member.revoke(taken);
                continue;
            }
            let given: Vec<i32> = self
                .targets
                .keys()
                .copied()
                .filter(|p| mine(p) && !self.owners.contains_key(p))
                .collect();
            if !given.is_empty() {
                tell!(self, "{id} is given {given:?}");
                self.owners
                    .extend(given.iter().map(|partition| (*partition, *id)));
                member.assign(given);
            }
        }
    }

    /// A rebalance: partitions are dealt out anew, most stay where they are.
    fn aim(&mut self) {
        let ids: Vec<u32> = self
            .members
            .iter()
            .filter(|(_, member)| member.in_group && !member.stopping)
            .map(|(id, _)| *id)
            .collect();
        for partition in self.broker.lock().unwrap().numbers() {
            let stays = self
                .targets
                .get(&partition)
                .is_some_and(|id| ids.contains(id))
                && self.random.percent(60);
            if let Some(id) = self.random.pick(&ids).filter(|_| !stays) {
                self.targets.insert(partition, id);
            }
        }
        tell!(self, "partitions shall go to {:?}", self.targets);
    }

    fn join(&mut self) {
        if self.members.len() < MOST_MEMBERS {
            self.born += 1;
            tell!(self, "{} joins", self.born);
            let member = Member::new(self.sink.clone(), self.metrics.clone(), self.broker.clone());
            self.members.insert(self.born, member);
            self.aim();
        }
    }

    /// The process is gone; what it has sent is not.
    fn crash(&mut self) {
        if let Some(id) = self.some_member() {
            tell!(self, "{id} crashes");
            self.leave(id);
            self.aim();
        }
    }

    /// A member's session times out, and it knows nothing of it.
    fn expire(&mut self) {
        if let Some(id) = self.some_member() {
            tell!(self, "{id} is thrown out");
            self.owners.retain(|_, owner| *owner != id);
            if let Some(member) = self.members.get_mut(&id) {
                member.in_group = false;
            }
            self.aim();
        }
    }

    fn notice(&mut self) {
        for (id, member) in &mut self.members {
            if !member.in_group {
                tell!(self, "{id} learns that it was thrown out");
                member.lose_all();
            }
        }
    }

    fn stop(&mut self) {
        if let Some(id) = self.some_member()
            && let Some(member) = self.members.get_mut(&id)
        {
            tell!(self, "{id} is stopped");
            member.flush();
            member.stopping = true;
            self.aim();
        }
    }

    fn raise(&mut self) {
        let mut broker = self.broker.lock().unwrap();
        if broker.partitions.len() < MOST_PARTITIONS {
            broker.partitions.push(PartitionLog::default());
            tell!(self, "there are {} partitions", broker.partitions.len());
        }
    }

    fn compact(&mut self) {
        let partition = self.some_partition();
        let mut broker = self.broker.lock().unwrap();
        let high = broker.log(partition).high();
        for _ in 0..3 {
            let offset = self.random.within(0, high);
            tell!(self, "compaction looks at {partition}/{offset}");
            broker.compact(partition, offset);
        }
    }

    /// The broker deletes what everyone has read. It does so hours later, so nobody is just being
    /// told where to resume.
    fn retain(&mut self) {
        if self.members.values().any(Member::is_resuming) {
            return;
        }
        let partition = self.some_partition();
        let stored = self.network.lock().unwrap().store.stored(partition);
        let mut broker = self.broker.lock().unwrap();
        let dealt_with = S::dealt_with(stored, broker.committed.get(&partition).copied());
        let read = self
            .members
            .values()
            .filter_map(|member| member.place(partition))
            .min()
            .unwrap_or(dealt_with);
        let log = broker.log_mut(partition);
        let low = self.random.within(0, dealt_with.min(read));
        log.low = low.max(log.low);
        tell!(self, "retention: {partition} begins at {}", log.low);
    }

    /// A person asks for records to be read again.
    fn replay(&mut self) {
        if S::replay_needs_silence() {
            self.members.clear();
            self.owners.clear();
            self.network.lock().unwrap().calls.clear();
        } else if self.members.values().any(Member::is_resuming) {
            return;
        }
        let partition = self.some_partition();
        let (mut network, broker) = (self.network.lock().unwrap(), self.broker.lock().unwrap());
        if let Some(stored) = network.store.stored(partition)
            && stored >= broker.log(partition).low
        {
            let to = self.random.within(broker.log(partition).low, stored);
            let done = network.store.replay(partition, to, &broker);
            tell!(self, "replay {partition} from {to}: {done}");
        }
    }

    /// No more faults: everything must come to rest, with everything stored.
    fn settle(mut self) -> Result<(), String> {
        self.notice();
        while self.members.is_empty() {
            self.join();
        }
        for round in 0..PATIENCE {
            self.now += Duration::from_millis(20);
            if round % 100 == 0 {
                self.aim();
            }
            self.coordinate();
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                for partition in 0..i32::try_from(MOST_PARTITIONS).unwrap() {
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
            let under_way = self.network.lock().unwrap().calls.len();
            for index in (0..under_way).rev() {
                self.deliver_one(index, 0)?;
            }
            let partitions = self.broker.lock().unwrap().partitions.len();
            let quiet = self.network.lock().unwrap().calls.is_empty();
            if quiet
                && self.owners.len() == partitions
                && self.members.values().all(Member::is_settled)
            {
                return self.check(true);
            }
        }
        Err(format!("nothing settles within {PATIENCE} rounds"))
    }
}
