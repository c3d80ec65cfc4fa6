//! Something a worker needs and waits for while it is away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::admin::Readiness;

/// How long it is away before that is told: blips are nobody's business.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is away, once it has been for a while, in the words of one failure until it is back: so
/// what is told doesn't change from try to try. Clones share one state.
#[derive(Clone, Debug)]
pub struct Outage {
    readiness: Readiness,
    reason: &'static str,
    away: Arc<Mutex<Option<Away>>>,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    since: Instant,
    told: bool,
}

impl Outage {
    /// Not away. `reason` names the outage where `readiness` tells of it, such as
    /// `SinkUnavailable`.
    #[must_use]
    pub fn new(readiness: Readiness, reason: &'static str) -> Self {
        Self {
            readiness,
            reason,
            away: Arc::default(),
        }
    }

    /// It answered.
    pub fn up(&self) {
        let away = self
            .away
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if away.is_some_and(|away| away.told) {
            self.readiness.degraded(self.reason, None);
        }
    }

    /// It did not. To be called again and again while it doesn't.
    pub fn down(&self, why: impl FnOnce() -> String) {
        self.down_at(Instant::now(), why);
    }

    fn down_at(&self, now: Instant, why: impl FnOnce() -> String) {
        let mut state = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let away = state.get_or_insert(Away {
            since: now,
            told: false,
        });
        if !away.told && now.duration_since(away.since) >= PATIENCE {
            away.told = true;
            self.readiness.degraded(self.reason, Some(why()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Admin;

    #[test]
    fn an_outage_is_told_after_a_while_in_one_sentence_until_it_ends() {
        let readiness = Admin::new().readiness();
        let outage = Outage::new(readiness.clone(), "SinkUnavailable");
        let begun = Instant::now();
        let told = |after: Duration, why: &str| {
            outage.down_at(begun + after, || why.to_owned());
            readiness.degradation()
        };
        assert_eq!(told(Duration::ZERO, "one"), None);
        assert_eq!(told(PATIENCE / 2, "two"), None);
        assert_eq!(
            told(PATIENCE, "three").as_deref(),
            Some("SinkUnavailable: three")
        );
        assert_eq!(
            told(PATIENCE * 2, "four").as_deref(),
            Some("SinkUnavailable: three")
        );
        outage.up();
        assert_eq!(readiness.degradation(), None);
        assert_eq!(told(PATIENCE * 3, "five"), None, "another outage begins");
    }
}
