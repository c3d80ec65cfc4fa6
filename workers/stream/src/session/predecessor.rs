//! Reads the partitions of this pod's killed container over a [`Bridge`].

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use pinpipe_runtime::kafka::Access;

use super::{Worker, bridge::Bridge, driver::Session, run_turns};
use crate::{
    clock::SystemClock,
    dead_letter::DeadLetters,
    log::{TopicPartition, kafka::Kafka},
    sink::Sink,
};

/// How long a bridge lasts if the group assigns nothing: longer than the group waits for the killed
/// worker, and after that for members that store what they have read.
const LIMIT: Duration = Duration::from_secs(30);
/// How long its records may take to be stored once the group has assigned partitions. The member
/// waits for that, and reads again what is not stored.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads `partitions` until the bridge is stopped, and notes that it has ended.
pub(super) async fn read_on<S: Sink>(
    bridge: &Bridge,
    worker: &Arc<Worker<S, DeadLetters>>,
    access: Access,
    partitions: Vec<TopicPartition>,
) {
    if !partitions.is_empty() {
        tracing::info!(
            ?partitions,
            "this pod's killed container had partitions: reading them until the group assigns them"
        );
        if let Err(error) = read(bridge, worker, access, partitions).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the killed container's partitions are read once the group assigns them"
            );
        }
    }
    bridge.ended();
}

async fn read<S: Sink>(
    bridge: &Bridge,
    worker: &Arc<Worker<S, DeadLetters>>,
    access: Access,
    partitions: Vec<TopicPartition>,
) -> anyhow::Result<()> {
    let (log, events) = Kafka::connect(&worker.config, access, worker.pod.as_deref())
        .context("the consumer can't be set up")?;
    let (worker, stop) = (worker.clone(), bridge.stop());
    let mut session = Session::new(worker, log.clone(), events, SystemClock, stop.clone())
        .drains_within(DRAIN_TIMEOUT);
    session.assign(partitions);
    let limit = async {
        tokio::time::sleep(LIMIT).await;
        stop.cancel();
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = run_turns(session) => ended,
        ended = limit => ended,
    };
    log.leave().await;
    ended
}
