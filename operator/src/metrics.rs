//! What the operator counts.

use std::time::Duration;

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

/// A pass, by how it ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PassLabels {
    /// `ready`, `not_ready`, `invalid`, `paused`, `gone` or `error`.
    pub outcome: &'static str,
}

/// A failed pass, by what failed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ErrorLabels {
    /// See [`crate::pass::Error::kind`].
    pub kind: &'static str,
}

/// A write to the API server or the broker.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WriteLabels {
    /// `apply`, `patch`, `delete`, `create`, or `raise` for a topic's partitions.
    pub verb: &'static str,
    /// The plural of the kind (`deployments`), or `topics`.
    pub resource: String,
}

/// The operator's metrics. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Family<PassLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    duration: Histogram,
    running: Gauge,
    leader: Gauge,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Family::default(),
            errors: Family::default(),
            writes: Family::default(),
            duration: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            running: Gauge::default(),
            leader: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("operator");
        registry.register("reconciles", "Passes over a pipeline, by outcome", metrics.passes.clone());
        registry.register("errors", "Failed passes, by what failed", metrics.errors.clone());
        registry.register("writes", "Writes to the API server and the broker", metrics.writes.clone());
        registry.register("reconcile_duration_seconds", "How long a pass took", metrics.duration.clone());
        registry.register("reconciles_running", "Passes under way", metrics.running.clone());
        registry.register("leader", "1 where this operator works, 0 where it stands by", metrics.leader.clone());
        metrics
    }

    /// This operator works from now on.
    pub fn leads(&self) {
        self.leader.set(1);
    }

    /// A pass began. It ends when what this gives is dropped.
    #[must_use]
    pub fn pass(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// A pass ended.
    pub fn passed(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&PassLabels { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A pass failed.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    /// Something was written.
    pub fn wrote(&self, verb: &'static str, resource: &str) {
        self.writes.get_or_create(&WriteLabels { verb, resource: resource.to_owned() }).inc();
    }
}

/// A pass under way.
#[derive(Debug)]
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
