//! Outages of a worker's dependencies.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::admin::Readiness;

/// How long a dependency must be unavailable before it is reported, so that blips are not.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Reports a dependency as degraded once it has been unavailable for ten seconds. The message stays
/// that of one failure until the outage ends, so that it doesn't change with every retry. Clones
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
    reported: bool,
}

impl Outage {
    /// No outage yet. `reason` identifies this dependency in `readiness`, such as
    /// `SinkUnavailable`.
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
        if outage.is_some_and(|outage| outage.reported) {
            self.readiness.degraded(self.reason, None);
        }
    }

    /// Records that the dependency is unavailable. Call it on every failure: the outage is reported
    /// by the first call after the grace period.
    pub fn down(&self, why: impl FnOnce() -> String) {
        self.down_at(Instant::now(), why);
    }

    fn down_at(&self, now: Instant, why: impl FnOnce() -> String) {
        let mut state = self.ongoing.lock().unwrap_or_else(PoisonError::into_inner);
        let outage = state.get_or_insert(Ongoing {
            since: now,
            reported: false,
        });
        if !outage.reported && now.duration_since(outage.since) >= GRACE_PERIOD {
            outage.reported = true;
            self.readiness.degraded(self.reason, Some(why()));
        }
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
        let reported = |after: Duration, why: &str| {
            outage.down_at(start + after, || why.to_owned());
            readiness.degradation()
        };
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
        outage.up();
        assert_eq!(readiness.degradation(), None);
        assert_eq!(
            reported(GRACE_PERIOD * 3, "five"),
            None,
            "another outage begins"
        );
    }
}
