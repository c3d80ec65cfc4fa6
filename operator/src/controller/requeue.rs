//! When a pipeline is reconciled again without an event.

use std::time::Duration;

use kube::runtime::controller::Action;
use rand::Rng as _;

use crate::reconcile::Outcome;

/// Wait of a pipeline that is ready: Secrets aren't watched, and a broker sends no events.
const READY: Duration = Duration::from_secs(30);
/// First and longest wait of a pipeline that isn't ready, or has a batch run under way. It doubles
/// while nothing changes.
const NOT_READY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(1));
/// Shortest average time between reconciles of two such pipelines: where there are many, each
/// waits longer.
const NOT_READY_SPACING: Duration = Duration::from_millis(60);
/// Wait of a pipeline that waits for something that takes seconds.
const WAITING: Duration = Duration::from_secs(2);
/// Wait of a pipeline that is invalid or paused; a change of it is an event.
const UNCHANGED: Duration = Duration::from_mins(5);
/// Shortest average time between reconciles of two ready pipelines: where there are many, each
/// waits longer. A reconcile of a ready pipeline is about five requests: the pipeline, its pods and
/// its Secrets.
const SPACING: Duration = Duration::from_millis(400);
/// First and longest wait after failures.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));

/// When to reconcile a pipeline again, where there are `pipelines` in all. `unchanged` is the
/// number of reconciles that found it as unready as before.
pub(super) fn after(outcome: Outcome, unchanged: u32, pipelines: usize) -> Action {
    let wait = match outcome {
        Outcome::Ready => READY.max(spaced(SPACING, pipelines)),
        Outcome::NotReady | Outcome::RunActive => not_ready(unchanged, pipelines),
        Outcome::Waiting => WAITING,
        Outcome::Invalid | Outcome::Paused => UNCHANGED,
        Outcome::Gone => return Action::await_change(),
    };
    Action::requeue(jittered(wait))
}

/// Wait after so many consecutive failures: exponential, with jitter.
pub(super) fn backoff(failed: u32) -> Duration {
    jittered(exponential(BACKOFF, failed.saturating_sub(1)))
}

fn exponential((first, longest): (Duration, Duration), doubled: u32) -> Duration {
    let factor = 2_u32.saturating_pow(doubled);
    first.saturating_mul(factor).min(longest)
}

fn not_ready(unchanged: u32, pipelines: usize) -> Duration {
    exponential(NOT_READY, unchanged).max(spaced(NOT_READY_SPACING, pipelines))
}

fn spaced(spacing: Duration, pipelines: usize) -> Duration {
    spacing.saturating_mul(u32::try_from(pipelines).unwrap_or(u32::MAX))
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
        assert_eq!(exponential(BACKOFF, 0), BACKOFF.0);
        assert_eq!(exponential(BACKOFF, 1), BACKOFF.0 * 2);
        assert_eq!(exponential(BACKOFF, 2), BACKOFF.0 * 4);
        assert_eq!(exponential(BACKOFF, u32::MAX), BACKOFF.1);
    }

    #[test]
    fn many_pipelines_are_reconciled_less_often() {
        let seconds = |outcome, unchanged, pipelines| {
            let action = format!("{:?}", after(outcome, unchanged, pipelines));
            let number = action
                .split("Some(")
                .nth(1)
                .unwrap()
                .split("s)")
                .next()
                .unwrap();
            number.parse::<f64>().unwrap()
        };
        for (outcome, unchanged, pipelines, least) in [
            (Outcome::Ready, 0, 1, 30.0),
            (Outcome::Ready, 0, 75, 30.0),
            (Outcome::Ready, 0, 1000, 400.0),
            (Outcome::NotReady, 0, 1, 10.0),
            (Outcome::NotReady, 1, 1, 20.0),
            (Outcome::NotReady, 9, 1, 60.0),
            (Outcome::NotReady, 0, 1000, 60.0),
        ] {
            let found = seconds(outcome, unchanged, pipelines);
            assert!(
                (least..least * 1.2 + 0.01).contains(&found),
                "{outcome:?} {found} {least}"
            );
        }
    }

    #[test]
    fn jitter_only_lengthens() {
        for _ in 0..100 {
            let wait = jittered(READY);
            assert!(wait >= READY && wait < READY * 6 / 5 + Duration::from_millis(1));
        }
    }
}
