//! A session: one membership in the consumer group, from joining to leaving.
//!
//! Consume → clean → batch → commit. [`state::State`] decides; [`driver::Session`] reads records
//! into its buffers, tells it what happened, and does what it asks for.

mod consume;
pub mod driver;
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

use self::driver::Session;
use crate::{clock::SystemClock, dead_letter::DeadLetters, log::kafka::Kafka, sink::Sink};

/// Runs one session until `stop`, or until how to reach the brokers changes; either ends it as soon
/// as what is buffered is stored. An error says why the session must be restarted.
pub async fn run<S: Sink>(
    worker: &Arc<Worker<S, DeadLetters>>,
    access: &mut watch::Receiver<Access>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let names = worker.topics().map(|(_, topic)| topic.name.as_str());
    let current = access.borrow_and_update().clone();
    let (log, events) =
        Kafka::connect(&worker.config, current, &names).context("the consumer can't be set up")?;
    let end = stop.child_token();
    let mut session = Session::new(
        worker.clone(),
        log.clone(),
        events,
        SystemClock,
        end.clone(),
    );
    let ended = loop {
        tokio::select! {
            turn = session.turn() => match turn {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            },
            Ok(()) = access.changed(), if !end.is_cancelled() => {
                tracing::info!("the session ends, and the next one uses the renewed Secret");
                end.cancel();
            }
        }
    };
    session.remove_metrics();
    drop(session);
    log.leave().await;
    ended
}
