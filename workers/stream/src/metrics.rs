//! What a stream worker tells at `/metrics`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pinpipe_config::{LAG_NAMESPACE_LABEL, LAG_PIPELINE_LABEL, LAG_SINK_LABEL, Pipeline};
use pinpipe_core::{Cleaned, Kind, Rejection};
use pinpipe_runtime::{
    dead_letter::{Redriven, UnusableOrder},
    figures::{Figures, Recent},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// A kind and what became of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    kind: &'static str,
    outcome: &'static str,
}

/// A field that became null, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepairedField {
    kind: &'static str,
    field: &'static str,
    reason: &'static str,
}

/// Why records were rejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rejected {
    kind: &'static str,
    reason: &'static str,
}

/// A kind, and whether a record's first order could be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RedrivenRecord {
    kind: &'static str,
    order: &'static str,
}

/// A kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    kind: &'static str,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct Partition {
    topic: String,
    partition: i32,
}

/// Why the sink is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Halted {
    reason: &'static str,
}

/// The metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    records: Family<Outcome, Counter>,
    repairs: Family<RepairedField, Counter>,
    rejections: Family<Rejected, Counter>,
    unstorable: Family<OfKind, Counter>,
    redriven: Family<RedrivenRecord, Counter>,
    committed_records: Counter,
    lag: Family<Partition, Gauge>,
    commit_seconds: Histogram,
    batch_records: Histogram,
    /// Bytes in batches, open and under way.
    pub buffered_bytes: Gauge,
    /// 1 while consumption is held back because the buffers are full.
    pub paused: Gauge,
    /// 1 while the sink takes commits.
    pub sink_up: Gauge,
    /// 1 while a broker is connected.
    pub broker_up: Gauge,
    last_commit: Gauge,
    halted: Family<Halted, Gauge>,
    /// What the gauges of lag say, and the counts of a while ago: neither can be asked of the
    /// metrics themselves.
    told: Arc<Mutex<(BTreeMap<Partition, i64>, Recent)>>,
}

impl Metrics {
    /// Registers all of them, the lag as that of a pipeline's sink.
    pub fn new(registry: &mut Registry, pipeline: &Pipeline, sink: &str) -> Self {
        let metrics = Self {
            records: Family::default(),
            repairs: Family::default(),
            rejections: Family::default(),
            unstorable: Family::default(),
            redriven: Family::default(),
            committed_records: Counter::default(),
            lag: Family::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            batch_records: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            buffered_bytes: Gauge::default(),
            paused: Gauge::default(),
            sink_up: Gauge::default(),
            broker_up: Gauge::default(),
            last_commit: Gauge::default(),
            halted: Family::default(),
            told: Arc::default(),
        };
        let m = &metrics;
        registry.register(
            "stream_records",
            "Records read, by what became of them: clean, repaired, rejected",
            m.records.clone(),
        );
        registry.register(
            "stream_repairs",
            "Fields made null, by the reason",
            m.repairs.clone(),
        );
        registry.register(
            "stream_rejections",
            "Records rejected, by the reason",
            m.rejections.clone(),
        );
        registry.register(
            "stream_unstorable_records",
            "Clean records this sink can't hold",
            m.unstorable.clone(),
        );
        registry.register(
            "stream_redriven_records",
            "Records re-driven out of the dead letters, by whether their first order could be used: used, unusable",
            m.redriven.clone(),
        );
        registry.register(
            "stream_committed_records",
            "Records stored in the sink",
            m.committed_records.clone(),
        );
        // An autoscaler adds up the partitions of one sink, whatever scraped them.
        let sink = [
            (LAG_NAMESPACE_LABEL, pipeline.namespace.clone()),
            (LAG_PIPELINE_LABEL, pipeline.name.clone()),
            (LAG_SINK_LABEL, sink.to_owned()),
        ];
        let sink = sink.map(|(label, value)| (Cow::Borrowed(label), Cow::Owned(value)));
        registry
            .sub_registry_with_labels(sink.into_iter())
            .register(
                "stream_lag_records",
                "Offsets between the log's end and what is dealt with",
                m.lag.clone(),
            );
        registry.register(
            "stream_commit_seconds",
            "Duration of a sink's commit",
            m.commit_seconds.clone(),
        );
        registry.register(
            "stream_batch_records",
            "Records in a batch",
            m.batch_records.clone(),
        );
        registry.register(
            "stream_buffered_bytes",
            "Bytes in batches, open and under way",
            m.buffered_bytes.clone(),
        );
        registry.register(
            "stream_paused",
            "1 while consumption waits for memory",
            m.paused.clone(),
        );
        registry.register(
            "stream_sink_up",
            "1 while the sink answers",
            m.sink_up.clone(),
        );
        registry.register(
            "stream_broker_up",
            "1 while a broker is connected",
            m.broker_up.clone(),
        );
        registry.register(
            "stream_last_commit_timestamp_seconds",
            "When the sink last took a batch",
            m.last_commit.clone(),
        );
        registry.register(
            "stream_halted",
            "1 while the sink is stopped until somebody resets it, by reason",
            m.halted.clone(),
        );
        for kind in Kind::ALL {
            for outcome in ["clean", "repaired", "rejected"] {
                drop(metrics.records.get_or_create(&Outcome {
                    kind: kind.as_str(),
                    outcome,
                }));
            }
        }
        metrics
    }

