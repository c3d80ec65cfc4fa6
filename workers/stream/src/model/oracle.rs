//! The oracle: the invariants of a store.

use std::sync::{Arc, Mutex};

use pinpipe_config::StartFrom;

use super::{broker::Broker, network::Network};
use crate::sink::{Limits, Sink};

/// A store in memory that can check its own invariants.
pub trait Store: Default + Send + Sized + 'static {
    type Sink: Sink;

    fn sink(network: Arc<Mutex<Network<Self>>>, from: StartFrom, limits: Limits) -> Self::Sink;

    /// The stored position of a partition.
    fn stored(&self, partition: i32) -> Option<i64>;

    /// The offset before which retention may delete records.
    fn no_longer_needed(stored: Option<i64>, committed: Option<i64>) -> i64;

    /// Sets a position back to `to`, as an operator would, so that the records from there on are
    /// read again. Returns whether anything changed.
    fn replay(&mut self, partition: i32, to: i64, broker: &Broker) -> bool;

    /// Whether all workers must be stopped for a replay.
    fn replay_needs_no_workers() -> bool;

    /// Checks that the store holds every record before the position exactly once, with the later of
    /// two records of a key, and none behind the position. Once the run has `settled`, the position
    /// must be at the end of the log.
    fn check(&self, broker: &Broker, settled: bool) -> Result<(), String>;

    /// Checks that partitions added after the first position was stored start at 0.
    fn check_start(&self, first_partitions: usize) -> Result<(), String>;
}
