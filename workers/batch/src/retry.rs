//! Retries with exponential backoff, for requests to servers that may be unavailable.

use std::time::{Duration, Instant};

use anyhow::Result;
use pinpipe_runtime::backoff::backoff;
use tracing::{info, warn};

use crate::failure::is_permanent;

/// How long a server may stay unavailable before the run fails.
pub const RETRY_TIMEOUT: Duration = Duration::from_mins(3);

/// Fewest attempts before the run fails: work may take longer than [`RETRY_TIMEOUT`] by itself.
const MIN_ATTEMPTS: u32 = 5;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Decides whether to repeat failed work.
pub struct Retry {
    timeout: Duration,
    delays: Box<dyn Iterator<Item = Duration> + Send>,
    /// When the work failed for the first time.
    failing_since: Option<Instant>,
    failures: u32,
}

impl Retry {
    /// For work that fails for good once `timeout` has passed since its first failure and it was
    /// attempted five times.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            delays: Box::new(backoff(FIRST_DELAY, MAX_DELAY)),
            failing_since: None,
            failures: 0,
        }
    }

    /// How long to wait before the next attempt; the error if there is to be none.
    pub fn delay(&mut self, error: anyhow::Error) -> Result<(Duration, anyhow::Error)> {
        if is_permanent(&error) {
            return Err(error);
        }
        self.failures += 1;
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let delay = self.delays.next().unwrap_or(MAX_DELAY);
        if self.failures >= MIN_ATTEMPTS && since.elapsed() + delay > self.timeout {
            return Err(error.context(format!(
                "failed {} times in {} s",
                self.failures,
                since.elapsed().as_secs()
            )));
        }
        Ok((delay, error))
    }
}

/// Repeats `attempt` until it succeeds, fails with a permanent error, or `timeout` has passed since
/// its first failure. `what` names the work in log lines.
pub async fn retry<T, F>(timeout: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut retry = Retry::new(timeout);
    loop {
        // Boxed: a request of the S3 client is a future of many kilobytes.
        let error = match Box::pin(attempt()).await {
            Ok(value) => {
                if retry.failures > 0 {
                    info!(
                        what,
                        attempts = retry.failures + 1,
                        "succeeded after retries"
                    );
                }
                return Ok(value);
            }
            Err(error) => error,
        };
        let (delay, error) = retry.delay(error)?;
        warn!(
            what,
            attempts = retry.failures,
            error = format!("{error:#}"),
            "failed, retrying"
        );
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::{Context, anyhow};

    use super::*;
    use crate::failure::Permanent;

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
    async fn work_that_takes_longer_than_the_timeout_is_attempted_again() {
        let attempts = Cell::new(0);
        // Any work takes longer than this.
        let result = retry(Duration::ZERO, "test", || {
            attempts.set(attempts.get() + 1);
            let now = attempts.get();
            async move {
                if now < 2 {
                    Err(anyhow!("cut off"))
                } else {
                    Ok(now)
                }
            }
        });
        assert_eq!(result.await.unwrap(), 2);
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

        let mut retry = Retry::new(Duration::ZERO);
        for _ in 1..MIN_ATTEMPTS {
            retry.delay(anyhow!("unavailable")).unwrap();
        }
        assert_eq!(
            format!("{:#}", retry.delay(anyhow!("unavailable")).unwrap_err()),
            "failed 5 times in 0 s: unavailable"
        );
    }
}
