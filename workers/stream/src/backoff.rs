//! The delays between attempts.

use std::time::Duration;

/// The interval at which a lasting problem is logged again.
pub const REMINDER: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_millis(200);
/// Jitter doubles it at most.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double from 200 ms up to 5 s, each lengthened at random, up to twice as long.
pub struct Backoff(Box<dyn Iterator<Item = Duration> + Send>);

impl Default for Backoff {
    fn default() -> Self {
        Self(Box::new(pinpipe_runtime::backoff::backoff(FIRST, LONGEST)))
    }
}

impl Backoff {
    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }
}
