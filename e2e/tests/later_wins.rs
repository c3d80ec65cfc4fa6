//! Partitions raised while records flow: of all records of a key the latest one wins everywhere,
//! though its key is in another partition now than before.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use pinpipe_e2e::{Kind, Pipeline, Spec, eventually, flow::Flow, kafka, load, shared::in_space};
use serde_json::json;

/// Partitions before and after.
const BEFORE: usize = 3;
const AFTER: usize = 5;

#[test]
fn the_latest_record_of_a_key_wins_across_raised_partitions() -> Result<()> {
    in_space("later-wins", async |space| {
        let spec = Spec::new().live(space).archive(space, 200).batch(space);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        load::during(&mut flow, 5, async || raise(&pipeline).await).await?;
        pipeline.start_run("all").await?;
        pipeline.run_ends("all").await?;
        for kind in Kind::ALL {
            let moved = moved_keys(&flow, kind).await?;
            ensure!(
                moved > 0,
                "no key of {kind} is in two partitions: the test proves nothing"
            );
            flow.live_table_is_right(kind).await?;
            flow.raw_objects_are_right(kind).await?;
            flow.batch_table_is_right(kind).await?;
        }
        Ok(())
    })
}

async fn raise(pipeline: &Pipeline) -> Result<()> {
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

/// How many keys have records in more than one partition.
async fn moved_keys(flow: &Flow, kind: Kind) -> Result<usize> {
    let log = flow.log(kind).await?;
    let places: BTreeSet<_> = log
        .good
        .iter()
        .map(|(message, sample)| (&sample.key, message.partition))
        .collect();
    let keys: BTreeSet<_> = places.iter().map(|(key, _)| key).collect();
    Ok(places.len() - keys.len())
}
