//! The commit of a group of batches: dead letters first, then the sink, retried until the answers
//! are known.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_runtime::outage::Outage;

use crate::{
    backoff::{Backoff, REMINDER},
    clock::Clock,
    dead_letter::Acknowledgement,
    metrics::Metrics,
    session::state::{Group, Member},
    sink::{Answer, Batch, Part, Sink, SinkError, unavailable_reason},
};

/// A batch and the sink's answer.
pub type Answered<B, D> = (Member<B, D>, Answer);

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
    #[must_use]
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

    /// Reports what a call's result tells.
    pub fn observe<T>(&self, answer: &Result<T, SinkError>) {
        match answer {
            Ok(_) | Err(SinkError::Halt(_)) => self.up(),
            Err(SinkError::Unavailable(error)) => self.down(error),
        }
    }

    /// Reports that the sink failed or did not answer.
    pub fn down(&self, error: &anyhow::Error) {
        self.metrics.sink_up.set(0);
        let reason = unavailable_reason(error);
        let error = format!("{error:#}");
        self.outage.down_by(reason, || error.clone());
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

/// Stores a group of batches and returns once the sink has answered for each, with the time it
/// took. The future may be dropped at any time, since a sink moves data and position together or
/// not at all.
pub async fn commit<S: Sink, D: Acknowledgement>(
    sink: &S,
    health: &SinkHealth,
    metrics: &Metrics,
    group: Group<S::Batch, D>,
    clock: &impl Clock,
) -> (Vec<Answered<S::Batch, D>>, Duration) {
    let Group {
        topic, mut members, ..
    } = group;
    for member in &mut members {
        for dead_letter in &mut member.dead_letters {
            dead_letter.acknowledged().await;
        }
    }
    // Of what the sink has stored before, only the dead letters were missing.
    let (members, lettered): (Vec<_>, Vec<_>) = members
        .into_iter()
        .partition(|member| member.from < member.sealed.to);
    let lettered = lettered.into_iter().map(|member| {
        let stored = Answer::Stored(member.from);
        (member, stored)
    });
    if members.is_empty() {
        return (lettered.collect(), Duration::ZERO);
    }
    let mut backoff = Backoff::default();
    loop {
        let started = clock.now();
        let parts: Vec<Part<'_, S::Batch>> = members
            .iter()
            .map(|member| Part {
                partition: member.partition(),
                batch: &member.sealed.batch,
                from: member.from,
                to: member.sealed.to,
            })
            .collect();
        let answers = match sink.commit(&topic, &parts).await {
            Ok(answers) => answers,
            Err(SinkError::Halt(halt)) => vec![Answer::Halt(halt); parts.len()],
            Err(SinkError::Unavailable(error)) => {
                health.down(&error);
                clock.sleep(backoff.wait()).await;
                continue;
            }
        };
        health.up();
        let took = clock.now().duration_since(started);
        let stored = |(part, answer): (&Part<'_, S::Batch>, &Answer)| {
            matches!(answer, Answer::Stored(_) | Answer::AlreadyStored(_))
                .then(|| part.batch.records())
        };
        let records: usize = parts.iter().zip(&answers).filter_map(stored).sum();
        if records > 0 {
            metrics.committed(records, took);
        }
        tracing::debug!(
            topic = topic.name,
            batches = parts.len(),
            records,
            "committed"
        );
        return (
            members.into_iter().zip(answers).chain(lettered).collect(),
            took,
        );
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use pinpipe_runtime::admin::Admin;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::sink::Halt;

    #[test]
    fn a_sink_that_answers_with_a_halt_is_available() {
        let pipeline = pinpipe_config::Pipeline {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
        };
        let metrics = Metrics::new(&mut Registry::default(), &pipeline, "live");
        let outage = Outage::new(Admin::new().readiness(), "SinkUnavailable");
        let health = SinkHealth::new(metrics.clone(), outage);
        health.observe::<()>(&Err(anyhow!("down").into()));
        assert_eq!(metrics.sink_up.get(), 0);
        health.observe::<()>(&Err(Halt::PositionUnreadable("why".into()).into()));
        assert_eq!(metrics.sink_up.get(), 1);
    }
}
