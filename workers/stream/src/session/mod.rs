//! A session: one membership in the consumer group, from joining to leaving.
//!
//! Consume → clean → batch → commit. [`state::State`] decides; [`driver::Session`] reads records
//! into its buffers, tells it what happened, and does what it asks for.

pub mod bridge;
mod consume;
pub mod driver;
mod letters;
mod predecessor;
mod problems;
pub mod state;
mod worker;

pub use consume::consume;
pub use worker::Worker;

use std::sync::Arc;

use anyhow::Context as _;
use pinpipe_runtime::kafka::Access;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{bridge::Bridge, driver::Session, predecessor::read_on};
use crate::{
    clock::{Clock, SystemClock},
    dead_letter::{DeadLetters, Writer},
    log::{Reader, kafka::Kafka},
    sink::Sink,
};

/// Runs one session until `stop`, or until how to reach the brokers changes; either ends it as soon
/// as what is buffered is stored. An error says why the session must be restarted.
pub async fn run<S: Sink>(
    worker: &Arc<Worker<S, DeadLetters>>,
    access: &mut watch::Receiver<Access>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (config, pod) = (&worker.config, worker.pod.as_deref());
    let names = worker.topics().map(|(_, topic)| topic.name.as_str());
    let current = access.borrow_and_update().clone();
    let (log, events) =
        Kafka::connect(config, current.clone(), pod).context("the consumer can't be set up")?;
    let left_behind = async {
        match pod {
            Some(pod) => log.left_behind(&config.group, pod).await,
            None => Vec::new(),
        }
    };
    let left_behind = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        left_behind = left_behind => left_behind,
    };
    let log = log.join(&names).context("the consumer can't be set up")?;
    let end = stop.child_token();
    let bridge = Bridge::new(&end);
    let session = Session::new(
        worker.clone(),
        log.clone(),
        events,
        SystemClock,
        end.clone(),
    )
    .after(bridge.clone());
    let member = async {
        let ended = Box::pin(run_turns(session)).await;
        bridge.stop().cancel();
        ended
    };
    let bridged = Box::pin(read_on(&bridge, worker, current, left_behind));
    let both = async { tokio::join!(member, bridged) };
    let renewed = async {
        if access.changed().await.is_ok() {
            tracing::info!("the session ends, and the next one uses the renewed Secret");
            end.cancel();
        }
        std::future::pending().await
    };
    let (ended, ()) = tokio::select! {
        ended = both => ended,
        ended = renewed => ended,
    };
    log.leave().await;
    ended
}

/// Runs a session until it ends.
async fn run_turns<S: Sink, W: Writer, R: Reader, C: Clock>(
    mut session: Session<S, W, R, C>,
) -> anyhow::Result<()> {
    let ended = loop {
        match session.turn().await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    session.close();
    ended
}
