//! The stream worker's metrics.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pinpipe_config::{LAG_NAMESPACE_LABEL, LAG_PIPELINE_LABEL, LAG_SINK_LABEL, Pipeline};
use pinpipe_core::{Cleaned, Kind, Rejection};
use pinpipe_runtime::{
    dead_letter::{Redriven, UnusableOrder},
    worker_metrics::{RecentCounts, WorkerMetrics},
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

/// Labels: the record's kind and outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    kind: &'static str,
    outcome: &'static str,
}

/// Labels: a field that was made null, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepairedField {
    kind: &'static str,
    field: &'static str,
    reason: &'static str,
}

/// Labels: the kind of rejected records and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rejected {
    kind: &'static str,
    reason: &'static str,
}

/// Labels: the kind of re-driven records, and whether their original order was `used` or
/// `unusable`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RedrivenRecord {
    kind: &'static str,
    order: &'static str,
}

/// Label: the kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    kind: &'static str,
}

/// Labels: the partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct Partition {
    topic: String,
    partition: i32,
}

/// Label: the reason why the sink is halted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Halted {
    reason: &'static str,
}

/// Label: the broker's error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadError {
    code: String,
}

/// The counters of one kind's records. Every record counts, so none is looked up by its labels.
#[derive(Clone, Debug)]
struct Outcomes {
    clean: Counter,
    repaired: Counter,
    rejected: Counter,
}

/// The metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// In the order of [`Kind::ALL`].
    outcomes: [Outcomes; Kind::ALL.len()],
    repairs: Family<RepairedField, Counter>,
    rejections: Family<Rejected, Counter>,
    unstorable: Family<OfKind, Counter>,
    redriven: Family<RedrivenRecord, Counter>,
    read_errors: Family<ReadError, Counter>,
    committed_records: Counter,
    lag: Family<Partition, Gauge>,
    commit_seconds: Histogram,
    batch_records: Histogram,
    /// Memory used by all batches, bytes.
    pub buffered_bytes: Gauge,
    /// 1 while consumption is paused because the buffers are full.
    pub paused: Gauge,
    /// 1 while the sink is available.
    pub sink_up: Gauge,
    /// 1 while a broker is connected.
    pub broker_up: Gauge,
    /// 0 while the broker takes no dead letters.
    pub dead_letters_up: Gauge,
    last_commit: Gauge,
    halted: Family<Halted, Gauge>,
    thresholds: Arc<Mutex<Thresholds>>,
}

/// The state behind [`Metrics::threshold_values`], which the metrics themselves can't be queried
/// for.
#[derive(Debug, Default)]
struct Thresholds {
    lag: BTreeMap<Partition, i64>,
    recent: RecentCounts,
}

