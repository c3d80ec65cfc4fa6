//! One batch's way into the sink: letters first, then the commit, tried until it is decided.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use pinpipe_runtime::outage::Outage;

use crate::{
    backoff::Backoff,
    lane::Sealed,
    metrics::Metrics,
    sink::{Batch, Halt, Sink, SinkError, Source},
};

/// How often what stays wrong is written of in the log.
pub const REMINDER: Duration = Duration::from_secs(30);

/// How a commit ended.
#[derive(Debug)]
pub enum Outcome {
    /// Stored; the sink's position is `stored` now.
    Committed {
        /// The end of the batch.
        to: i64,
        /// The sink's position.
        stored: i64,
    },
    /// Another worker was there first.
    Moved,
    /// The sink must stop.
    Halted(Halt),
}

/// Whether the sink answers: metric, log and readiness for all who talk to it.
#[derive(Debug)]
pub struct SinkHealth {
    metrics: Metrics,
    outage: Outage,
    away: Mutex<Option<Away>>,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    since: Instant,
    reminded: Instant,
}

impl SinkHealth {
    /// Not known yet.
    pub const fn new(metrics: Metrics, outage: Outage) -> Self {
        Self {
            metrics,
            outage,
            away: Mutex::new(None),
        }
    }

    /// It answered.
    pub fn up(&self) {
        self.metrics.sink_up.set(1);
        self.outage.up();
        if let Some(away) = self
            .away
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
        {
            tracing::info!(away_for = ?away.since.elapsed(), "the sink is back");
        }
    }

    /// It did not, or refused.
    pub fn down(&self, error: &anyhow::Error) {
        self.metrics.sink_up.set(0);
        self.outage.down(|| format!("{error:#}"));
        let now = Instant::now();
        let mut state = self
            .away
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.as_mut() {
            Some(away) if now.duration_since(away.reminded) < REMINDER => {
                tracing::debug!(error = format!("{error:#}"), "the sink is away");
            }
            Some(away) => {
                away.reminded = now;
                tracing::warn!(error = format!("{error:#}"), away_for = ?away.since.elapsed(), "the sink is still away: trying on");
            }
            None => {
                *state = Some(Away {
                    since: now,
                    reminded: now,
                });
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the sink is away: trying again until it is back, nothing is lost meanwhile"
                );
            }
        }
    }
}

/// Stores a batch. Ends when it is decided; may be dropped at any time, since positions and data
/// move together or not at all. Between two tries it waits by `pause`.
pub async fn commit<S: Sink, P: Future<Output = ()>>(
    sink: &S,
    health: &SinkHealth,
    metrics: &Metrics,
    source: &Source,
    mut sealed: Sealed<S::Batch>,
    from: i64,
    pause: impl Fn(Duration) -> P,
) -> Outcome {
    for letter in &mut sealed.letters {
        letter.acknowledged().await;
    }
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        match sink.commit(source, &sealed.batch, from, sealed.to).await {
            Ok(stored) => {
                health.up();
                if sealed.batch.records() > 0 {
                    metrics.committed(sealed.batch.records(), begun.elapsed());
                }
                tracing::debug!(%source, from, to = sealed.to, records = sealed.batch.records(), "committed");
                return Outcome::Committed {
                    to: sealed.to,
                    stored,
                };
            }
            Err(SinkError::Moved) => return Outcome::Moved,
            Err(SinkError::Halt(halt)) => return Outcome::Halted(halt),
            Err(SinkError::Away(error)) => {
                health.down(&error);
                pause(backoff.next()).await;
            }
        }
    }
}
