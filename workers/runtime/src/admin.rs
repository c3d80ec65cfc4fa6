//! Every worker's admin server: `/healthz`, `/readyz` and `/metrics`, and what a worker adds.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The media type of `/metrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a worker is ready, and if not, why; and what else is the matter. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    ready: Result<(), String>,
    /// By reason, a sentence each.
    degraded: BTreeMap<&'static str, String>,
}

impl Readiness {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready (`Ok`), or not and why, in a sentence for the user.
    pub fn set(&self, state: Result<(), String>) {
        self.state().ready = state;
    }

    /// What was set last; at first: starting, so not ready.
    pub fn get(&self) -> Result<(), String> {
        self.state().ready.clone()
    }

    /// What is the matter though the worker may be ready, the first by name: `SinkUnavailable:
    /// PostgreSQL refuses …`.
    #[must_use]
    pub fn degradation(&self) -> Option<String> {
        self.state()
            .degraded
            .first_key_value()
            .map(|(reason, message)| format!("{reason}: {message}"))
    }

    /// Something is the matter that another pod would do no better about, such as
    /// `SinkUnavailable`, and what, in a sentence for the user; or no longer (`None`). The worker
    /// stays as ready as it is.
    pub fn degraded(&self, reason: &'static str, message: Option<String>) {
        let mut state = self.state();
        match message {
            Some(message) => _ = state.degraded.insert(reason, message),
            None => _ = state.degraded.remove(reason),
        }
    }
}

/// The admin server before it serves: where metrics are registered.
#[derive(Debug)]
pub struct Admin {
    registry: Registry,
    readiness: Readiness,
}

impl Default for Admin {
    fn default() -> Self {
        Self::new()
    }
}

impl Admin {
    /// Not ready yet, and without a metric.
    #[must_use]
    pub fn new() -> Self {
        Self {
            registry: Registry::with_prefix("pinpipe"),
            readiness: Readiness(Arc::new(Mutex::new(State {
                ready: Err("starting".to_owned()),
                degraded: BTreeMap::new(),
            }))),
        }
    }

    /// Where to register metrics; their names get the prefix `pinpipe_`.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// What `/readyz` answers by.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// The routes: `/healthz` (200 while the process can answer), `/readyz` (200, `ready` or
    /// `degraded: ` and why; or 503, `not ready: ` and why), `/metrics` (OpenMetrics text), and
    /// those of `extra`.
    pub fn router(self, extra: Router) -> Router {
        let Self {
            registry,
            readiness,
        } = self;
        let registry = Arc::new(registry);
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || async move { ready(&readiness) }))
            .route("/metrics", get(move || async move { metrics(&registry) }))
            .merge(extra)
    }

    /// Serves on all addresses of the pod until `stop`. An error: the port can't be had.
    pub async fn serve(self, port: u16, extra: Router, stop: CancellationToken) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the admin port {port} can't be listened at"))?;
        axum::serve(listener, self.router(extra))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await?;
        Ok(())
    }
}

fn ready(readiness: &Readiness) -> Response {
    match (readiness.get(), readiness.degradation()) {
        (Ok(()), None) => "ready\n".into_response(),
        (Ok(()), Some(why)) => format!("degraded: {why}\n").into_response(),
        (Err(reason), _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        )
            .into_response(),
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn not_ready_says_why() {
        let mut admin = Admin::new();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        admin
            .registry()
            .register("things", "Things", counter.clone());
        counter.inc();
        let readiness = admin.readiness();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let app = admin.router(Router::new());
        let server = tokio::spawn(
            axum::serve(listener, app)
                .with_graceful_shutdown(stop.clone().cancelled_owned())
                .into_future(),
        );
        let get = async |path: &str| {
            let response = reqwest::get(format!("{url}{path}")).await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };

        assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(
            get("/readyz").await,
            (503, "not ready: starting\n".to_owned())
        );
        readiness.set(Ok(()));
        assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
        readiness.degraded("SinkUnavailable", Some("PostgreSQL refuses".to_owned()));
        assert_eq!(
            get("/readyz").await,
            (
                200,
                "degraded: SinkUnavailable: PostgreSQL refuses\n".to_owned()
            )
        );
        readiness.set(Err("the broker is away".to_owned()));
        assert_eq!(
            get("/readyz").await,
            (503, "not ready: the broker is away\n".to_owned())
        );
        readiness.degraded("SinkUnavailable", None);
        readiness.set(Ok(()));
        assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
        let (status, metrics) = get("/metrics").await;
        assert_eq!(
            (status, metrics.contains("pinpipe_things_total 1\n")),
            (200, true),
            "{metrics}"
        );
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
