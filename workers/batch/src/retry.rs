//! Waiting for a server that is away: again and again with back-off, up to a limit, except where it
//! is of no use.

use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::{info, warn};

/// How long a server may be away before the run ends.
pub const PATIENCE: Duration = Duration::from_mins(3);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An error that asking again won't mend.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Hopeless(pub String);

/// Tries until it works, the error is [`Hopeless`] or `patience` is over; `what` goes to the log.
pub async fn patiently<T, F>(
    patience: Duration,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut tries = 1_u32;
    loop {
        // Boxed: a request of the S3 client is a future of many kilobytes.
        match Box::pin(attempt()).await {
            Ok(value) => {
                if tries > 1 {
                    info!(what, tries, "worked at last");
                }
                return Ok(value);
            }
            Err(error) if error.is::<Hopeless>() => return Err(error),
            Err(error) if begun.elapsed() + pause > patience => {
                return Err(error.context(format!(
                    "tried {tries} times in {} s",
                    begun.elapsed().as_secs()
                )));
            }
            Err(error) => warn!(
                what,
                tries,
                error = format!("{error:#}"),
                "failed, trying again"
            ),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        tries += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::{Context, anyhow};

    use super::*;

    #[tokio::test]
    async fn what_fails_for_a_while_works_in_the_end() {
        let tries = Cell::new(0);
        let result = patiently(PATIENCE, "test", || {
            tries.set(tries.get() + 1);
            let now = tries.get();
            async move {
                if now < 3 {
                    Err(anyhow!("away"))
                } else {
                    Ok(now)
                }
            }
        });
        assert_eq!(result.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_hopeless_is_tried_once_and_patience_ends() {
        let tries = Cell::new(0);
        let result: Result<()> = patiently(PATIENCE, "test", || {
            tries.set(tries.get() + 1);
            async { Err(Hopeless("no such key".into())).context("reading") }
        })
        .await;
        assert_eq!(
            (tries.get(), format!("{:#}", result.unwrap_err())),
            (1, "reading: no such key".to_owned())
        );

        let result: Result<()> =
            patiently(Duration::ZERO, "test", || async { Err(anyhow!("away")) }).await;
        assert_eq!(
            format!("{:#}", result.unwrap_err()),
            "tried 1 times in 0 s: away"
        );
    }
}
