//! HTTP routes.

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use pinpipe_core::{Kind, Rejection, record_key, single_line};
use pinpipe_runtime::server::Client;

use crate::{
    answer::{Answer, Outcome, Refusal},
    body::{self, Received},
    budget::{Budget, RECORD_OVERHEAD, Share},
    describe::Descriptions,
    envelope::{self, Entry},
    form::{Form, REST_PROXY_TYPE},
    hint,
    metrics::Metrics,
    names::Names,
    openapi,
    problem::Problem,
    producer::{Batch, Producer},
    route::{self, Call, Route},
    split::{self, Unsplit},
    syntax::{Cursor, START},
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
    /// The topics of the three kinds, and their further names.
    pub names: Names,
    /// Limits of a request.
    pub limits: Limits,
    /// Memory budget of all requests.
    pub budget: Budget,
    /// The Kafka producer.
    pub producer: Producer,
    /// Descriptions of topics and streams.
    pub descriptions: Descriptions,
    /// Metrics.
    pub metrics: Metrics,
}

/// Routes the requests of all forms. Errors of other paths and methods are JSON, too.
pub fn router(service: Service) -> Router {
    Router::new().fallback(route).with_state(Arc::new(service))
}

async fn route(State(service): State<Arc<Service>>, request: Request) -> Response {
    let path = request.uri().path();
    match route::find(request.method(), path, &service.names) {
        Ok(Route::Send(kind, call)) => service.send(kind, call, request).await,
        Ok(Route::Describe(asked)) => {
            let plain = wants_plain_json(request.headers());
            let form = Form::of_path(path);
            let client = request.extensions().get::<Client>().cloned();
            let _work = match &client {
                Some(client) => Some(client.work().await),
                None => None,
            };
            let Service {
                descriptions,
                names,
                producer,
                ..
            } = service.as_ref();
            match descriptions.describe(&asked, names, producer).await {
                Ok(body) if form == Form::RestProxy && !plain => {
                    let content_type = [(header::CONTENT_TYPE, REST_PROXY_TYPE)];
                    (content_type, body.to_string()).into_response()
                }
                Ok(body) => Json(body).into_response(),
                Err(problem) => refuse(&problem, form, plain),
            }
        }
        Ok(Route::OpenApi) => {
            let content_type = [(header::CONTENT_TYPE, "application/json")];
            (content_type, openapi::description(&service.names)).into_response()
        }
        Err(problem) => {
            let plain = wants_plain_json(request.headers());
            refuse(&problem, Form::of_path(path), plain)
        }
    }
}

/// The response to a request that is refused as a whole.
fn refuse(problem: &Problem, form: Form, wants_plain_json: bool) -> Response {
    let mut response = problem.response(form);
    if form == Form::RestProxy && !wants_plain_json {
        let content_type = HeaderValue::from_static(REST_PROXY_TYPE);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    response
}

/// Whether a client of the REST proxy's form asks for `application/json` rather than the proxy's
/// own type.
fn wants_plain_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    let accept = String::from_utf8_lossy(accept.unwrap_or_default());
    accept.contains("application/json") && !accept.contains("application/vnd.kafka")
}

impl Service {
    async fn send(&self, kind: Kind, call: Call, request: Request) -> Response {
        let start = Instant::now();
        let _in_flight = InFlight::enter(&self.metrics);
        let form = call.form();
        let plain = wants_plain_json(request.headers());
        let response = match self.take(kind, call, request).await {
            Ok((answer, share)) => {
                self.metrics.count(kind, form, &answer);
                answer.response(call, plain, share)
            }
            Err(problem) => refuse(&problem, form, plain),
        };
        self.metrics
            .request(kind, form, response.status(), start.elapsed());
        response
    }

