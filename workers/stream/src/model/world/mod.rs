//! A run of the model: random steps, with the oracle's check after each effect on the store.

/// Prints a step where one seed is run alone.
macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if $world.trace {
            eprintln!($($what)*);
        }
    };
}

mod changes;
mod group;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use pinpipe_config::{StartFrom, Stream};
use pinpipe_runtime::{admin::Admin, outage::Outage};
use prometheus_client::registry::Registry;
use tokio::{runtime::Builder, task::yield_now};

use super::{
    log::{self, Broker},
    member::{Member, Stepped, Time},
    network::Network,
    oracle::{check, check_start},
    random::Random,
    reader::Connection,
    reference::{self, Broken, RECORD_BYTES, Reference, Store},
};
use crate::{
    commit::SinkHealth,
    metrics::Metrics,
    resume::{Found, Resume},
    session::{Worker, driver::COMMIT_INTERVAL, state::Health},
    sink::{Grouping, Limits},
};

const MAX_PARTITIONS: usize = 4;
const MAX_MEMBERS: usize = 3;
/// The rounds without faults after which everything must have settled.
const MAX_SETTLE_ROUNDS: usize = 1000;

const CONFIG: &str = "configVersion: 1
pipeline: {namespace: model, name: model, uid: u}
kafka: {bootstrapServers: k}
topics:
  pin: {name: pin, deadLetter: pin.dlq}
  geo: {name: geo, deadLetter: geo.dlq}
  user: {name: user, deadLetter: user.dlq}
group: model
maxRecordBytes: 1000
writesDeadLetters: true
sink: !postgres {name: live, urlFile: f, schema: s, startFrom: earliest, writeMode: upsert}
";

/// What the workers of all runs share.
static PARTS: LazyLock<(Stream, Metrics)> = LazyLock::new(|| {
    let config: Stream = pinpipe_config::parse(CONFIG).unwrap();
    let metrics = Metrics::new(&mut Registry::default(), &config.pipeline, "model");
    (config, metrics)
});

/// Everything in a run.
pub struct World {
    random: Random,
    broker: Arc<Mutex<Broker>>,
    network: Arc<Mutex<Network<Store>>>,
    sink: Arc<Reference>,
    budget: usize,
    /// Whether this sink writes the dead letters of rejected records; else another sink does.
    writes_letters: bool,
    like: reference::Like,
    members: BTreeMap<u32, Member>,
    /// The number of members created so far, also the last one's id.
    created: u32,
    /// The bridges, each with the member that goes on after it.
    bridges: Vec<(u32, u32)>,
    /// The member that each partition is assigned to, perhaps a crashed one.
    owners: BTreeMap<i32, u32>,
    /// The member that the coordinator wants each partition assigned to.
    targets: BTreeMap<i32, u32>,
    time: Time,
    /// The number of partitions when the first position was stored.
    first_partitions: Option<usize>,
    trace: bool,
}

