//! The bridge over the time in which the consumer group waits for a worker that was killed.
//!
//! The group gives the partitions of a worker that was killed to nobody until its session expires.
//! A container that starts again in the same pod reads them meanwhile, in a session of its own that
//! is no member of the group. It ends before the session of the member looks up where to resume in
//! what the group assigns. Until then the group has the partitions for the killed worker, so that
//! nobody else reads them. If that changes, the sink fences one of the two off, as it does with any
//! two workers.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use pinpipe_runtime::kafka::Access;
use tokio_util::sync::CancellationToken;

use super::{Worker, driver::Session, run_turns};
use crate::{
    clock::SystemClock,
    dead_letter::DeadLetters,
    log::{TopicPartition, kafka::Kafka},
    sink::Sink,
};

/// How long a bridge lasts if the group assigns nothing: a little longer than the group waits for
/// the killed worker.
const LIMIT: Duration = Duration::from_secs(10);

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
    #[cfg(test)]
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Reads `partitions` until it is stopped.
    pub(super) async fn run<S: Sink>(
        &self,
        worker: &Arc<Worker<S, DeadLetters>>,
        access: Access,
        partitions: Vec<TopicPartition>,
    ) {
        if !partitions.is_empty() {
            tracing::info!(
                ?partitions,
                "this pod's killed container had partitions: reading them until the group assigns \
                 them"
            );
            if let Err(error) = self.read(worker, access, partitions).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the killed container's partitions are read once the group assigns them"
                );
            }
        }
        self.ended();
    }

    async fn read<S: Sink>(
        &self,
        worker: &Arc<Worker<S, DeadLetters>>,
        access: Access,
        partitions: Vec<TopicPartition>,
    ) -> anyhow::Result<()> {
        let (log, events) = Kafka::connect(&worker.config, access, worker.pod.as_deref())
            .context("the consumer can't be set up")?;
        let (worker, stop) = (worker.clone(), self.stop.clone());
        let mut session = Session::new(worker, log.clone(), events, SystemClock, stop);
        session.assign(partitions);
        let limit = async {
            tokio::time::sleep(LIMIT).await;
            self.stop.cancel();
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = run_turns(session) => ended,
            ended = limit => ended,
        };
        log.leave().await;
        ended
    }
}
