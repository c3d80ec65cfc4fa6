//! A model test of the protocol between workers, log and stores. Partition buffers, commits, the
//! decision where to resume and batches are the real code. The log, the consumer group and the
//! stores are in memory, and a seeded random generator picks each step.
//!
//! The steps include:
//! - appends with times that repeat or go back, rejected records, transaction markers, compaction,
//!   retention and added partitions;
//! - workers that join, crash, are stopped, or lose their group membership without noticing and
//!   carry on; rebalances with and without the time to drain;
//! - calls to the store that take effect late, even after their caller was replaced, or never, and
//!   replies that are lost;
//! - positions set back by an operator.
//!
//! After every effect on the store, the oracle checks that it holds every record before the
//! position exactly once, none behind it, and the later of two records of a key. At the end every
//! record must be stored.
//!
//! Each of these mutations of the code made the test fail:
//!
//! - upsert: the expected position is ignored; later rows don't win, in a batch or in the table; an
//!   initial position overwrites an existing one;
//! - archive: no `If-None-Match`; no trimming; a taken key or a timeout counts as success; keys
//!   hold the first record's offset instead of the position;
//! - buffer: two commits in flight; records or positions accepted while draining; `stored` and
//!   `done` mixed up; offsets committed to the group before they are stored;
//! - session: no seek after another worker has moved the position or was further ahead;
//! - resuming: partitions added later start at their end; the group's offset takes precedence over
//!   the sink's.
//!
//! The test does not notice these, since the store or a second read of the position makes up for
//! them: taking the lost reply to one's own commit for another worker's progress, keeping buffered
//! records when another worker is further ahead, and accepting records twice.
//!
//! `PINPIPE_SEED=<seed>` runs one seed and prints its steps; `PINPIPE_RUNS=<count>` sets the number
//! of seeds.

mod broker;
mod member;
mod network;
mod objects;
mod oracle;
mod random;
mod tables;
mod world;

use std::env;

use pinpipe_config::Pipeline;
use prometheus_client::registry::Registry;

use self::{objects::Bucket, oracle::Store, tables::Tables, world::World};
use crate::metrics::Metrics;

/// The seeds run for each store.
const DEFAULT_RUNS: u64 = 1500;
/// The steps of a run.
const STEPS: usize = 220;

fn env_number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn run<S: Store>(store: &str) {
    let pipeline = Pipeline {
        namespace: "model".into(),
        name: "model".into(),
        uid: String::new(),
    };
    let metrics = Metrics::new(&mut Registry::default(), &pipeline, store);
    let one = env_number("PINPIPE_SEED");
    let seeds = one.map_or(
        0..env_number("PINPIPE_RUNS").unwrap_or(DEFAULT_RUNS),
        |seed| seed..seed + 1,
    );
    for seed in seeds {
        if let Err(why) = World::<S>::new(seed, metrics.clone(), one.is_some()).run(STEPS) {
            panic!(
                "{store}: {why}\nto print the steps: PINPIPE_SEED={seed} \
                 cargo test --workspace --bins model::{store}"
            );
        }
    }
}

#[test]
fn tables() {
    run::<Tables>("tables");
}

#[test]
fn objects() {
    run::<Bucket>("objects");
}