    /// Counts a record by what cleaning made of it.
    pub fn read(&self, kind: Kind, cleaned: &Result<Cleaned<'_>, Rejection>) {
        let kind = kind.as_str();
        let outcome = match cleaned {
            Ok(cleaned) if cleaned.repairs.is_empty() => "clean",
            Ok(cleaned) => {
                for repair in cleaned.repairs.iter() {
                    let field = RepairedField {
                        kind,
                        field: repair.field,
                        reason: repair.reason.as_str(),
                    };
                    self.repairs.get_or_create(&field).inc();
                }
                "repaired"
            }
            Err(rejection) => {
                self.rejections
                    .get_or_create(&Rejected {
                        kind,
                        reason: rejection.reason(),
                    })
                    .inc();
                "rejected"
            }
        };
        self.records.get_or_create(&Outcome { kind, outcome }).inc();
    }

    /// Counts a clean record the sink can't hold.
    pub fn unstorable(&self, kind: Kind) {
        self.unstorable
            .get_or_create(&OfKind {
                kind: kind.as_str(),
            })
            .inc();
    }

    /// Counts a record by what its headers say of an earlier order.
    pub fn redriven(&self, kind: Kind, redriven: &Result<Option<Redriven>, UnusableOrder>) {
        let order = match redriven {
            Ok(None) => return,
            Ok(Some(_)) => "used",
            Err(_) => "unusable",
        };
        self.redriven
            .get_or_create(&RedrivenRecord {
                kind: kind.as_str(),
                order,
            })
            .inc();
    }

    /// Counts a batch that is stored.
    pub fn committed(&self, records: usize, took: Duration) {
        self.committed_records.inc_by(records as u64);
        self.commit_seconds.observe(took.as_secs_f64());
        self.batch_records.observe(records as f64);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.last_commit
            .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    /// How far a partition is behind.
    pub fn lag(&self, topic: &str, partition: i32, records: i64) {
        let partition = Partition {
            topic: topic.to_owned(),
            partition,
        };
        self.lag.get_or_create(&partition).set(records);
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .insert(partition, records);
    }

    /// A partition is another worker's now.
    pub fn forget(&self, topic: &str, partition: i32) {
        let partition = Partition {
            topic: topic.to_owned(),
            partition,
        };
        self.lag.remove(&partition);
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .remove(&partition);
    }

    /// What thresholds are held against. To be called now and then, since what was counted is
    /// forgotten after a while.
    pub fn figures(&self) -> Figures {
        let count = |outcome: &'static str| -> u64 {
            let of = |kind: Kind| {
                self.records
                    .get_or_create(&Outcome {
                        kind: kind.as_str(),
                        outcome,
                    })
                    .get()
            };
            Kind::ALL.into_iter().map(of).sum()
        };
        let counted = count("rejected");
        let counted = (counted + count("clean") + count("repaired"), counted);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, rejected) = told.1.count(counted);
        Figures {
            lag: told.0.values().sum(),
            partitions: u32::try_from(told.0.len()).unwrap_or(u32::MAX),
            read,
            rejected,
        }
    }

    /// The sink is stopped for a reason, or (`None`) goes on.
    pub fn halted(&self, reason: Option<&'static str>) {
        self.halted.clear();
        if let Some(reason) = reason {
            self.halted.get_or_create(&Halted { reason }).set(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_config::LAG_METRIC;
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn lag_is_told_as_autoscalers_are_told_to_look_for_it() {
        let mut registry = Registry::with_prefix("pinpipe");
        let pipeline = Pipeline {
            namespace: "data".into(),
            name: "pinterest".into(),
            uid: "0001".into(),
        };
        let metrics = Metrics::new(&mut registry, &pipeline, "live");
        metrics.lag("data.pinterest.pin", 2, 17);
        let told = |registry: &Registry| {
            let mut text = String::new();
            encode(&mut text, registry).unwrap();
            text.lines()
                .filter(|line| line.starts_with(LAG_METRIC))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let line = r#"{namespace="data",pipeline="pinterest",sink="live",topic="data.pinterest.pin",partition="2"} 17"#;
        assert_eq!(told(&registry), [format!("{LAG_METRIC}{line}")]);
        metrics.forget("data.pinterest.pin", 2);
        assert!(told(&registry).is_empty(), "another worker tells it now");
    }
}
