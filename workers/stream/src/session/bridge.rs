//! The bridge over the time in which the consumer group waits for a worker that was killed.
//!
//! The group gives the partitions of a worker that was killed to nobody until its session expires.
//! A container that starts again in the same pod reads them meanwhile, in a session of its own that
//! is no member of the group. It ends before the session of the member looks up where to resume in
//! what the group assigns. Until then the group has the partitions for the killed worker, so that
//! nobody else reads them. If that changes, the sink fences one of the two off, as it does with any
//! two workers.

use tokio_util::sync::CancellationToken;

/// A bridge; clones share it.
#[derive(Clone, Debug)]
pub struct Bridge {
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Bridge {
    /// A bridge that also ends at `stop`.
    #[must_use]
    pub fn new(stop: &CancellationToken) -> Self {
        Self {
            stop: stop.child_token(),
            ended: CancellationToken::new(),
        }
    }

    /// What stops its session.
    #[must_use]
    pub const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Notes that its session has ended.
    pub fn ended(&self) {
        self.ended.cancel();
    }

    /// Stops its session and waits until everything that it has read is stored.
    pub async fn end(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }
}
