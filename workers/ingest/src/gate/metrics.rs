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
            "responses by client, which is the key of its token's Secret, or `anonymous` without a \
             known token, and by class of status, such as `4xx`",
            metrics.requests.clone(),
        );
        registry.register(
            "requests_refused",
            "requests refused before their body was read: `unauthorized`, `rate-limited`",
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pinpipe_core::{Kind, Rejection};
    use pinpipe_servers::documented_metrics;
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::{
        answer::{Answer, Outcome, Refusal},
        form::Form,
        producer::Unconfirmed,
    };

    #[test]
    fn all_metrics_of_ingest_are_documented() {
        let mut registry = Registry::with_prefix("pinpipe");
        let records = crate::metrics::Metrics::register(&mut registry);
        let answer = Answer {
            topic: "data.pinterest.pin",
            outcomes: vec![
                Outcome::Accepted {
                    partition: 0,
                    offset: 0,
                },
                Outcome::Refused(Refusal::Record {
                    rejection: Rejection::NotJson,
                    detail: None,
                }),
                Outcome::Unconfirmed(Unconfirmed::Timeout),
            ],
        };
        records.count(Kind::Pin, Form::Records, &answer);
        records.request(
            Kind::Pin,
            Form::Records,
            StatusCode::OK,
            Duration::from_secs(1),
        );
        let requests = Metrics::register(&mut registry);
        requests.request("shop", StatusCode::OK);
        requests.refused("unauthorized");

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        documented_metrics::check("Ingest", &text).unwrap();
    }
}
