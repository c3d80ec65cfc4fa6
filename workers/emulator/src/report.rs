//! What was sent and what became of it.

use std::{collections::BTreeMap, time::Duration};

use pinpipe_core::Kind;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::Serialize;

/// Records of a kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Counts while sending, and the emulator's metrics; clones share the same numbers.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    acknowledged: Family<KindLabel, Counter>,
    /// Records sent once more on purpose and acknowledged.
    pub repeated: Counter,
    /// Records ingest will never take.
    pub refused: Counter,
    /// Records given up because the emulator was stopped.
    pub unsent: Counter,
    /// Requests sent again.
    pub retries: Counter,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records ingest has acknowledged, per kind, without repeats.
    pub acknowledged: BTreeMap<&'static str, u64>,
    /// Records sent once more on purpose and acknowledged.
    pub repeated: u64,
    /// Records ingest will never take.
    pub refused: u64,
    /// Records given up because the emulator was stopped.
    pub unsent: u64,
    /// Requests sent again.
    pub retries: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Tally {
    /// Shows the counts as metrics.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("emulator");
        registry.register(
            "acknowledged",
            "Records ingest has acknowledged",
            self.acknowledged.clone(),
        );
        registry.register(
            "repeated",
            "Records sent once more on purpose and acknowledged",
            self.repeated.clone(),
        );
        registry.register(
            "refused",
            "Records ingest will never take",
            self.refused.clone(),
        );
        registry.register(
            "unsent",
            "Records given up because the emulator was stopped",
            self.unsent.clone(),
        );
        registry.register("retries", "Requests sent again", self.retries.clone());
    }

    /// The records of a kind that ingest has acknowledged, without repeats.
    #[must_use]
    pub fn acknowledged(&self, kind: Kind) -> Counter {
        self.acknowledged.get_or_create_owned(&KindLabel {
            kind: kind.as_str(),
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn report(&self, took: Duration) -> Report {
        Report {
            acknowledged: Kind::ALL
                .map(|kind| (kind.as_str(), self.acknowledged(kind).get()))
                .into(),
            repeated: self.repeated.get(),
            refused: self.refused.get(),
            unsent: self.unsent.get(),
            retries: self.retries.get(),
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }
}

impl Report {
    /// Whether all that was to be sent (`count` of each kind, if set) has been acknowledged.
    #[must_use]
    pub fn complete(&self, count: Option<u64>) -> bool {
        self.refused == 0
            && self.unsent == 0
            && count.is_none_or(|count| self.acknowledged.values().all(|sent| *sent == count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_means_everything_was_acknowledged() {
        let tally = Tally::default();
        for kind in Kind::ALL {
            tally.acknowledged(kind).inc_by(5);
        }
        let report = tally.report(Duration::from_millis(1500));
        assert!(report.complete(None) && report.complete(Some(5)) && !report.complete(Some(6)));
        tally.unsent.inc();
        assert!(!tally.report(Duration::ZERO).complete(Some(5)));
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"acknowledged":{"geo":5,"pin":5,"user":5},"repeated":0,"refused":0,"unsent":0,"retries":0,"seconds":1.5}"#
        );
    }
}
