//! Metrics of the operator.

use std::time::Duration;

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

/// Labels of a reconcile.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// `ready`, `not_ready`, `invalid`, `paused`, `gone` or `error`.
    pub outcome: &'static str,
}

/// Labels of an error.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ErrorLabels {
    /// See [`crate::error::Error::kind`]; or `broker`, which fails no reconcile.
    pub kind: &'static str,
}

/// Labels of a write to the API server or the broker.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WriteLabels {
    /// `apply`, `patch`, `delete`, `create`, or `raise` for a topic's partitions.
    pub verb: &'static str,
    /// The plural of the kind (`deployments`), or `topics`.
    pub resource: String,
}

/// Labels of a request to the API server.
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
    reconciles: Family<ReconcileLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    queue_depth: Gauge,
    reconciles_running: Gauge,
    leader: Gauge,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            errors: Family::default(),
            writes: Family::default(),
            requests: Family::default(),
            duration: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            queue_depth: Gauge::default(),
            reconciles_running: Gauge::default(),
            leader: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("operator");
        registry.register(
            "reconciles",
            "reconciles: `ready`, `not_ready`, `invalid`, `paused`, `gone`, `error`",
            metrics.reconciles.clone(),
        );
        registry.register(
            "errors",
            "failed reconciles, by kind; of kind `broker`, which the reconcile goes on after, \
             brokers that don't answer or refuse",
            metrics.errors.clone(),
        );
        registry.register(
            "writes",
            "writes to the API server, and to the broker: `create`, `raise` and `delete` of \
             `topics`",
            metrics.writes.clone(),
        );
        registry.register(
            "api_requests",
            "requests to the API server, watches included; `code` is `none` without a response, \
             and a request that was retried counts once",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "duration of a reconcile",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "queue_depth",
            "pipelines waiting for a reconcile",
            metrics.queue_depth.clone(),
        );
        registry.register(
            "reconciles_running",
            "reconciles under way: up to `operator.concurrency`, and those that have waited for a \
             broker for more than 2 s",
            metrics.reconciles_running.clone(),
        );
        registry.register(
            "leader",
            "1 where this operator works, 0 on a standby",
            metrics.leader.clone(),
        );
        metrics
    }

    /// This replica holds the Lease from now on.
    pub fn leads(&self) {
        self.leader.set(1);
    }

    /// Counts a pipeline that waits for a permit, until the guard is dropped.
    #[must_use]
    pub fn queued(&self) -> GaugeGuard {
        GaugeGuard::of(&self.queue_depth)
    }

    /// Counts a running reconcile, until the guard is dropped.
    #[must_use]
    pub fn running(&self) -> GaugeGuard {
        GaugeGuard::of(&self.reconciles_running)
    }

    /// Counts a reconcile that ended.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles
            .get_or_create(&ReconcileLabels { outcome })
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts an error.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    /// Counts a request to the API server.
    pub fn requested(&self, verb: &'static str, resource: String, code: String) {
        self.requests
            .get_or_create(&RequestLabels {
                verb,
                resource,
                code,
            })
            .inc();
    }

    /// Counts a write.
    pub fn wrote(&self, verb: &'static str, resource: &str) {
        self.writes
            .get_or_create(&WriteLabels {
                verb,
                resource: resource.to_owned(),
            })
            .inc();
    }
}

/// Adds one to a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
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
        let metrics = Metrics::register(&mut registry);
        metrics.reconciled("ready", Duration::from_secs(1));
        metrics.failed("api");
        metrics.requested("get", "pods".to_owned(), "200".to_owned());
        metrics.wrote("apply", "deployments");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        documented_metrics::check("Operator", &text).unwrap();
    }
}
