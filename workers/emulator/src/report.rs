//! Counts of sent records.

use std::{collections::BTreeMap, time::Duration};

use pinpipe_core::Kind;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::Serialize;

/// Labels of record counts.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Counts, which are also the emulator's metrics. Clones share the same values.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    acknowledged: Family<KindLabel, Counter>,
    /// Acknowledged duplicates sent on purpose.
    pub repeated: Counter,
    /// Records refused by ingest.
    pub refused: Counter,
    /// Records not sent because the emulator was stopped.
    pub unsent: Counter,
    /// Repeated requests.
    pub retries: Counter,
}

/// The counts of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Acknowledged records by kind, without duplicates.
    pub acknowledged: BTreeMap<&'static str, u64>,
    /// Acknowledged duplicates sent on purpose.
    pub repeated: u64,
    /// Records refused by ingest.
    pub refused: u64,
    /// Records not sent because the emulator was stopped.
    pub unsent: u64,
    /// Repeated requests.
    pub retries: u64,
    /// Duration of the run, seconds.
    pub seconds: f64,
}

impl Tally {
    /// Registers the counts as metrics.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("emulator");
        registry.register(
            "acknowledged_records",
            "records that ingest acknowledged",
            self.acknowledged.clone(),
        );
        registry.register(
            "repeated_records",
            "records sent again on purpose and acknowledged",
            self.repeated.clone(),
        );
        registry.register(
            "refused_records",
            "records that ingest refused for good",
            self.refused.clone(),
        );
        registry.register(
            "unsent_records",
            "records dropped because the emulator was stopped",
            self.unsent.clone(),
        );
        registry.register("retries", "requests sent again", self.retries.clone());
    }

    /// Acknowledged records of a kind, without duplicates.
    #[must_use]
    pub fn acknowledged(&self, kind: Kind) -> Counter {
        self.acknowledged.get_or_create_owned(&KindLabel {
            kind: kind.as_str(),
        })
    }

    /// The counts so far.
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
    /// Whether all records, `count` of each kind if set, have been acknowledged.
    #[must_use]
    pub fn complete(&self, count: Option<u64>) -> bool {
        self.refused == 0
            && self.unsent == 0
            && count.is_none_or(|count| self.acknowledged.values().all(|sent| *sent == count))
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_servers::documented_metrics;
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn all_metrics_are_documented() {
        let mut registry = Registry::with_prefix("pinpipe");
        let tally = Tally::default();
        tally.register(&mut registry);
        tally.acknowledged(Kind::Pin).inc();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        documented_metrics::check("Emulator", &text).unwrap();
    }

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
            concat!(
                r#"{"acknowledged":{"geo":5,"pin":5,"user":5},"repeated":0,"#,
                r#""refused":0,"unsent":0,"retries":0,"seconds":1.5}"#
            )
        );
    }
}
