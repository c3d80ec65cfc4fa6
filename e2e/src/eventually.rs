//! Waiting for a state, comparing what was found with what was expected, and naming development
//! servers that restarted during a failed test.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result, anyhow, bail};

use crate::devstack;

/// The pause between two checks of a state that is waited for.
const PAUSE: Duration = Duration::from_millis(300);
/// The pause between two checks of a state that has to last.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// Repeats `check` until it succeeds. Once `deadline` has passed, returns the last error.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        let last = match tokio::time::timeout(left.max(PAUSE), check()).await {
            Ok(Ok(found)) => {
                println!("{what}: after {:.1} s", start.elapsed().as_secs_f64());
                return Ok(found);
            }
            Ok(Err(not_yet)) => not_yet,
            Err(_) => anyhow!("the check itself did not return"),
        };
        if start.elapsed() >= deadline {
            return Err(last.context(format!(
                "{what}: not within {} s; the last check found",
                deadline.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Repeats `check` for `length`, and fails as soon as it does: for what must not happen.
pub async fn throughout(
    length: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let elapsed = start.elapsed();
        check()
            .await
            .with_context(|| format!("{what}: no longer after {:.1} s", elapsed.as_secs_f64()))?;
        if elapsed >= length {
            println!("{what}: for {:.1} s", elapsed.as_secs_f64());
            return Ok(());
        }
        tokio::time::sleep(LONG_PAUSE.min(length.saturating_sub(elapsed))).await;
    }
}

/// Adds the development servers that restarted lately to a test's error: a test may fail only
/// because one of them ran out of memory.
pub async fn name_restarted_servers(error: Error) -> Error {
    match devstack::recent_restarts().await {
        Ok(restarts) if restarts.is_empty() => error,
        Ok(restarts) => error.context(format!(
            "development servers restarted: {}",
            restarts.join("; ")
        )),
        Err(unknown) => {
            println!("restarts of the development servers are unknown: {unknown:#}");
            error
        }
    }
}

/// Compares two tables by key. The error lists up to five missing, unexpected and different rows.
pub fn ensure_same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Result<()> {
    let missing: Vec<_> = expected
        .keys()
        .filter(|key| !found.contains_key(key))
        .collect();
    let extra: Vec<_> = found
        .keys()
        .filter(|key| !expected.contains_key(key))
        .collect();
    let different: Vec<_> = expected
        .iter()
        .filter_map(|(key, e)| found.get(key).filter(|f| *f != e).map(|f| (key, e, f)))
        .collect();
    if missing.is_empty() && extra.is_empty() && different.is_empty() {
        return Ok(());
    }
    let mut text = format!(
        "{what}: {} expected, {} found: {} missing {:?}, {} unexpected {:?}, {} different",
        expected.len(),
        found.len(),
        missing.len(),
        &missing[..missing.len().min(5)],
        extra.len(),
        &extra[..extra.len().min(5)],
        different.len(),
    );
    for (key, expected, found) in different.iter().take(5) {
        write!(
            text,
            "\n  {key:?}\n    expected {expected:?}\n    found    {found:?}"
        )?;
    }
    bail!(text)
}
