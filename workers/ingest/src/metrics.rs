//! Metrics of ingest.

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
    registry::{Registry, Unit},
};

use crate::{
    answer::{Answer, Outcome},
    form::Form,
};

/// Labels of record counts.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
    form: &'static str,
}

/// Labels of counts of records that were not stored.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    kind: &'static str,
    form: &'static str,
    reason: &'static str,
}

/// Labels of request durations.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    form: &'static str,
    status: u16,
}

/// The metrics. Clones share the same values.
#[derive(Clone, Debug)]
pub struct Metrics {
    accepted: Family<KindLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    delivery_errors: Family<ReasonLabels, Counter>,
    seconds: Family<RequestLabels, Histogram, fn() -> Histogram>,
    /// Memory held by requests in flight, bytes.
    pub in_flight_bytes: Gauge,
    /// Requests in flight.
    pub in_flight_requests: Gauge,
    /// 1 while a broker is connected, else 0.
    pub broker_up: Gauge,
}

impl Metrics {
    /// Registers the metrics.
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
            "records that the broker has confirmed",
            metrics.accepted.clone(),
        );
        registry.register(
            "records_refused",
            "records refused for good",
            metrics.refused.clone(),
        );
        registry.register(
            "delivery_errors",
            "records that the broker did not confirm; clients were told to send them again",
            metrics.delivery_errors.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "time from a request's headers to its response, by the response's status",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register_with_unit(
            "in_flight",
            "memory held by requests",
            Unit::Bytes,
            metrics.in_flight_bytes.clone(),
        );
        registry.register(
            "in_flight_requests",
            "requests being served",
            metrics.in_flight_requests.clone(),
        );
        registry.register(
            "broker_up",
            "1 while a broker is connected",
            metrics.broker_up.clone(),
        );
        metrics
    }

    /// Counts a response's records.
    pub fn count(&self, kind: Kind, form: Form, answer: &Answer<'_>) {
        let (kind, form) = (kind.as_str(), form.as_str());
        let mut accepted = 0;
        for outcome in &answer.outcomes {
            match outcome {
                Outcome::Accepted { .. } => accepted += 1,
                Outcome::Refused(refusal) => {
                    self.refused
                        .get_or_create(&ReasonLabels {
                            kind,
                            form,
                            reason: refusal.name(),
                        })
                        .inc();
                }
                Outcome::Unconfirmed(reason) => {
                    self.delivery_errors
                        .get_or_create(&ReasonLabels {
                            kind,
                            form,
                            reason: reason.name(),
                        })
                        .inc();
                }
            }
        }
        self.accepted
            .get_or_create(&KindLabels { kind, form })
            .inc_by(accepted);
    }

    /// Observes a request's status and duration.
    pub fn request(&self, kind: Kind, form: Form, status: StatusCode, took: Duration) {
        let labels = RequestLabels {
            kind: kind.as_str(),
            form: form.as_str(),
            status: status.as_u16(),
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }
}
