//! What a request passes before its route: the client's bearer token and its rate limit. Nothing of
//! the body is read before.
//!
//! The health routes are outside the gate: load balancers have no token.

mod metrics;
mod rate;
mod tokens;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use pinpipe_runtime::admin::Readiness;
use tower::ServiceExt as _;

use self::rate::{Client, Rates};
pub use self::{metrics::Metrics, tokens::Tokens};
use crate::{drain, form::Form, problem::Problem};

/// The gate. Clones share one state.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None: requests need no token.
    tokens: Option<RwLock<Tokens>>,
    /// None: there is no limit.
    rates: Option<Mutex<Rates>>,
    metrics: Metrics,
}

impl Gate {
    /// A gate for clients with these `tokens`, or for everybody, that lets pass `limit` requests a
    /// second of each client.
    #[must_use]
    pub fn new(tokens: Option<Tokens>, limit: Option<NonZeroU32>, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            tokens: tokens.map(RwLock::new),
            rates: limit.map(|limit| Mutex::new(Rates::new(limit))),
            metrics,
        }))
    }

    /// Replaces the tokens. Without effect if requests need none.
    pub fn renew(&self, renewed: Tokens) {
        if let Some(current) = &self.0.tokens {
            (self.0.metrics).retain(|client| client == tokens::ANONYMOUS || renewed.names(client));
            *current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
    }

    /// The routes of the records' port: `/healthz` and `/readyz` for everybody, and `records` for
    /// requests that pass, of up to `request_bytes`.
    pub fn router(self, readiness: Readiness, records: Router, request_bytes: usize) -> Router {
        let port = Port {
            gate: self,
            health: health(readiness),
            records,
            request_bytes,
        };
        Router::new().fallback(serve).with_state(Arc::new(port))
    }

    /// The name of the client that sent a request, if it may pass.
    fn admit(
        &self,
        authorization: Option<&HeaderValue>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Arc<str>, (Arc<str>, Problem)> {
        let known = self.client(authorization);
        let client = match &known {
            Ok(Some(name)) => Client::Token(Arc::clone(name)),
            Ok(None) | Err(_) => Client::at(address),
        };
        let name = known.clone().ok().flatten();
        let name = name.unwrap_or_else(|| tokens::ANONYMOUS.into());
        if let Some(rates) = &self.0.rates {
            let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = rates.take(client, now);
            taken.map_err(|wait| (Arc::clone(&name), Problem::OverRate(seconds(wait))))?;
        }
        match known {
            Ok(_) => Ok(name),
            Err(problem) => Err((name, problem)),
        }
    }

    /// The client that sent this token; None if requests need none.
    fn client(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<str>>, Problem> {
        let Some(tokens) = &self.0.tokens else {
            return Ok(None);
        };
        let token = authorization.and_then(tokens::bearer);
        let token = token.ok_or(Problem::NoToken)?;
        let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(tokens.client(token).ok_or(Problem::UnknownToken)?))
    }
}

/// What the records' port serves.
struct Port {
    gate: Gate,
    health: Router,
    records: Router,
    /// Size limit of a request's body, bytes.
    request_bytes: usize,
}

/// One handler rather than layers around routers: each layer copies and boxes what it calls.
async fn serve(State(port): State<Arc<Port>>, request: Request) -> Response {
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return call(&port.health, request).await;
    }
    let pass = async |request| port.pass(request).await;
    drain::refused(request, port.request_bytes, pass).await
}

async fn call(router: &Router, request: Request) -> Response {
    match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

impl Port {
    async fn pass(&self, mut request: Request) -> Response {
        // Nothing behind the gate sees a token.
        let authorization = request.headers_mut().remove(header::AUTHORIZATION);
        let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let admitted = (self.gate).admit(authorization.as_ref(), address, Instant::now());
        let metrics = &self.gate.0.metrics;
        let (client, response) = match admitted {
            Ok(client) => (client, call(&self.records, request).await),
            Err((client, problem)) => {
                let reason = reason(&problem);
                tracing::debug!(%client, %address, reason, "a request is refused");
                metrics.refused(reason);
                let form = Form::of_path(request.uri().path());
                (client, problem.response(form))
            }
        };
        metrics.request(&client, response.status());
        response
    }
}

/// The reason of a refusal, in metrics.
const fn reason(problem: &Problem) -> &'static str {
    match problem {
        Problem::OverRate(_) => "rate-limited",
        _ => "unauthorized",
    }
}

/// Whole seconds to wait, for `Retry-After`.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Routes of a load balancer's health checks. Unlike the admin port's, which few can reach, they
/// say nothing of what is wrong.
fn health(readiness: Readiness) -> Router {
    let ready = async move || match readiness.get() {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

#[cfg(test)]
mod tests {
    use pinpipe_runtime::{admin::Admin, server};
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn readyz_says_nothing_of_what_is_wrong() {
        let readiness = Admin::new().readiness();
        let listener = server::listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = server::serve(
            listener,
            health(readiness.clone()),
            8,
            CancellationToken::new(),
        );
        tokio::spawn(served);
        let ask = async || {
            let response = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await;
            let response = response.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };
        readiness.set(Err("broker.example:9092 isn't there".to_owned()));
        assert_eq!(ask().await, (503, "not ready\n".to_owned()));
        readiness.set(Ok(()));
        readiness.degraded("SecretUnusable", Some("key alice: 5 bytes".to_owned()));
        assert_eq!(ask().await, (200, "ready\n".to_owned()));
    }
}
