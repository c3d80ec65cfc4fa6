//! What `/metrics` tells of this service.

use std::time::Duration;

use axum::http::StatusCode;
use pinpipe_core::Kind;
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

use crate::answer::{Answer, Outcome};

/// Records of a kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Records of a kind and why they were not stored.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    kind: &'static str,
    reason: &'static str,
}

/// Requests of a kind by their status.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    status: u16,
}

/// The service's metrics; clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    accepted: Family<KindLabel, Counter>,
    refused: Family<ReasonLabels, Counter>,
    delivery_errors: Family<ReasonLabels, Counter>,
    seconds: Family<RequestLabels, Histogram, fn() -> Histogram>,
    /// Bytes of requests in work.
    pub in_flight_bytes: Gauge,
    /// Requests in work.
    pub in_flight_requests: Gauge,
    /// 1 while a broker is connected.
    pub broker_up: Gauge,
}

impl Metrics {
    /// Registers all of them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            accepted: Family::default(),
            refused: Family::default(),
            delivery_errors: Family::default(),
            // 1 ms … 16 s
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 15))
            }),
            in_flight_bytes: Gauge::default(),
            in_flight_requests: Gauge::default(),
            broker_up: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("ingest");
        registry.register(
            "records_accepted",
            "Records the broker has confirmed",
            metrics.accepted.clone(),
        );
        registry.register(
            "records_refused",
            "Records refused, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "delivery_errors",
            "Records the broker did not confirm and clients were told to send again",
            metrics.delivery_errors.clone(),
        );
        registry.register(
            "request_seconds",
            "Time from a request's headers to its answer",
            metrics.seconds.clone(),
        );
        registry.register(
            "in_flight_bytes",
            "Bytes of memory that requests in work hold",
            metrics.in_flight_bytes.clone(),
        );
        registry.register(
            "in_flight_requests",
            "Requests in work",
            metrics.in_flight_requests.clone(),
        );
        registry.register(
            "broker_up",
            "1 while a broker is connected",
            metrics.broker_up.clone(),
        );
        metrics
    }

    /// Counts an answer's records.
    pub fn count(&self, kind: Kind, answer: &Answer<'_>) {
        let kind = kind.as_str();
        let mut accepted = 0;
        for outcome in &answer.outcomes {
            match outcome {
                Outcome::Accepted { .. } => accepted += 1,
                Outcome::Refused(refusal) => {
                    self.refused
                        .get_or_create(&ReasonLabels {
                            kind,
                            reason: refusal.name(),
                        })
                        .inc();
                }
                Outcome::Unconfirmed(reason) => {
                    self.delivery_errors
                        .get_or_create(&ReasonLabels {
                            kind,
                            reason: reason.name(),
                        })
                        .inc();
                }
            }
        }
        self.accepted
            .get_or_create(&KindLabel { kind })
            .inc_by(accepted);
    }

    /// Notes a request's status and how long it took.
    pub fn request(&self, kind: Kind, status: StatusCode, took: Duration) {
        let labels = RequestLabels {
            kind: kind.as_str(),
            status: status.as_u16(),
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }
}
