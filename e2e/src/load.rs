//! A steady load on a pipeline while something happens to it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::Result;

use crate::{Kind, flow::Flow, samples::Samples};

/// New records of each kind in a round of requests.
const REQUEST: i64 = 10;
/// Records of each kind sent once more with other values in a round.
const REPEATS: i64 = 2;
/// From one round to the next at the soonest.
const PACE: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Requests by the status of their answers; 0 is no answer at all.
    pub answers: BTreeMap<u16, usize>,
    /// Answers of ingest's with status 503 that don't say when to come again.
    pub without_hint: usize,
}

/// Posts records of all kinds until `over`. A request that isn't taken is sent again.
pub async fn until(over: &AtomicBool, flow: &mut Flow, seed: u64) -> Result<Load> {
    let (mut make, mut load) = (Samples::new(seed), Load::default());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0.. {
        for kind in Kind::ALL {
            let new = round * REQUEST..(round + 1) * REQUEST;
            // Of any key so far, so that rows written long ago change, too.
            let old = (1..=REPEATS).map(|n| round * n * 7919 % new.end);
            let samples: Vec<_> = new.clone().chain(old).map(|number| make.make(kind, number, new.end)).collect();
            loop {
                pace.tick().await;
                if over.load(Relaxed) {
                    return Ok(load);
                }
                let answer = flow.offer(kind, &samples).await;
                let status = answer.as_ref().map_or(0, |answer| answer.status);
                *load.answers.entry(status).or_default() += 1;
                match answer {
                    Ok(answer) if answer.status == 202 => break,
                    Ok(answer) if answer.status == 503 && answer.json().is_ok_and(|body| body["error"].is_string()) => {
                        load.without_hint += usize::from(answer.retry_after.is_none());
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(load)
}