    /// The answer to a request, and what it still holds of the budget.
    async fn take(
        &self,
        kind: Kind,
        call: Call,
        request: Request,
    ) -> Result<(Answer<'_>, Option<Share>), Problem> {
        let compression = body::compression(call.form(), request.headers())?;
        let client = request.extensions().get::<Client>().cloned();
        let (limit, share) = (self.limits.request_bytes, self.budget.share());
        let received = body::read(request.into_body(), limit, share).await?;
        let _work = match &client {
            Some(client) => Some(client.work().await),
            None => None,
        };
        let Received { bytes, mut share } = received.decompress(compression, limit)?;
        if split::without_mark(&bytes).trim_ascii().is_empty() {
            return Err(Problem::Empty);
        }
        // For what the parser keeps of nested values, then for the copies of the records in the
        // producer's queue.
        share.take(bytes.len()).map_err(|_| Problem::Busy)?;
        let entries = self.entries(call, &bytes)?;
        share
            .take(entries.len() * RECORD_OVERHEAD)
            .map_err(|_| Problem::Busy)?;
        let batch = Batch::new(entries.len(), share);
        let refusals = self.produce(kind, &bytes, &entries, &batch);
        drop(entries);
        let buffer = bytes.capacity();
        drop(bytes);
        batch.give_back(buffer);
        let (deliveries, share) = batch.deliveries().await;
        let mut deliveries = deliveries.into_iter();
        let outcomes = refusals
            .into_iter()
            .filter_map(|refusal| {
                let refused = refusal.map(Outcome::Refused);
                refused.or_else(|| deliveries.next().map(Outcome::from))
            })
            .collect();
        let topic = self.names.topic(kind);
        Ok((Answer { topic, outcomes }, share))
    }

    /// Finds the records of a body.
    fn entries<'a>(&self, call: Call, body: &'a [u8]) -> Result<Vec<Entry<'a>>, Problem> {
        let limit = self.limits.request_records;
        match call {
            Call::Records => match split::records(body, limit) {
                Ok(records) => Ok(records.into_iter().map(Entry::Record).collect()),
                Err(Unsplit::Broken(array)) => Err(Problem::BrokenArray(array)),
                Err(Unsplit::TooMany) => Err(Problem::TooManyRecords { limit }),
            },
            Call::Topic => envelope::topic(body, limit),
            Call::PutRecord => envelope::put_record(body),
            Call::PutRecords => envelope::put_records(body, limit),
        }
    }

    /// Sends the records that have a key, as part of `batch`. For each of the others, in the same
    /// place, the refusal.
    fn produce(
        &self,
        kind: Kind,
        body: &[u8],
        entries: &[Entry<'_>],
        batch: &Batch,
    ) -> Vec<Option<Refusal>> {
        let producer = self.producer.current();
        let (topic, limit) = (self.names.topic(kind), self.limits.record_bytes);
        let mut cursor = Cursor::new(split::without_mark(body));
        let mut send = |record: &[u8], is_slice: bool| match record_key(kind, record, limit) {
            Ok(key) => {
                producer.send(batch, topic, &key, &single_line(record));
                None
            }
            Err(rejection) => {
                let (what, place) = if is_slice {
                    ("the record", cursor.place(record))
                } else {
                    ("the text in `Data`", START)
                };
                let detail = match rejection {
                    Rejection::TooLarge { .. } if entries.len() > 1 => None,
                    _ => hint::explain(topic, rejection, what, record, place),
                };
                Some(Refusal::Record { rejection, detail })
            }
        };
        entries
            .iter()
            .map(|entry| match entry {
                Entry::Record(record) => send(record, true),
                // More than any escapes account for, so it isn't unwrapped.
                Entry::Text(text) if text.len() > 6 * limit + 2 => {
                    let bytes = text.len();
                    let rejection = Rejection::TooLarge { bytes, limit };
                    let detail = None;
                    Some(Refusal::Record { rejection, detail })
                }
                Entry::Text(text) => match envelope::unwrap(text) {
                    Ok(record) => send(&record, false),
                    Err(reason) => Some(Refusal::NoRecord(reason)),
                },
                Entry::None(reason) => Some(Refusal::NoRecord(*reason)),
            })
            .collect()
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
