//! What must be true of a store at every moment.

use std::sync::{Arc, Mutex};

use pinpipe_config::StartFrom;

use super::{broker::Broker, network::Network};
use crate::sink::{Limits, Sink};

/// A store in memory, and what it knows of right and wrong.
pub trait Store: Default + Send + Sized + 'static {
    type Sink: Sink;

    fn sink(network: Arc<Mutex<Network<Self>>>, from: StartFrom, limits: Limits) -> Self::Sink;

    /// The position of a partition.
    fn stored(&self, partition: i32) -> Option<i64>;

    /// The offset before which nobody needs the log any more.
    fn dealt_with(stored: Option<i64>, committed: Option<i64>) -> i64;

    /// A person has the records from `to` on read again. False: nothing was changed.
    fn replay(&mut self, partition: i32, to: i64, broker: &Broker) -> bool;

    /// Whether no worker may be at work meanwhile.
    fn replay_needs_silence() -> bool;

    /// Every record before the position is there, once, the later of two having won, and none from
    /// behind it. When all has `settled`, every record of the log is.
    fn check(&self, broker: &Broker, settled: bool) -> Result<(), String>;

    /// Nothing was skipped of partitions that appeared after the first position was stored.
    fn check_start(&self, first_partitions: usize) -> Result<(), String>;
}
