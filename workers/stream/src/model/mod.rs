//! A model test of the protocol between workers, log and store: lanes, commits, resuming and
//! batches are the real code; the log, the consumer group and the stores are in memory, and chance,
//! by seed, decides what happens next.
//!
//! What may happen: appends with times that repeat or go back, rejected records, markers,
//! compaction, retention; workers that crash, join, are stopped, are thrown out of the group
//! without knowing it and go on meanwhile; rebalances, with and without the time to drain; calls to
//! the store that take effect late (also after their caller was replaced), twice, or never, and
//! answers that are lost; partitions added; positions set back by a person. After every effect on
//! the store: every record before the position is there, none twice, none from behind it, later
//! ones win. At the end: every record is there.
//!
//! What it catches: each of these was done to the code while the test was written, and made it fail
//! then.
//!
//! | where | mutation |
//! |---|---|
//! | upsert | the expected position is ignored; later rows don't win in a batch, or in the table; a first position overwrites one that is there |
//! | archive | no `If-None-Match`; no trimming; a taken key, or a time-out, is held for success; keys named by the first record kept |
//! | lane | two commits under way; records or positions taken while draining; the expected position, or what is dealt with, mixed up with the other; the group told more than is stored |
//! | session | no seek after another worker has moved the position, or was further |
//! | resuming | partitions that appear later begin at their end; the group's offset believed before the sink's |
//!
//! Not caught: telling one's own lost answer from another's progress (the position is read again
//! then), forgetting what was gathered when another worker was further (the store refuses or trims
//! it), and leaving out records that come a second time.
//!
//! `PINPIPE_SEED=<seed>` runs one seed and tells what happens in it; `PINPIPE_RUNS=<count>` runs
//! more seeds.

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

/// Runs of each store.
const RUNS: u64 = 1500;
/// Moments of a run.
const MOMENTS: usize = 220;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn run<S: Store>(store: &str) {
    let pipeline = Pipeline {
        namespace: "model".into(),
        name: "model".into(),
        uid: String::new(),
    };
    let metrics = Metrics::new(&mut Registry::default(), &pipeline, store);
    let one = number("PINPIPE_SEED");
    let seeds = one.map_or(0..number("PINPIPE_RUNS").unwrap_or(RUNS), |seed| {
        seed..seed + 1
    });
    for seed in seeds {
        if let Err(why) = World::<S>::new(seed, metrics.clone(), one.is_some()).run(MOMENTS) {
            panic!(
                "{store}: {why}\nto see it happen: PINPIPE_SEED={seed} cargo test --workspace --bins model::{store}"
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
