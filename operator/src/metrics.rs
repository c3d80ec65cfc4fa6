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

/// What failed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ErrorLabels {
    /// See [`crate::pass::Error::kind`]; or `broker`, which fails no pass.
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

/// A request to the API server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// `get`, `list`, `watch`, `create`, `apply`, `patch`, `update`, `delete`.
    pub verb: &'static str,
    /// The plural of the kind.
    pub resource: String,
    /// The status of the answer, or `none`.
    pub code: String,
}

/// The operator's metrics. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Family<PassLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    queued: Gauge,
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
            requests: Family::default(),
            duration: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            queued: Gauge::default(),
            running: Gauge::default(),
            leader: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("operator");
        registry.register(
            "reconciles",
            "Passes over a pipeline, by outcome",
            metrics.passes.clone(),
        );
        registry.register("errors", "What failed, by kind", metrics.errors.clone());
        registry.register(
            "writes",
            "Writes to the API server and the broker",
            metrics.writes.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server, by their answer",
            metrics.requests.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long a pass took",
            metrics.duration.clone(),
        );
        registry.register(
            "queue_depth",
            "Pipelines that wait for a pass",
            metrics.queued.clone(),
        );
        registry.register(
            "reconciles_running",
            "Passes under way",
            metrics.running.clone(),
        );
        registry.register(
            "leader",
            "1 where this operator works, 0 where it stands by",
            metrics.leader.clone(),
        );
        metrics
    }

    /// This operator works from now on.
    pub fn leads(&self) {
        self.leader.set(1);
    }

    /// A pipeline waits for a pass, until what this gives is dropped.
    #[must_use]
    pub fn queue(&self) -> Meanwhile {
        Meanwhile::of(&self.queued)
    }

    /// A pass began. It ends when what this gives is dropped.
    #[must_use]
    pub fn pass(&self) -> Meanwhile {
        Meanwhile::of(&self.running)
    }

    /// A pass ended.
    pub fn passed(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&PassLabels { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A pass, or a part of it, failed.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    /// The API server was asked.
    pub fn requested(&self, verb: &'static str, resource: String, code: String) {
        self.requests
            .get_or_create(&RequestLabels {
                verb,
                resource,
                code,
            })
            .inc();
    }

    /// Something was written.
    pub fn wrote(&self, verb: &'static str, resource: &str) {
        self.writes
            .get_or_create(&WriteLabels {
                verb,
                resource: resource.to_owned(),
            })
            .inc();
    }
}

/// One more while this lives.
#[derive(Debug)]
pub struct Meanwhile(Gauge);

impl Meanwhile {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.0.dec();
    }
}
