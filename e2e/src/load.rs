//! A steady load on a pipeline while something happens to it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Result, ensure};
use futures::future::BoxFuture;

use crate::{Kind, Pipeline, eventually, flow::Flow, objects, postgres, samples::Samples};

/// New records of each kind in a round of requests.
const REQUEST: i64 = 10;
/// Records of each kind sent once more with other values in a round.
const REPEATS: i64 = 2;
/// From one round to the next at the soonest.
const PACE: Duration = Duration::from_millis(100);
/// How long an answer is waited for: longer than ingest waits for the broker.
const PATIENCE: Duration = Duration::from_secs(15);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Requests by the status of their answers; 0 is no answer at all.
    pub answers: BTreeMap<u16, usize>,
    /// Answers of ingest's with status 503 that don't say when to come again.
    pub without_hint: usize,
}

/// Posts records of all kinds while `work` is done.
pub async fn during(
    flow: &mut Flow,
    seed: u64,
    work: impl AsyncFnOnce() -> Result<()>,
) -> Result<Load> {
    let over = AtomicBool::new(false);
    let (sent, done) = futures::join!(until(&over, flow, seed), async {
        let done = work().await;
        over.store(true, Relaxed);
        done
    });
    done?;
    let load = sent?;
    println!(
        "{} records acknowledged; answers by status: {:?}",
        flow.acknowledged(),
        load.answers
    );
    Ok(load)
}

/// Posts records of all kinds until `over`. A request that isn't taken is sent again.
async fn until(over: &AtomicBool, flow: &mut Flow, seed: u64) -> Result<Load> {
    let (mut make, mut load) = (Samples::new(seed), Load::default());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0.. {
        for kind in Kind::ALL {
            let new = round * REQUEST..(round + 1) * REQUEST;
            // Of any key so far, so that rows written long ago change, too.
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
                let answer = tokio::time::timeout(PATIENCE, flow.offer(kind, &samples)).await;
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

/// How much a place holds: it grows while records flow.
pub type Measure = for<'a> fn(&'a Pipeline) -> BoxFuture<'a, Result<i64>>;

/// Rows of the live table of geo records.
#[must_use]
pub fn live(pipeline: &Pipeline) -> BoxFuture<'_, Result<i64>> {
    Box::pin(async { postgres::count(&pipeline.space.schema(), Kind::Geo).await })
}

/// Raw objects of geo records.
#[must_use]
pub fn raw(pipeline: &Pipeline) -> BoxFuture<'_, Result<i64>> {
    Box::pin(async {
        let folder = format!("topics/{}/", pipeline.topic(Kind::Geo));
        Ok(i64::try_from(
            objects::keys(&objects::client(), pipeline.space.bucket(), &folder)
                .await?
                .len(),
        )?)
    })
}

/// Waits until all of these grow.
pub async fn flows(pipeline: &Pipeline, measures: &[Measure]) -> Result<()> {
    for (n, measure) in measures.iter().enumerate() {
        let mut before = None;
        eventually(
            Duration::from_mins(2),
            &format!("growth of measure {n}"),
            async || {
                let now = measure(pipeline).await?;
                let before = *before.get_or_insert(now);
                ensure!(now > before, "{now}, as before");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}