impl Metrics {
    /// Registers all metrics; the lag is labelled with the pipeline and its sink.
    pub fn new(registry: &mut Registry, pipeline: &Pipeline, sink: &str) -> Self {
        let records: Family<Outcome, Counter> = Family::default();
        let outcomes = Kind::ALL.map(|kind| {
            let counter = |outcome| {
                let kind = kind.as_str();
                records.get_or_create_owned(&Outcome { kind, outcome })
            };
            Outcomes {
                clean: counter("clean"),
                repaired: counter("repaired"),
                rejected: counter("rejected"),
            }
        });
        let metrics = Self {
            outcomes,
            repairs: Family::default(),
            rejections: Family::default(),
            unstorable: Family::default(),
            redriven: Family::default(),
            read_errors: Family::default(),
            committed_records: Counter::default(),
            lag: Family::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            batch_records: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            buffered_bytes: Gauge::default(),
            paused: Gauge::default(),
            sink_up: Gauge::default(),
            broker_up: Gauge::default(),
            dead_letters_up: Gauge::default(),
            last_commit: Gauge::default(),
            halted: Family::default(),
            thresholds: Arc::default(),
        };
        let m = &metrics;
        registry.register(
            "stream_records",
            "Records read, by outcome: clean, repaired, rejected",
            records,
        );
        registry.register(
            "stream_repairs",
            "Fields made null, by reason",
            m.repairs.clone(),
        );
        registry.register(
            "stream_rejections",
            "Records rejected, by reason",
            m.rejections.clone(),
        );
        registry.register(
            "stream_unstorable_records",
            "Clean records that this sink's store refuses",
            m.unstorable.clone(),
        );
        registry.register(
            "stream_redriven_records",
            "Records re-driven from the dead letters, by whether their original order was used: \
             used, unusable",
            m.redriven.clone(),
        );
        registry.register(
            "stream_read_errors",
            "Errors that the consumer reports, by the broker's error",
            m.read_errors.clone(),
        );
        registry.register(
            "stream_committed_records",
            "Records stored in the sink",
            m.committed_records.clone(),
        );
        // With these labels an autoscaler can sum the partitions of one sink, whatever labels the
        // scraper adds.
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
                "Offsets between the log's end and the last one stored or rejected",
                m.lag.clone(),
            );
        registry.register(
            "stream_commit_seconds",
            "Duration of a commit to the sink",
            m.commit_seconds.clone(),
        );
        registry.register(
            "stream_batch_records",
            "Records in a batch",
            m.batch_records.clone(),
        );
        registry.register(
            "stream_buffered_bytes",
            "Memory used by all batches",
            m.buffered_bytes.clone(),
        );
        registry.register(
            "stream_paused",
            "1 while consumption is paused because the buffers are full",
            m.paused.clone(),
        );
        registry.register(
            "stream_sink_up",
            "1 while the sink is available",
            m.sink_up.clone(),
        );
        registry.register(
            "stream_broker_up",
            "1 while a broker is connected",
            m.broker_up.clone(),
        );
        registry.register(
            "stream_dead_letters_up",
            "0 while the broker takes no dead letters",
            m.dead_letters_up.clone(),
        );
        registry.register(
            "stream_last_commit_timestamp_seconds",
            "Time of the last commit",
            m.last_commit.clone(),
        );
        registry.register(
            "stream_halted",
            "1 while the sink is halted until a person acts, by reason",
            m.halted.clone(),
        );
        metrics
    }

    /// Counts a record by the outcome of cleaning.
    pub fn read(&self, kind: Kind, cleaned: &Result<Cleaned<'_>, Rejection>) {
        let outcomes = &self.outcomes[kind as usize];
        let kind = kind.as_str();
        let outcome = match cleaned {
            Ok(cleaned) if cleaned.repairs.is_empty() => &outcomes.clean,
            Ok(cleaned) => {
                for repair in cleaned.repairs.iter() {
                    let field = RepairedField {
                        kind,
                        field: repair.field,
                        reason: repair.reason.as_str(),
                    };
                    self.repairs.get_or_create(&field).inc();
                }
                &outcomes.repaired
            }
            Err(rejection) => {
                self.rejections
                    .get_or_create(&Rejected {
                        kind,
                        reason: rejection.reason(),
                    })
                    .inc();
                &outcomes.rejected
            }
        };
        outcome.inc();
    }

    /// Counts a clean record that the sink's store refuses.
    pub fn unstorable(&self, kind: Kind) {
        self.unstorable
            .get_or_create(&OfKind {
                kind: kind.as_str(),
            })
            .inc();
    }

    /// Counts a record that carries an original order.
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

    /// Counts an error that the consumer reports.
    pub fn read_error(&self, code: &str) {
        let code = code.to_owned();
        self.read_errors.get_or_create(&ReadError { code }).inc();
    }

    /// Counts a stored batch.
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

    fn thresholds(&self) -> MutexGuard<'_, Thresholds> {
        self.thresholds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a partition's consumer lag.
    pub fn lag(&self, topic: &str, partition: i32, records: i64) {
        let partition = Partition {
            topic: topic.to_owned(),
            partition,
        };
        self.lag.get_or_create(&partition).set(records);
        self.thresholds().lag.insert(partition, records);
    }

    /// Removes the lag of a partition that this worker no longer consumes.
    pub fn remove_partition(&self, topic: &str, partition: i32) {
        let partition = Partition {
            topic: topic.to_owned(),
            partition,
        };
        self.lag.remove(&partition);
        self.thresholds().lag.remove(&partition);
    }

    /// The values that the pipeline's thresholds are compared with. Call it at intervals: each call
    /// adds the current counts to the window of recent ones.
    #[must_use]
    pub fn threshold_values(&self) -> WorkerMetrics {
        let (mut read, mut rejected) = (0, 0);
        for outcomes in &self.outcomes {
            rejected += outcomes.rejected.get();
            read += outcomes.rejected.get() + outcomes.clean.get() + outcomes.repaired.get();
        }
        let mut thresholds = self.thresholds();
        let (read, rejected) = thresholds.recent.count((read, rejected));
        WorkerMetrics {
            lag: thresholds.lag.values().sum(),
            partitions: u32::try_from(thresholds.lag.len()).unwrap_or(u32::MAX),
            read,
            rejected,
        }
    }

    /// Sets the reason why the sink is halted; `None`: it runs.
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
    fn the_lag_has_the_name_and_labels_autoscalers_query() {
        let mut registry = Registry::with_prefix("pinpipe");
        let pipeline = Pipeline {
            namespace: "data".into(),
            name: "pinterest".into(),
            uid: "0001".into(),
        };
        let metrics = Metrics::new(&mut registry, &pipeline, "live");
        metrics.lag("data.pinterest.pin", 2, 17);
        let lag = |registry: &Registry| {
            let mut text = String::new();
            encode(&mut text, registry).unwrap();
            text.lines()
                .filter(|line| line.starts_with(LAG_METRIC))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let labels = r#"namespace="data",pipeline="pinterest",sink="live""#;
        let partition = r#"topic="data.pinterest.pin",partition="2""#;
        let line = format!("{LAG_METRIC}{{{labels},{partition}}} 17");
        assert_eq!(lag(&registry), [line]);
        metrics.remove_partition("data.pinterest.pin", 2);
        assert!(lag(&registry).is_empty(), "another worker reports it now");
    }
}
