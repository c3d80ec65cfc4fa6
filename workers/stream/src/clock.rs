//! The time that the session goes by. In its model test the test decides how time passes.

use std::time::{Duration, Instant};

/// A clock.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Instant;
    /// Waits until `at`.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send;
    /// Waits between two attempts.
    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + Send;
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send {
        tokio::time::sleep_until(at.into())
    }

    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(delay)
    }
}
