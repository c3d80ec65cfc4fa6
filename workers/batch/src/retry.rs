//! Retries with exponential backoff, for requests to servers that may be unavailable.

use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::{info, warn};

use crate::failure::Permanent;

/// How long a server may stay unavailable before the run fails.
pub const RETRY_TIMEOUT: Duration = Duration::from_mins(3);

const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Repeats `attempt` until it succeeds, fails with [`Permanent`], or `timeout` has passed. `what`
/// names the work in log lines.
pub async fn retry<T, F>(timeout: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    let mut delay = FIRST_DELAY;
    let mut attempts = 1_u32;
    loop {
        // Boxed: a request of the S3 client is a future of many kilobytes.
        match Box::pin(attempt()).await {
            Ok(value) => {
                if attempts > 1 {
                    info!(what, attempts, "succeeded after retries");
                }
                return Ok(value);
            }
            Err(error) if error.is::<Permanent>() => return Err(error),
            Err(error) if started.elapsed() + delay > timeout => {
                return Err(error.context(format!(
                    "failed {attempts} times in {} s",
                    started.elapsed().as_secs()
                )));
            }
            Err(error) => warn!(
                what,
                attempts,
                error = format!("{error:#}"),
                "failed, retrying"
            ),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
        attempts += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::{Context, anyhow};

    use super::*;

    #[tokio::test]
    async fn a_failure_that_passes_is_retried() {
        let attempts = Cell::new(0);
        let result = retry(RETRY_TIMEOUT, "test", || {
            attempts.set(attempts.get() + 1);
            let now = attempts.get();
            async move {
                if now < 3 {
                    Err(anyhow!("unavailable"))
                } else {
                    Ok(now)
                }
            }
        });
        assert_eq!(result.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_permanent_failure_is_not_retried_and_retries_are_limited() {
        let attempts = Cell::new(0);
        let result: Result<()> = retry(RETRY_TIMEOUT, "test", || {
            attempts.set(attempts.get() + 1);
            async { Err(Permanent("no such key".into())).context("reading") }
        })
        .await;
        assert_eq!(
            (attempts.get(), format!("{:#}", result.unwrap_err())),
            (1, "reading: no such key".to_owned())
        );

        let result: Result<()> = retry(Duration::ZERO, "test", || async {
            Err(anyhow!("unavailable"))
        })
        .await;
        assert_eq!(
            format!("{:#}", result.unwrap_err()),
            "failed 1 times in 0 s: unavailable"
        );
    }
}
