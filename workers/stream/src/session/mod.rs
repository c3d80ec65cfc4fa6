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
use tokio_util::sync::CancellationToken;

use self::driver::Session;
use crate::{clock::SystemClock, dead_letter::DeadLetters, log::kafka::Kafka, sink::Sink};

/// Runs one session until `stop`. An error says why the session must be restarted.
pub async fn run<S: Sink>(
    worker: &Arc<Worker<S, DeadLetters>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let names = worker.topics().map(|(_, topic)| topic.name.as_str());
    let (log, events) =
        Kafka::connect(&worker.config, &names).context("the consumer can't be set up")?;
    let mut session = Session::new(
        worker.clone(),
        log.clone(),
        events,
        SystemClock,
        stop.clone(),
    );
    let ended = loop {
        match session.turn().await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    session.remove_metrics();
    drop(session);
    log.leave().await;
    ended
}