impl World {
    pub fn new(seed: u64, log: log::Like, like: reference::Like, trace: bool) -> Self {
        let mut random = Random(seed);
        let network = Arc::new(Mutex::new(Network {
            store: Store::new(like),
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
            grouping: match like {
                reference::Like::Table => Grouping::Topic,
                reference::Like::Objects => Grouping::Partition,
            },
        };
        let budget = if random.percent(30) {
            RECORD_BYTES * (16 + random.below(10))
        } else {
            1 << 20
        };
        let sink = Reference {
            network: network.clone(),
            like,
            from,
            limits,
        };
        let mut world = Self {
            broker: Arc::new(Mutex::new(Broker::new(log))),
            sink: Arc::new(sink),
            budget,
            writes_letters: true,
            network,
            like,
            members: BTreeMap::new(),
            created: 0,
            bridges: Vec::new(),
            owners: BTreeMap::new(),
            targets: BTreeMap::new(),
            time: Time(Arc::new(Mutex::new(Instant::now()))),
            first_partitions: None,
            random,
            trace,
        };
        trace!(world, "{from:?} {limits:?} {budget}");
        (0..=world.random.below(3)).for_each(|_| world.add_partition());
        let by_producer = world.random.percent(30);
        world.append(by_producer);
        world.join();
        world.join();
        world
    }

    /// A worker of the sink.
    fn worker(&self) -> Worker<Reference, reference::Letters> {
        let (config, metrics) = &*PARTS;
        let metrics = metrics.clone();
        let readiness = Admin::new().readiness();
        let outage = Outage::new(readiness.clone(), "SinkUnavailable");
        Worker {
            config: Stream {
                writes_dead_letters: self.writes_letters,
                ..config.clone()
            },
            name: "model".into(),
            pod: None,
            sink: self.sink.clone(),
            health: Arc::new(SinkHealth::new(metrics.clone(), outage)),
            reset: None,
            dead_letters: reference::Letters {
                network: self.network.clone(),
                log: Connection::new(self.broker.clone()),
            },
            metrics,
            readiness,
            budget: self.budget,
            flush: Arc::default(),
        }
    }

    /// Where all partitions resume while the position of one can't be read.
    pub fn find(mut self, unreadable: i32) -> Vec<Found> {
        let mut network = self.network.lock().unwrap();
        let broken = &mut network.store.broken;
        broken.insert(unreadable, Broken::Unreadable);
        drop(network);
        let worker = self.worker();
        let resume = Resume {
            log: worker.dead_letters.log,
            clock: self.time.clone(),
            sink: worker.sink,
            health: worker.health,
            readiness: worker.readiness,
            reset: None,
            writes_dead_letters: true,
            stamped_by_producers: false,
        };
        let partitions = self.broker.lock().unwrap().partition_ids();
        let topic = log::topic();
        let assigned = [((topic.kind, topic.name), partitions)].into();
        let runtime = Builder::new_current_thread().build().unwrap();
        let task = runtime.spawn(resume.run(assigned));
        while !task.is_finished() {
            runtime.block_on(yield_now());
            while !self.network.lock().unwrap().calls.is_empty() {
                self.deliver_one(0, 0).unwrap();
            }
        }
        runtime.block_on(task).unwrap()
    }

    /// Runs random steps, then no more faults until everything has settled.
    pub fn run(mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.time
                .pass(Duration::from_millis(self.random.below(4) as u64));
            self.step()?;
        }
        self.settle()
    }

    fn step(&mut self) -> Result<(), String> {
        if !self.writes_letters && self.random.percent(10) {
            self.write_letters_elsewhere();
        }
        match self.random.below(100) {
            0..14 => self.append(false),
            14..42 => self.poll()?,
            42..48 => self.time.pass(COMMIT_INTERVAL),
            48..52 => self.flush()?,
            52..66 => self.deliver()?,
            66..82 => self.proceed()?,
            82..89 => self.coordinate(),
            _ => match self.random.below(24) {
                0 | 19..22 => self.crash(),
                1..4 => self.join(),
                4..8 => self.expire(),
                8 => self.notice()?,
                9 => self.stop(),
                10 => self.rebalance(),
                11 => self.hand_letters_over(),
                12 => self.add_partition(),
                13 => self.compact(),
                14 => self.retain(),
                15 => self.break_partition(),
                16 => self.repair(),
                22 => self.stop_bridges(),
                17 => self
                    .time
                    .pass(Duration::from_secs(self.random.below(40) as u64)),
                _ => self.replay(),
            },
        }
        Ok(())
    }

    /// From now on the store does not store a partition's records.
    fn break_partition(&mut self) {
        let partition = self.some_partition();
        let broken = match self.like {
            reference::Like::Objects if self.random.percent(50) => Broken::Unavailable,
            reference::Like::Objects if self.random.percent(50) => Broken::Unreadable,
            _ => Broken::Halts,
        };
        trace!(self, "{partition} is broken: {broken:?}");
        let mut network = self.network.lock().unwrap();
        network.store.broken.insert(partition, broken);
    }

    fn repair(&mut self) {
        trace!(self, "nothing is broken any more");
        self.network.lock().unwrap().store.broken.clear();
    }

    fn some_member(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn poll(&mut self) -> Result<(), String> {
        let Some(id) = self.some_member() else {
            return Ok(());
        };
        let partitions = self.members.get(&id).map(Member::partitions);
        let Some(partition) = self.random.pick(&partitions.unwrap_or_default()) else {
            return Ok(());
        };
        let arrived = vec![partition; 1 + self.random.below(3)];
        trace!(self, "{id} polls {arrived:?}");
        self.step_of(id, arrived)
    }

    /// A member goes on; the next records of `arrived` are there.
    fn step_of(&mut self, id: u32, arrived: Vec<i32>) -> Result<(), String> {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let stalls_before = self.random.percent(10).then(|| self.random.below(4));
        let stepped = member.step(arrived, stalls_before)?;
        if stepped != Stepped::Waits {
            trace!(self, "{id}: {stepped:?}");
            self.leave(id);
        }
        if std::mem::take(&mut self.broker.lock().unwrap().commits) {
            self.check(false, &[])?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let Some(id) = self.some_member() else {
            return Ok(());
        };
        if let Some(member) = self.members.get(&id) {
            member.flush();
        }
        self.step_of(id, Vec::new())
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
        if effect {
            self.check(false, &[])
        } else {
            Ok(())
        }
    }

    fn check(&mut self, settled: bool, except: &[i32]) -> Result<(), String> {
        let (network, broker) = (self.network.lock().unwrap(), self.broker.lock().unwrap());
        let store = &network.store;
        if self.first_partitions.is_none() && !store.positions.is_empty() {
            self.first_partitions = Some(broker.partitions.len());
        }
        check(store, &broker, settled, except)?;
        check_start(store, self.first_partitions.unwrap_or(usize::MAX))
    }

    fn proceed(&mut self) -> Result<(), String> {
        match self.some_member() {
            Some(id) => self.step_of(id, Vec::new()),
            None => Ok(()),
        }
    }

    /// Runs without faults until everything is stored: first with what is broken, then without.
    fn settle(mut self) -> Result<(), String> {
        let broken: Vec<i32> = {
            let network = self.network.lock().unwrap();
            network.store.broken.keys().copied().collect()
        };
        if !broken.is_empty() {
            trace!(self, "settles, but for {broken:?}");
            self.settle_except(&broken)?;
            self.repair();
        }
        trace!(self, "settles");
        self.settle_except(&[])
    }

    /// The members that have halted partitions say so.
    fn check_health(&self) -> Result<(), String> {
        let network = self.network.lock().unwrap();
        let broker = self.broker.lock().unwrap();
        for (partition, broken) in &network.store.broken {
            let stored = network.store.positions.get(partition).copied();
            let stored = stored.unwrap_or_default();
            let mut left = broker.log(*partition).entries.iter();
            let owner = self
                .owners
                .get(partition)
                .and_then(|id| self.members.get(id));
            let waits =
                left.any(|entry| entry.after > stored && entry.is_sinkable() && !entry.compacted);
            let halted = |member: &Member| matches!(member.health(), Health::Halted(_));
            if waits && *broken == Broken::Halts && !owner.is_some_and(halted) {
                return Err(format!("the halt of partition {partition} does not show"));
            }
        }
        Ok(())
    }

    fn settle_except(&mut self, except: &[i32]) -> Result<(), String> {
        self.expire_crashed();
        self.stop_bridges();
        self.notice()?;
        self.writes_letters = true;
        for member in self
            .members
            .values_mut()
            .filter(|member| !member.writes_letters())
        {
            member.stop();
        }
        while self.members.is_empty() {
            self.join();
        }
        for round in 0..MAX_SETTLE_ROUNDS {
            self.time.pass(COMMIT_INTERVAL);
            if round % 100 == 0 {
                self.rebalance();
            }
            self.coordinate();
            let partitions = self.broker.lock().unwrap().partition_ids();
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.step_of(id, partitions.clone())?;
            }
            self.notice()?;
            if self.members.is_empty() {
                self.join();
            }
            let in_flight = self.network.lock().unwrap().calls.len();
            for index in (0..in_flight).rev() {
                self.deliver_one(index, 0)?;
            }
            let partitions = self.broker.lock().unwrap().partitions.len();
            let members = self.members.values();
            let read: usize = members.map(|member| member.partitions().len()).sum();
            if read == partitions
                && self
                    .members
                    .values()
                    .all(|member| member.is_settled(except))
                && (!except.is_empty() || self.network.lock().unwrap().calls.is_empty())
                && self.check_health().is_ok()
            {
                return self.check(true, except);
            }
        }
        self.check_health()?;
        Err(format!("nothing settles within {MAX_SETTLE_ROUNDS} rounds"))
    }
}
