//! The stream worker's metrics.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pinpipe_config::{LAG_NAMESPACE_LABEL, LAG_PIPELINE_LABEL, LAG_SINK_LABEL, Pipeline};
use pinpipe_core::{Cleaned, Kind, Rejection};
use pinpipe_runtime::dead_letter::{self as letter, Redriven, UnusableOrder, Verdict};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
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

/// Labels: the kind of dead letters, and whether the records were `rejected` or `refused`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeadLetterOf {
    kind: &'static str,
    outcome: &'static str,
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
    dead_letters: Family<DeadLetterOf, Counter>,
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
    /// 0 while the sink is not available.
    pub sink_up: Gauge,
    /// 1 while a broker is connected.
    pub broker_up: Gauge,
    /// 0 while the broker takes no dead letters.
    pub dead_letters_up: Gauge,
    last_commit: Gauge,
    halted: Family<Halted, Gauge>,
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
        let dead_letters: Family<DeadLetterOf, Counter> = Family::default();
        for kind in Kind::ALL.map(Kind::as_str) {
            for outcome in [letter::Outcome::Rejected, letter::Outcome::Refused] {
                let outcome = outcome.as_str();
                // From 0 on: an increase from nothing to the first value would not count.
                drop(dead_letters.get_or_create(&DeadLetterOf { kind, outcome }));
            }
        }
        let metrics = Self {
            outcomes,
            repairs: Family::default(),
            rejections: Family::default(),
            unstorable: Family::default(),
            dead_letters,
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
        };
        let m = &metrics;
        // Until they are tried.
        m.sink_up.set(1);
        m.dead_letters_up.set(1);
        registry.register(
            "stream_records",
            "records read: `clean`, `repaired`, `rejected`",
            records,
        );
        registry.register("stream_repairs", "fields made null", m.repairs.clone());
        registry.register(
            "stream_rejections",
            "records rejected",
            m.rejections.clone(),
        );
        registry.register(
            "stream_unstorable_records",
            "clean records that this sink's store refuses",
            m.unstorable.clone(),
        );
        registry.register(
            "stream_dead_letters",
            "dead letters written: of `rejected` records by one sink alone, and of those that \
             the store of a sink `refused`",
            m.dead_letters.clone(),
        );
        registry.register(
            "stream_redriven_records",
            "re-driven records: `used` if their first order counts, `unusable` if it doesn't",
            m.redriven.clone(),
        );
        registry.register(
            "stream_read_errors",
            "errors that the Kafka consumer reports and goes on after",
            m.read_errors.clone(),
        );
        registry.register(
            "stream_committed_records",
            "records stored",
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
                "offsets between the end of the log and what is stored; the sink of the archive is \
                 `archive`",
                m.lag.clone(),
            );
        registry.register_with_unit(
            "stream_commit_duration",
            "duration of a commit to the sink",
            Unit::Seconds,
            m.commit_seconds.clone(),
        );
        registry.register(
            "stream_batch_records",
            "records in a batch",
            m.batch_records.clone(),
        );
        registry.register_with_unit(
            "stream_buffered",
            "memory used by batches, open and being stored",
            Unit::Bytes,
            m.buffered_bytes.clone(),
        );
        registry.register(
            "stream_paused",
            "1 while consumption waits for memory",
            m.paused.clone(),
        );
        registry.register(
            "stream_sink_up",
            "0 while the sink's store does not answer",
            m.sink_up.clone(),
        );
        registry.register(
            "stream_broker_up",
            "1 while a broker is connected",
            m.broker_up.clone(),
        );
        registry.register(
            "stream_dead_letters_up",
            "0 while the broker takes no dead letters: it refuses them, or has acknowledged none \
             of them for five seconds",
            m.dead_letters_up.clone(),
        );
        registry.register_with_unit(
            "stream_last_commit_timestamp",
            "when the sink last stored a batch",
            Unit::Seconds,
            m.last_commit.clone(),
        );
        registry.register(
            "stream_halted",
            "1 while the sink is stopped until somebody does something; absent otherwise",
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

    /// Counts a dead letter.
    pub fn dead_letter(&self, kind: Kind, verdict: &Verdict) {
        let labels = DeadLetterOf {
            kind: kind.as_str(),
            outcome: verdict.outcome.as_str(),
        };
        self.dead_letters.get_or_create(&labels).inc();
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

    /// Sets a partition's consumer lag.
    pub fn lag(&self, topic: &str, partition: i32, records: i64) {
        let partition = Partition {
            topic: topic.to_owned(),
            partition,
        };
        self.lag.get_or_create(&partition).set(records);
    }

    /// Removes the lag of a partition that this worker no longer consumes.
    pub fn remove_partition(&self, topic: &str, partition: i32) {
        let partition = Partition {
            topic: topic.to_owned(),
            partition,
        };
        self.lag.remove(&partition);
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
    use pinpipe_core::clean;
    use pinpipe_servers::documented_metrics;
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn all_metrics_are_documented() {
        let mut registry = Registry::with_prefix("pinpipe");
        let pipeline = Pipeline {
            namespace: "data".into(),
            name: "pinterest".into(),
            uid: "0001".into(),
        };
        let metrics = Metrics::new(&mut registry, &pipeline, "live");
        let repaired = br#"{"index": 1, "unique_id": "a", "follower_count": "many"}"#;
        for record in [repaired.as_slice(), b"no record"] {
            metrics.read(Kind::Pin, &clean(Kind::Pin, record, 1000));
        }
        metrics.unstorable(Kind::Pin);
        metrics.dead_letter(Kind::Pin, &Verdict::from(&Rejection::NotJson));
        metrics.redriven(Kind::Pin, &Err(UnusableOrder::Later));
        metrics.read_error("NotAuthorized");
        metrics.committed(1, Duration::from_secs(1));
        metrics.lag("data.pinterest.pin", 2, 17);
        metrics.halted(Some("TopicReplaced"));

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        documented_metrics::check("Stream workers and archive", &text).unwrap();
    }

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
