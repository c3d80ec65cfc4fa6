//! The control port: `POST /flush`, which the operator and batch runs request, and nobody else
//! should. A `NetworkPolicy` of the pipeline can close it for others.
//!
//! A flush closes the archive's open objects, so there is one at a time: a client in a loop would
//! otherwise make an object of each record.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use pinpipe_runtime::server;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The time between two flushes. Less than that between two requests of a batch run.
const INTERVAL: Duration = Duration::from_secs(2);
/// Open connections: those of the operator and of batch runs.
const CONNECTIONS: usize = 16;

/// Takes flush requests.
struct Control {
    flush: Arc<Notify>,
    last: Mutex<Option<Instant>>,
}

/// Serves on all addresses of the pod until `stop`. A request that is accepted notifies `flush`.
/// Fails if the port can't be bound.
pub async fn serve(port: u16, flush: Arc<Notify>, stop: CancellationToken) -> Result<()> {
    let listener = server::listen(port).context("the control server")?;
    server::serve(listener, router(flush), CONNECTIONS, stop).await;
    Ok(())
}

fn router(flush: Arc<Notify>) -> Router {
    let control = Control {
        flush,
        last: Mutex::new(None),
    };
    Router::new()
        .route("/flush", post(request))
        .with_state(Arc::new(control))
}

async fn request(State(control): State<Arc<Control>>) -> Response {
    match control.request(Instant::now()) {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(wait) => {
            let after = [(header::RETRY_AFTER, wait.as_secs().max(1).to_string())];
            let message = "another flush was requested less than 2 s ago\n";
            (StatusCode::TOO_MANY_REQUESTS, after, message).into_response()
        }
    }
}

impl Control {
    /// Requests a flush, or fails with the time after which one may be requested again.
    fn request(&self, now: Instant) -> Result<(), Duration> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = last.map_or(INTERVAL, |last| now.saturating_duration_since(last));
        if let Some(wait) = INTERVAL.checked_sub(passed).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        *last = Some(now);
        drop(last);
        self.flush.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[test]
    fn one_flush_is_requested_in_each_interval() {
        let (control, start) = (
            Control {
                flush: Arc::default(),
                last: Mutex::new(None),
            },
            Instant::now(),
        );
        let request = |millis| control.request(start + Duration::from_millis(millis));
        assert_eq!(request(0), Ok(()));
        assert_eq!(request(500), Err(Duration::from_millis(1500)));
        assert_eq!(request(2000), Ok(()));
        assert_eq!(request(2001), Err(Duration::from_millis(1999)));
        assert_eq!(request(60_000), Ok(()));
    }

    #[tokio::test]
    async fn a_loop_of_requests_flushes_once() {
        let flush = Arc::new(Notify::new());
        let listener = server::listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = router(flush.clone());
        tokio::spawn(server::serve(listener, router, CONNECTIONS, stop));
        let ask = async |method: &str| {
            let mut stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, address.port()))
                .await
                .unwrap();
            let request =
                format!("{method} /flush HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            response
        };
        assert!(ask("GET").await.starts_with("HTTP/1.1 405"));
        assert!(ask("POST").await.starts_with("HTTP/1.1 202"));
        flush.notified().await;
        let refused = ask("POST").await;
        assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 1\r\n"));
    }
}
