//! The commit of one batch: dead letters first, then the sink, retried until the outcome is known.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_runtime::outage::Outage;

use crate::{
    backoff::Backoff,
    buffer::Sealed,
    log::Position,
    metrics::Metrics,
    sink::{Answer, Batch, Halt, Part, Sink, SinkError, Source},
};

/// The interval at which a lasting problem is logged again.
pub const REMINDER: Duration = Duration::from_secs(30);

/// How a commit ended.
#[derive(Debug)]
pub enum Outcome {
    /// The batch is stored.
    Committed {
        /// The end of the batch.
        to: i64,
        /// The sink's position.
        stored: i64,
    },
    /// Another worker has moved the position.
    Moved,
    /// The sink must stop.
    Halted(Halt),
}

/// Whether the sink is available, as metric, log line and readiness. Shared by every task that
/// calls the sink.
#[derive(Debug)]
pub struct SinkHealth {
    metrics: Metrics,
    outage: Outage,
    downtime: Mutex<Option<Downtime>>,
}

#[derive(Clone, Copy, Debug)]
struct Downtime {
    since: Instant,
    reminded: Instant,
}

impl SinkHealth {
    /// Reports to `metrics` and `outage`; nothing is reported until the first call.
    pub const fn new(metrics: Metrics, outage: Outage) -> Self {
        Self {
            metrics,
            outage,
            downtime: Mutex::new(None),
        }
    }

    fn downtime(&self) -> MutexGuard<'_, Option<Downtime>> {
        self.downtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that the sink answered.
    pub fn up(&self) {
        self.metrics.sink_up.set(1);
        self.outage.up();
        if let Some(downtime) = self.downtime().take() {
            tracing::info!(after = ?downtime.since.elapsed(), "the sink is available again");
        }
    }

    /// Reports that the sink failed or did not answer.
    pub fn down(&self, error: &anyhow::Error) {
        self.metrics.sink_up.set(0);
        let error = format!("{error:#}");
        self.outage.down(|| error.clone());
        let now = Instant::now();
        let mut state = self.downtime();
        match state.as_mut() {
            Some(downtime) if now.duration_since(downtime.reminded) < REMINDER => {
                tracing::debug!(error, "the sink is unavailable");
            }
            Some(downtime) => {
                downtime.reminded = now;
                tracing::warn!(
                    error,
                    since = ?downtime.since.elapsed(),
                    "the sink is still unavailable: retrying"
                );
            }
            None => {
                *state = Some(Downtime {
                    since: now,
                    reminded: now,
                });
                tracing::warn!(
                    error,
                    "the sink is unavailable: retrying until it answers, no record is lost"
                );
            }
        }
    }
}

/// Stores a batch and returns once the outcome is known. Waits between two attempts by `pause`. The
/// future may be dropped at any time, since a sink moves data and position together or not at all.
pub async fn commit<S: Sink, P: Future<Output = ()>>(
    sink: &S,
    health: &SinkHealth,
    metrics: &Metrics,
    source: &Source,
    mut sealed: Sealed<S::Batch>,
    from: i64,
    pause: impl Fn(Duration) -> P,
) -> Outcome {
    for dead_letter in &mut sealed.dead_letters {
        dead_letter.acknowledged().await;
    }
    let records = sealed.batch.records();
    let mut backoff = Backoff::default();
    loop {
        let started = Instant::now();
        let part = Part {
            partition: source.partition,
            batch: &sealed.batch,
            from: Position::offset(from),
            to: Position::offset(sealed.to),
        };
        let answers = sink.commit(&source.topic, &[part]).await;
        match answers.map(|answers| answers.into_iter().next()) {
            Ok(Some(Answer::Stored(stored) | Answer::AlreadyStored(stored))) => {
                health.up();
                if records > 0 {
                    metrics.committed(records, started.elapsed());
                }
                tracing::debug!(%source, from, to = sealed.to, records, "committed");
                return Outcome::Committed {
                    to: sealed.to,
                    stored: stored.next_offset(),
                };
            }
            Ok(None | Some(Answer::Moved)) => return Outcome::Moved,
            Ok(Some(Answer::Halt(halt))) | Err(SinkError::Halt(halt)) => {
                return Outcome::Halted(halt);
            }
            Ok(Some(Answer::Refused(refusal))) => {
                health.down(&anyhow::anyhow!("{} ({})", refusal.sentence, refusal.code));
                pause(backoff.next()).await;
            }
            Err(SinkError::Unavailable(error)) => {
                health.down(&error);
                pause(backoff.next()).await;
            }
        }
    }
}
