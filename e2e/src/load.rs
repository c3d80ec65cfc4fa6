//! A steady load on a pipeline while something happens to it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Result, ensure};
use futures::future::BoxFuture;

use crate::{Kind, Pipeline, eventually, ledger::Ledger, objects, postgres, samples::Samples};

/// New records of each kind per request.
const REQUEST: i64 = 10;
/// Records per request that give an earlier key other values.
const REPEATS: i64 = 2;
/// The shortest time between two requests.
const PACE: Duration = Duration::from_millis(100);
/// How long a response is waited for: longer than ingest waits for the broker.
const PATIENCE: Duration = Duration::from_secs(15);

/// The responses to a load.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Requests by response status; 0 is no response.
    pub answers: BTreeMap<u16, usize>,
    /// Responses 503 of ingest without `Retry-After`.
    pub without_hint: usize,
}

/// Posts records of all kinds until `work` is done.
pub async fn during(
    ledger: &mut Ledger,
    seed: u64,
    work: impl AsyncFnOnce() -> Result<()>,
) -> Result<Load> {
    let over = AtomicBool::new(false);
    let (sent, done) = futures::join!(until(&over, ledger, seed), async {
        let done = work().await;
        over.store(true, Relaxed);
        done
    });
    done?;
    let load = sent?;
    println!(
        "{} records acknowledged; responses by status: {:?}",
        ledger.acknowledged(),
        load.answers
    );
    Ok(load)
}

/// Posts records of all kinds until `over`. A request that fails is repeated.
async fn until(over: &AtomicBool, ledger: &mut Ledger, seed: u64) -> Result<Load> {
    let (mut make, mut load) = (Samples::new(seed), Load::default());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0.. {
        for kind in Kind::ALL {
            let new = round * REQUEST..(round + 1) * REQUEST;
            // Keys from all earlier requests, so that old rows change, too.
            let old = (1..=REPEATS).map(|n| round * n * 7919 % new.end);
            let samples: Vec<_> = new
                .clone()
                .chain(old)
                .map(|number| make.make(kind, number, new.end))
                .collect();
            loop {
                pace.tick().await;
                if over.load(Relaxed) {
                    return Ok(load);
                }
                let answer = tokio::time::timeout(PATIENCE, ledger.try_send(kind, &samples)).await;
                let answer = answer.ok().and_then(Result::ok);
                let status = answer.as_ref().map_or(0, |answer| answer.status);
                *load.answers.entry(status).or_default() += 1;
                match answer {
                    Some(answer) if answer.status == 202 => break,
                    Some(answer)
                        if answer.status == 503
                            && answer.json().is_ok_and(|body| body["error"].is_string()) =>
                    {
                        load.without_hint += usize::from(answer.retry_after.is_none());
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(load)
}

/// The size of a store, which grows while records flow.
pub type Counter = for<'a> fn(&'a Pipeline) -> BoxFuture<'a, Result<i64>>;

/// Rows of the live table of geo records.
#[must_use]
pub fn live_rows(pipeline: &Pipeline) -> BoxFuture<'_, Result<i64>> {
    Box::pin(async { postgres::count(&pipeline.sandbox.schema(), Kind::Geo).await })
}

/// Raw objects of geo records.
#[must_use]
pub fn raw_objects(pipeline: &Pipeline) -> BoxFuture<'_, Result<i64>> {
    Box::pin(async {
        let folder = format!("topics/{}/", pipeline.topic(Kind::Geo));
        Ok(i64::try_from(
            objects::keys(&objects::client(), pipeline.sandbox.bucket(), &folder)
                .await?
                .len(),
        )?)
    })
}

/// Waits until each of these stores grows.
pub async fn grow(pipeline: &Pipeline, counters: &[Counter]) -> Result<()> {
    for (n, counter) in counters.iter().enumerate() {
        let mut before = None;
        eventually(
            Duration::from_mins(2),
            &format!("growth of store {n}"),
            async || {
                let now = counter(pipeline).await?;
                let before = *before.get_or_insert(now);
                ensure!(now > before, "{now}, as many as before");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}
