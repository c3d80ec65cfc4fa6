//! Metrics of the gate.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Clients that are told apart. There may be thousands, and each series takes memory of Prometheus.
const MAX_CLIENTS: usize = 100;
/// The client of the requests of all others.
const OTHER: &str = "other";
/// The values of the label `status`.
const STATUSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

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
    /// Clients with labels of their own.
    clients: Arc<Mutex<BTreeSet<String>>>,
    refused: Family<RefusalLabels, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            clients: Arc::default(),
            refused: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("ingest");
        registry.register(
            "requests",
            "responses by client, which is the key of its token's Secret, `anonymous` without a \
             known token, or `other` for all but a hundred, and by class of status, such as `4xx`",
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
        let [ok, redirected, refused, failed] = STATUSES;
        let mut labels = RequestLabels {
            client: client.to_owned(),
            status: match status.as_u16() {
                ..300 => ok,
                300..400 => redirected,
                400..500 => refused,
                _ => failed,
            },
        };
        if let Some(known) = self.requests.get(&labels) {
            known.inc();
            return;
        }
        let mut clients = self.clients();
        if !clients.contains(client) {
            if clients.len() < MAX_CLIENTS {
                clients.insert(client.to_owned());
            } else {
                OTHER.clone_into(&mut labels.client);
            }
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// Drops the counts of clients that `is_client` no longer knows.
    pub(super) fn retain(&self, is_client: impl Fn(&str) -> bool) {
        self.clients().retain(|client| {
            let stays = is_client(client);
            if !stays {
                for status in STATUSES {
                    let client = client.clone();
                    self.requests.remove(&RequestLabels { client, status });
                }
            }
            stays
        });
    }

    fn clients(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_hundred_clients_are_told_apart_and_those_without_a_token_are_dropped() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let counts = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let samples = text.lines().filter(|line| line.contains("client="));
            samples.map(str::to_owned).collect::<Vec<_>>()
        };
        for number in 0..MAX_CLIENTS + 5 {
            metrics.request(&format!("client{number}"), StatusCode::OK);
        }
        let of = |client: &str, status: &str, count: u64| {
            let labels = format!("client=\"{client}\",status=\"{status}\"");
            format!("ingest_requests_total{{{labels}}} {count}")
        };
        assert_eq!(counts().len(), MAX_CLIENTS + 1);
        assert!(counts().contains(&of(OTHER, "2xx", 5)));
        metrics.request("client0", StatusCode::NOT_FOUND);
        assert!(counts().contains(&of("client0", "4xx", 1)));

        metrics.retain(|client| client == "client0");
        metrics.request("client104", StatusCode::OK);
        let mut left = counts();
        left.sort_unstable();
        let expected = [
            of("client0", "2xx", 1),
            of("client0", "4xx", 1),
            of("client104", "2xx", 1),
            of(OTHER, "2xx", 5),
        ];
        assert_eq!(left, expected);
    }

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
