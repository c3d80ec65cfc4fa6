//! HTTP routes.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    response::{IntoResponse, Response},
};
use pinpipe_config::Topics;
use pinpipe_core::{Kind, record_key, single_line};
use pinpipe_runtime::server::Client;

use crate::{
    answer::{Answer, Outcome, Refusal},
    body::{self, Received},
    budget::{Budget, RECORD_OVERHEAD, Share},
    metrics::Metrics,
    problem::Problem,
    producer::{Batch, Producer},
    split::{self, Unsplit},
};

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of one record, bytes.
    pub record_bytes: usize,
    /// Size of the body, bytes.
    pub request_bytes: usize,
    /// Number of records.
    pub request_records: usize,
}

/// Shared state of the routes.
pub struct Service {
    /// The topics of the three kinds.
    pub topics: Topics,
    /// Limits of a request.
    pub limits: Limits,
    /// Memory budget of all requests.
    pub budget: Budget,
    /// The Kafka producer.
    pub producer: Producer,
    /// Metrics.
    pub metrics: Metrics,
}

/// Routes `POST /pin`, `/geo` and `/user`, also with doubled slashes and one at the end. Errors of
/// other paths and methods are JSON, too.
pub fn router(service: Service) -> Router {
    Router::new().fallback(route).with_state(Arc::new(service))
}

async fn route(State(service): State<Arc<Service>>, request: Request) -> Response {
    let path = request.uri().path();
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let kind = match (segments.next(), segments.next()) {
        (Some(segment), None) => segment.parse().ok(),
        _ => None,
    };
    match kind {
        None => Problem::NotFound.into_response(),
        Some(_) if request.method() != Method::POST => Problem::MethodNotAllowed.into_response(),
        Some(kind) => service.post(kind, request).await,
    }
}

impl Service {
    async fn post(&self, kind: Kind, request: Request) -> Response {
        let start = Instant::now();
        let _in_flight = InFlight::enter(&self.metrics);
        let response = match self.take(kind, request).await {
            Ok((answer, share)) => {
                self.metrics.count(kind, &answer);
                answer.response(share)
            }
            Err(problem) => problem.into_response(),
        };
        self.metrics
            .request(kind, response.status(), start.elapsed());
        response
    }

    /// The answer to a request, and what it still holds of the budget.
    async fn take(
        &self,
        kind: Kind,
        request: Request,
    ) -> Result<(Answer<'_>, Option<Share>), Problem> {
        body::check_form(request.headers())?;
        let client = request.extensions().get::<Client>().cloned();
        let limit = self.limits.request_bytes;
        let Received { bytes, mut share } =
            body::read(request.into_body(), limit, self.budget.share()).await?;
        let _work = match &client {
            Some(client) => Some(client.work().await),
            None => None,
        };
        if bytes.trim_ascii().is_empty() {
            return Err(Problem::Empty);
        }
        let limit = self.limits.request_records;
        let records = split::records(&bytes, limit).map_err(|unsplit| match unsplit {
            Unsplit::Broken(array) => Problem::BrokenArray(array),
            Unsplit::TooMany => Problem::TooManyRecords { limit },
        })?;
        // The producer's queue holds copies of the records.
        share
            .take(records.len() * RECORD_OVERHEAD + bytes.len())
            .map_err(|_| Problem::Busy)?;
        let topic = self.topic(kind);
        let batch = Batch::new(records.len(), share);
        let refusals = self.send(kind, topic, &records, &batch);
        drop(records);
        let buffer = bytes.capacity();
        drop(bytes);
        batch.give_back(buffer);
        let (deliveries, share) = batch.deliveries().await;
        let mut deliveries = deliveries.into_iter();
        let outcomes = refusals
            .into_iter()
            .filter_map(|refusal| refusal.or_else(|| deliveries.next().map(Outcome::from)))
            .collect();
        Ok((Answer { topic, outcomes }, share))
    }

    /// Sends the records that have a key, as part of `batch`. For each of the others, in the same
    /// place, the outcome.
    fn send(
        &self,
        kind: Kind,
        topic: &str,
        records: &[&[u8]],
        batch: &Batch,
    ) -> Vec<Option<Outcome>> {
        let producer = self.producer.current();
        records
            .iter()
            .map(
                |record| match record_key(kind, record, self.limits.record_bytes) {
                    Ok(key) => {
                        producer.send(batch, topic, &key, &single_line(record));
                        None
                    }
                    Err(rejection) => Some(Outcome::Refused(Refusal::record(rejection, record))),
                },
            )
            .collect()
    }

    fn topic(&self, kind: Kind) -> &str {
        match kind {
            Kind::Pin => &self.topics.pin.name,
            Kind::Geo => &self.topics.geo.name,
            Kind::User => &self.topics.user.name,
        }
    }
}

/// Counts a request in flight until it is dropped, which also covers disconnected clients.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn enter(metrics: &'a Metrics) -> Self {
        metrics.in_flight_requests.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight_requests.dec();
    }
}
