//! The routes.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use pinpipe_config::Topics;
use pinpipe_core::{Kind, record_key, single_line};

use crate::{
    answer::{Answer, Outcome, Refusal},
    body,
    budget::{Budget, RECORD_OVERHEAD},
    metrics::Metrics,
    problem::Problem,
    producer::{Batch, Producer},
    split,
};

/// What bounds a request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One record, bytes.
    pub record_bytes: usize,
    /// One request's body, bytes.
    pub request_bytes: usize,
    /// The records of one request.
    pub request_records: usize,
}

/// What every request needs.
pub struct Service {
    /// Where each kind goes.
    pub topics: Topics,
    /// What bounds a request.
    pub limits: Limits,
    /// The memory of all requests together.
    pub budget: Budget,
    /// The way to the broker.
    pub producer: Producer,
    /// Counts.
    pub metrics: Metrics,
}

/// `POST /pin`, `/geo`, `/user`; everything else is answered in JSON too.
pub fn router(service: Service) -> Router {
    let mut router = Router::new();
    for kind in Kind::ALL {
        let take = move |State(service): State<Arc<Service>>, request: Request| async move {
            service.post(kind, request).await
        };
        router = router.route(&format!("/{kind}"), post(take));
    }
    router
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .with_state(Arc::new(service))
}

impl Service {
    async fn post(&self, kind: Kind, request: Request) -> Response {
        let start = Instant::now();
        let _in_flight = InFlight::enter(&self.metrics);
        let response = match self.take(kind, request).await {
            Ok(answer) => {
                self.metrics.count(kind, &answer);
                answer.into_response()
            }
            Err(problem) => problem.into_response(),
        };
        self.metrics
            .request(kind, response.status(), start.elapsed());
        response
    }

    async fn take(&self, kind: Kind, request: Request) -> Result<Answer<'_>, Problem> {
        let form = body::form(request.headers())?;
        let mut share = self.budget.share();
        let body = body::read(request.into_body(), self.limits.request_bytes, &mut share).await?;
        if body.trim_ascii().is_empty() {
            return Err(Problem::Empty);
        }
        let records =
            split::records(&body, form).map_err(|split::BrokenArray| Problem::BrokenArray)?;
        if records.len() > self.limits.request_records {
            return Err(Problem::TooManyRecords {
                count: records.len(),
                limit: self.limits.request_records,
            });
        }
        share
            .take(records.len() * RECORD_OVERHEAD)
            .map_err(|_| Problem::Busy)?;
        let topic = self.topic(kind);
        Ok(Answer {
            topic,
            outcomes: self.store(kind, topic, &records).await,
        })
    }

    /// Sends what can be keyed, and waits for the broker's word.
    async fn store(&self, kind: Kind, topic: &str, records: &[&[u8]]) -> Vec<Outcome> {
        let batch = Batch::new(records.len());
        let refusals: Vec<Option<Outcome>> = records
            .iter()
            .map(
                |record| match record_key(kind, record, self.limits.record_bytes) {
                    Ok(key) => {
                        self.producer
                            .send(&batch, topic, &key, &single_line(record));
                        None
                    }
                    Err(rejection) => Some(Outcome::Refused(Refusal::Record(rejection))),
                },
            )
            .collect();
        let mut deliveries = batch.deliveries().await.into_iter();
        refusals
            .into_iter()
            .filter_map(|refusal| refusal.or_else(|| deliveries.next().map(Outcome::from)))
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

/// Counts a request as in work, also when its client goes away in the middle.
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
