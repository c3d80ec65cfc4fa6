//! Metrics of the gate.

use axum::http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Labels of request counts.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    client: String,
    status: &'static str,
}

/// Labels of counts of requests that were refused.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

/// The metrics. Clones share the same values.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            refused: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("ingest");
        registry.register(
            "requests",
            "Requests by client (the token's name) and class of status",
            metrics.requests.clone(),
        );
        registry.register(
            "requests_refused",
            "Requests refused before their body was read, by reason",
            metrics.refused.clone(),
        );
        metrics
    }

    /// Counts a response.
    pub(super) fn request(&self, client: &str, status: StatusCode) {
        let labels = RequestLabels {
            client: client.to_owned(),
            status: match status.as_u16() {
                ..300 => "2xx",
                300..400 => "3xx",
                400..500 => "4xx",
                _ => "5xx",
            },
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a request that the gate refused.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }
}
