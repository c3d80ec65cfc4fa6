//! When partitions are added while records flow, the latest record of a key wins in every store,
//! though keys move to other partitions.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually, kafka, ledger::Ledger, load, scenario::in_sandbox,
};
use serde_json::json;

/// The number of partitions before and after.
const BEFORE: usize = 3;
const AFTER: usize = 5;

#[test]
fn the_latest_record_of_a_key_wins_after_partitions_are_added() -> Result<()> {
    in_sandbox("later-wins", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .archive(sandbox, 200)
            .batch(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        load::during(&mut ledger, 5, async || add_partitions(&pipeline).await).await?;
        pipeline.start_run("all").await?;
        pipeline.run_completes("all").await?;
        for kind in Kind::ALL {
            let moved = moved_keys(&ledger, kind).await?;
            ensure!(
                moved > 0,
                "no key of {kind} is in two partitions: the test proves nothing"
            );
            ledger.live_table_is_right(kind).await?;
            ledger.raw_objects_are_right(kind).await?;
            ledger.batch_table_is_right(kind).await?;
        }
        Ok(())
    })
}

async fn add_partitions(pipeline: &Pipeline) -> Result<()> {
    holds_records(pipeline, BEFORE).await?;
    pipeline
        .change(json!({"broker": {"kafka": {"topics": {"partitions": AFTER}}}}))
        .await?;
    holds_records(pipeline, AFTER).await?;
    pipeline.ready().await?;
    let status = pipeline.get().await?.data["status"]["topics"].clone();
    for kind in Kind::ALL {
        let topic = status
            .as_array()
            .into_iter()
            .flatten()
            .find(|topic| topic["name"] == pipeline.topic(kind).as_str());
        ensure!(
            topic.is_some_and(|topic| topic["partitions"] == AFTER),
            "{kind}: {status}"
        );
    }
    Ok(())
}

/// Waits until every topic has that many partitions, each with records.
async fn holds_records(pipeline: &Pipeline, partitions: usize) -> Result<()> {
    eventually(
        Duration::from_mins(2),
        &format!("records in {partitions} partitions of each topic"),
        async || {
            for kind in Kind::ALL {
                let ends = kafka::ends(&pipeline.topic(kind)).await?;
                ensure!(
                    ends.len() == partitions && ends.values().all(|(start, end)| end - start > 100),
                    "{kind}: {ends:?}"
                );
            }
            Ok(())
        },
    )
    .await
}

/// The number of keys with records in more than one partition.
async fn moved_keys(ledger: &Ledger, kind: Kind) -> Result<usize> {
    let log = ledger.log(kind).await?;
    let positions: BTreeSet<_> = log
        .good
        .iter()
        .map(|(message, sample)| (&sample.key, message.partition))
        .collect();
    let keys: BTreeSet<_> = positions.iter().map(|(key, _)| key).collect();
    Ok(positions.len() - keys.len())
}
