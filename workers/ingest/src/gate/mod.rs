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
    Json, Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use pinpipe_runtime::admin::{self, Readiness};
use serde_json::json;

use self::rate::{Client, Rates};
pub use self::{metrics::Metrics, tokens::Tokens};

/// The client of a request without a known token, in metrics.
const ANONYMOUS: &str = "anonymous";

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

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the request has no bearer token: send the header Authorization: Bearer <token>")]
    NoToken,
    #[error("the bearer token is unknown: check that it is one of this service's, and not renewed")]
    UnknownToken,
    #[error(
        "the client sends more requests a second than are allowed: send the same request again \
         after {} s, or more records in a request",
        seconds(*.0)
    )]
    OverRate(Duration),
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
    pub fn renew(&self, tokens: Tokens) {
        if let Some(current) = &self.0.tokens {
            *current.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        }
    }

    /// The routes of the records' port: `/healthz` and `/readyz` for everybody, and `records` for
    /// requests that pass.
    pub fn router(self, readiness: Readiness, records: Router) -> Router {
        let records = records.layer(middleware::from_fn_with_state(self, pass));
        admin::health(readiness).fallback_service(records)
    }

    /// The name of the client that sent a request, if it may pass.
    fn admit(
        &self,
        authorization: Option<&HeaderValue>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Arc<str>, (Arc<str>, Refusal)> {
        let known = self.client(authorization);
        let client = match &known {
            Ok(Some(name)) => Client::Token(Arc::clone(name)),
            Ok(None) | Err(_) => Client::at(address),
        };
        let name = known.clone().ok().flatten();
        let name = name.unwrap_or_else(|| ANONYMOUS.into());
        if let Some(rates) = &self.0.rates {
            let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = rates.take(client, now);
            taken.map_err(|wait| (Arc::clone(&name), Refusal::OverRate(wait)))?;
        }
        match known {
            Ok(_) => Ok(name),
            Err(refusal) => Err((name, refusal)),
        }
    }

    /// The client that sent this token; None if requests need none.
    fn client(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<str>>, Refusal> {
        let Some(tokens) = &self.0.tokens else {
            return Ok(None);
        };
        let authorization = authorization.ok_or(Refusal::NoToken)?;
        let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner);
        let client = tokens.client(authorization);
        Ok(Some(client.ok_or(Refusal::UnknownToken)?))
    }
}

async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    // Nothing behind the gate sees a token.
    let authorization = request.headers_mut().remove(header::AUTHORIZATION);
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let admitted = gate.admit(authorization.as_ref(), address, Instant::now());
    let metrics = &gate.0.metrics;
    let (client, response) = match admitted {
        Ok(client) => (client, next.run(request).await),
        Err((client, refusal)) => {
            tracing::debug!(%client, %address, reason = refusal.name(), "a request is refused");
            metrics.refused(refusal.name());
            (client, refusal.into_response())
        }
    };
    metrics.request(&client, response.status());
    response
}

impl Refusal {
    /// The error code in the response and in metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::NoToken | Self::UnknownToken => "unauthorized",
            Self::OverRate(_) => "rate-limited",
        }
    }
}

/// Whole seconds to wait, for `Retry-After`.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": self.name(), "message": self.to_string()}));
        match self {
            Self::NoToken => {
                let asked = [(header::WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, asked, body).into_response()
            }
            Self::UnknownToken => {
                let asked = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
                (StatusCode::UNAUTHORIZED, asked, body).into_response()
            }
            Self::OverRate(wait) => {
                let after = [(header::RETRY_AFTER, seconds(wait).to_string())];
                (StatusCode::TOO_MANY_REQUESTS, after, body).into_response()
            }
        }
    }
}
