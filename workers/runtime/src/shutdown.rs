//! Graceful shutdown on signals.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that is cancelled by the first SIGTERM (Kubernetes stops the pod) or SIGINT
/// (Ctrl-C). Call it once, inside the Tokio runtime.
#[must_use]
pub fn on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    for (kind, name) in [
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
    ] {
        match signal(kind) {
            Ok(mut signals) => {
                let stop = stop.clone();
                tokio::spawn(async move {
                    if signals.recv().await.is_some() {
                        tracing::info!(signal = name, "stopping");
                        stop.cancel();
                    }
                });
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    signal = name,
                    "can't handle this signal: it will not stop the process"
                );
            }
        }
    }
    stop
}
