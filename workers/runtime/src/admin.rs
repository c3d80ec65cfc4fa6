//! The admin server of every worker: `/healthz`, `/readyz`, `/metrics` and routes that a worker
//! adds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, metrics::info::Info, registry::Registry};
use tokio_util::sync::CancellationToken;

use crate::server;

/// The media type of `/metrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Open connections of the admin server: those of the kubelet, the operator and scrapers.
const CONNECTIONS: usize = 64;

/// The reason of a worker that can't use a Secret.
pub const SECRET_UNUSABLE: &str = "SecretUnusable";

/// A worker's readiness and degradations. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    ready: Result<(), String>,
    /// Messages by reason.
    degraded: BTreeMap<&'static str, String>,
}

impl Readiness {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets readiness: `Ok`, or a message for the user that says why the worker is not ready.
    pub fn set(&self, state: Result<(), String>) {
        self.state().ready = state;
    }

    /// The state that was set last. Initially not ready, with the message `starting`.
    pub fn get(&self) -> Result<(), String> {
        self.state().ready.clone()
    }

    /// A degradation, such as `SinkUnavailable: PostgreSQL refuses …`. Of several, a Secret that
    /// can't be used comes first, since others may follow from it. The worker may be ready
    /// nevertheless.
    #[must_use]
    pub fn degradation(&self) -> Option<String> {
        let state = self.state();
        let secret = state.degraded.get_key_value(SECRET_UNUSABLE);
        let (reason, message) = secret.or_else(|| state.degraded.first_key_value())?;
        Some(format!("{reason}: {message}"))
    }

    /// Sets or clears (`None`) a degradation that restarting the pod would not fix, such as
    /// `SinkUnavailable`, with a message for the user. Readiness is not affected.
    pub fn degraded(&self, reason: &'static str, message: Option<String>) {
        let mut state = self.state();
        match message {
            Some(message) => _ = state.degraded.insert(reason, message),
            None => _ = state.degraded.remove(reason),
        }
    }
}

/// Builder of the admin server. Register metrics before it serves.
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
    /// Not ready, with the version as the only metric.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("pinpipe");
        registry.register(
            "build",
            "the version of the program, as a label",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry,
            readiness: Readiness(Arc::new(Mutex::new(State {
                ready: Err("starting".to_owned()),
                degraded: BTreeMap::new(),
            }))),
        }
    }

    /// The registry of metrics. Their names get the prefix `pinpipe_`.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// The readiness that `/readyz` reports.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Routes: `/healthz` (200 while the process responds), `/readyz` (200 with `ready` or
    /// `degraded: <message>`, or 503 with `not ready: <message>`), `/metrics` (OpenMetrics text)
    /// and those of `extra`.
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

    /// Serves on all addresses of the pod until `stop`. Fails if the port can't be bound.
    pub async fn serve(self, port: u16, extra: Router, stop: CancellationToken) -> Result<()> {
        let listener = server::listen(port).context("the admin server")?;
        server::serve(listener, self.router(extra), CONNECTIONS, stop).await;
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
    async fn readyz_reports_readiness_and_degradation() {
        let mut admin = Admin::new();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        admin
            .registry()
            .register("things", "Things", counter.clone());
        counter.inc();
        let readiness = admin.readiness();
        let listener = server::listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let stop = CancellationToken::new();
        let app = admin.router(Router::new());
        let server = tokio::spawn(server::serve(listener, app, CONNECTIONS, stop.clone()));
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
        readiness.set(Err("no broker".to_owned()));
        assert_eq!(
            get("/readyz").await,
            (503, "not ready: no broker\n".to_owned())
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
        server.await.unwrap();
    }
}
