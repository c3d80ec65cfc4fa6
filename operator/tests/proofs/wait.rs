//! Waiting for a state.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Repeats `check` until it succeeds. Once `deadline` has passed, returns the last error.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match check().await {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() > deadline => {
                return Err(error.context(format!(
                    "{what}: not within {} s; the last check found",
                    deadline.as_secs()
                )));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
