//! Waiting for a condition, and comparing what was found with what should be there.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// How long to leave a store alone between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// The same where nothing is waited for.
const GLANCE: Duration = Duration::from_secs(5);

/// Asks until `look` answers with something. What it said last is part of the error once `deadline`
/// has passed.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        let seen = match tokio::time::timeout(left.max(PAUSE), look()).await {
            Ok(Ok(found)) => {
                println!("{what}: after {:.1} s", start.elapsed().as_secs_f64());
                return Ok(found);
            }
            Ok(Err(not_yet)) => not_yet,
            Err(_) => anyhow!("the look itself did not come back"),
        };
        if start.elapsed() >= deadline {
            return Err(seen.context(format!(
                "{what}: not within {} s; what was there instead",
                deadline.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks again and again for as long as `length`; fails once a look does. For what must not happen,
/// which only time can show.
pub async fn throughout(
    length: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let passed = start.elapsed();
        look()
            .await
            .with_context(|| format!("{what}: not any more after {:.1} s", passed.as_secs_f64()))?;
        if passed >= length {
            println!("{what}: for {:.1} s", passed.as_secs_f64());
            return Ok(());
        }
        tokio::time::sleep(GLANCE.min(length.saturating_sub(passed))).await;
    }
}

/// Compares two tables by key. The error names what is missing, what is too much and what differs,
/// five of each.
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
        "{what}: {} expected, {} found: {} missing {:?}, {} too many {:?}, {} different",
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
