//! Outages of a worker's dependencies.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::admin::Readiness;

/// The reason of a worker that no broker is connected to.
pub const BROKER_UNAVAILABLE: &str = "BrokerUnavailable";

/// How long a dependency must be unavailable before it is reported, so that blips are not.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Reports a dependency as degraded once it has been unavailable for ten seconds. The message stays
/// that of one failure until the outage ends, or has had another reason for ten seconds, so that it
/// doesn't change with every retry, nor alternate where two calls fail for two reasons. Clones
/// share one state.
#[derive(Clone, Debug)]
pub struct Outage {
    readiness: Readiness,
    reason: &'static str,
    ongoing: Arc<Mutex<Option<Ongoing>>>,
}

#[derive(Clone, Copy, Debug)]
struct Ongoing {
    since: Instant,
    /// The reason it is reported by, and when a call last failed for it.
    reported: Option<(&'static str, Instant)>,
}

impl Outage {
    /// No outage yet. `reason` identifies this dependency in `readiness`, such as
    /// `SinkUnavailable`, unless a failure has a reason of its own.
    #[must_use]
    pub fn new(readiness: Readiness, reason: &'static str) -> Self {
        Self {
            readiness,
            reason,
            ongoing: Arc::default(),
        }
    }

    /// Records that the dependency is available.
    pub fn up(&self) {
        let outage = self
            .ongoing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((reason, _)) = outage.and_then(|outage| outage.reported) {
            self.readiness.degraded(reason, None);
        }
    }

    /// Records that the dependency is unavailable. Call it on every failure: the outage is reported
    /// by the first call after the grace period.
    pub fn down(&self, why: impl FnOnce() -> String) {
        self.down_by(self.reason, why);
    }

    /// As [`down`](Self::down), for a failure that has a reason of its own, such as
    /// `SinkAccessDenied`.
    pub fn down_by(&self, reason: &'static str, why: impl FnOnce() -> String) {
        self.down_at(Instant::now(), reason, why);
    }

    fn down_at(&self, now: Instant, reason: &'static str, why: impl FnOnce() -> String) {
        let mut state = self.ongoing.lock().unwrap_or_else(PoisonError::into_inner);
        let outage = state.get_or_insert(Ongoing {
            since: now,
            reported: None,
        });
        match &mut outage.reported {
            Some((reported, seen)) if *reported == reason => {
                *seen = now;
                return;
            }
            Some((_, seen)) if now.duration_since(*seen) < GRACE_PERIOD => return,
            Some((before, _)) => self.readiness.degraded(before, None),
            None if now.duration_since(outage.since) < GRACE_PERIOD => return,
            None => {}
        }
        outage.reported = Some((reason, now));
        self.readiness.degraded(reason, Some(why()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Admin;

    #[test]
    fn an_outage_is_reported_after_a_grace_period_with_one_message_until_it_ends() {
        let readiness = Admin::new().readiness();
        let outage = Outage::new(readiness.clone(), "SinkUnavailable");
        let start = Instant::now();
        let reported_by = |reason, after: Duration, why: &str| {
            outage.down_at(start + after, reason, || why.to_owned());
            readiness.degradation()
        };
        let reported = |after, why: &str| reported_by("SinkUnavailable", after, why);
        assert_eq!(reported(Duration::ZERO, "one"), None);
        assert_eq!(reported(GRACE_PERIOD / 2, "two"), None);
        assert_eq!(
            reported(GRACE_PERIOD, "three").as_deref(),
            Some("SinkUnavailable: three")
        );
        assert_eq!(
            reported(GRACE_PERIOD * 2, "four").as_deref(),
            Some("SinkUnavailable: three")
        );
        let other = |after| reported_by("DatabaseMissing", after, "no such database");
        assert_eq!(
            other(GRACE_PERIOD * 2).as_deref(),
            Some("SinkUnavailable: three"),
            "calls fail for two reasons"
        );
        assert_eq!(
            other(GRACE_PERIOD * 3).as_deref(),
            Some("DatabaseMissing: no such database"),
            "the first reason is over"
        );
        outage.up();
        assert_eq!(readiness.degradation(), None);
        assert_eq!(
            reported(GRACE_PERIOD * 4, "five"),
            None,
            "another outage begins"
        );
    }
}
