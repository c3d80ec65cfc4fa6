//! Errors of the reader that it goes on after.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use pinpipe_runtime::{
    admin::Readiness,
    outage::{BROKER_UNAVAILABLE, Outage},
};

use crate::{
    backoff::REMINDER,
    log::{NOT_AUTHORIZED, RIGHTS},
    metrics::Metrics,
};

/// How long a permission is missing before the session is restarted: librdkafka reports it once.
const RESTART_AFTER: Duration = Duration::from_mins(5);

/// What the reader has reported, as log line, metric and, where only a person can change it, in the
/// worker's health.
#[derive(Debug)]
pub struct Problems {
    metrics: Metrics,
    readiness: Readiness,
    brokers: Outage,
    logged: HashMap<String, Instant>,
    forbidden_since: Option<Instant>,
}

impl Problems {
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        let brokers = Outage::new(readiness.clone(), BROKER_UNAVAILABLE);
        Self {
            metrics,
            readiness,
            brokers,
            logged: HashMap::new(),
            forbidden_since: None,
        }
    }

    /// Reports an error by its code. `forbidden`: a permission is missing.
    pub fn report(&mut self, code: &str, sentence: &str, forbidden: bool) {
        self.metrics.read_error(code);
        let now = Instant::now();
        if forbidden {
            self.forbidden_since.get_or_insert(now);
            let message = format!("{sentence}: {RIGHTS}");
            self.readiness.degraded(NOT_AUTHORIZED, Some(message));
        }
        let logged = self.logged.get(code);
        if logged.is_some_and(|at| now.duration_since(*at) < REMINDER) {
            return;
        }
        self.logged.insert(code.to_owned(), now);
        tracing::warn!(
            code,
            error = sentence,
            "reading from the broker fails: retrying"
        );
    }

    /// Notes whether a broker is connected; `unreachable` says that none is, and why.
    pub fn connected(&self, unreachable: Option<String>) {
        if let Some(unreachable) = unreachable {
            self.brokers.down(|| unreachable);
        } else {
            self.brokers.up();
            // An earlier session may have reported it.
            self.readiness.degraded(BROKER_UNAVAILABLE, None);
        }
    }

    /// The session reads: what an earlier one reported is over, unless this one has met it, too.
    pub fn running(&self) {
        if self.forbidden_since.is_none() {
            self.readiness.degraded(NOT_AUTHORIZED, None);
        }
    }

    /// Whether to restart the session to see if the missing permission is granted.
    pub fn is_due(&self) -> bool {
        self.forbidden_since
            .is_some_and(|since| since.elapsed() > RESTART_AFTER)
    }
}
