//! When a pipeline is reconciled again without an event.

use std::time::Duration;

use kube::runtime::controller::Action;
use rand::Rng as _;

use crate::reconcile::Outcome;

/// Wait of a pipeline that is ready: Secrets aren't watched, and a broker sends no events.
const READY: Duration = Duration::from_secs(30);
/// Wait of a pipeline that isn't ready, or has a batch run under way.
const NOT_READY: Duration = Duration::from_secs(10);
/// Wait of a pipeline that waits for something that takes seconds.
const WAITING: Duration = Duration::from_secs(2);
/// Wait of a pipeline that is invalid or paused; a change of it is an event.
const UNCHANGED: Duration = Duration::from_mins(5);
/// Shortest average time between two ready pipelines: where there are many, each waits longer.
const SPACING: Duration = Duration::from_millis(100);
/// First and longest wait after failures.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));

/// Next reconcile of one of so many pipelines.
pub(super) fn after(outcome: Outcome, pipelines: usize) -> Action {
    let wait = match outcome {
        Outcome::Ready => ready(pipelines),
        Outcome::NotReady | Outcome::RunActive => NOT_READY,
        Outcome::Waiting => WAITING,
        Outcome::Invalid | Outcome::Paused => UNCHANGED,
        Outcome::Gone => return Action::await_change(),
    };
    Action::requeue(jittered(wait))
}

/// Wait after so many consecutive failures: exponential, with jitter.
pub(super) fn backoff(failed: u32) -> Duration {
    jittered(exponential(failed))
}

fn exponential(failed: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failed.saturating_sub(1));
    BACKOFF.0.saturating_mul(factor).min(BACKOFF.1)
}

fn ready(pipelines: usize) -> Duration {
    READY.max(SPACING.saturating_mul(u32::try_from(pipelines).unwrap_or(u32::MAX)))
}

/// Up to a fifth longer, so that pipelines don't fall into step.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(1.0..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_a_bound() {
        assert_eq!(exponential(1), BACKOFF.0);
        assert_eq!(exponential(2), BACKOFF.0 * 2);
        assert_eq!(exponential(3), BACKOFF.0 * 4);
        assert_eq!(exponential(u32::MAX), BACKOFF.1);
    }

    #[test]
    fn many_pipelines_are_reconciled_less_often() {
        assert_eq!(ready(0), READY);
        assert_eq!(ready(300), READY);
        assert_eq!(ready(1000), Duration::from_secs(100));
    }

    #[test]
    fn jitter_only_lengthens() {
        for _ in 0..100 {
            let wait = jittered(READY);
            assert!(wait >= READY && wait < READY * 6 / 5 + Duration::from_millis(1));
        }
    }
}
