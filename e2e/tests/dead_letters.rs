//! Dead letters and their way back: re-driven records come in once, and an old one doesn't win over
//! a newer one of its key.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Space, Spec, cassandra, ensure_same, eventually, kafka,
    postgres::{self, Row},
    samples::{Sample, Samples, in_milliseconds},
    shared::in_space,
};
use serde_json::json;

/// The size limit of a record, bytes: before somebody sees that it is too low, and after.
const LIMITS: (usize, usize) = (2_048, 8_192);

#[test]
fn re_driven_records_come_in_once_and_an_old_one_does_not_win() -> Result<()> {
    in_space("dead-letters", async |space| {
        let spec = |limit| {
            Spec::new()
                .max_record_bytes(limit)
                .live(space)
                .archive(space, 50)
                .batch(space)
        };
        let pipeline = space.apply("flow", &spec(LIMITS.0)).await?;
        pipeline.ready().await?;
        let mut make = Samples::new(23);
        let mut geo = |number| make.make(Kind::Geo, number, 10);
        let (old, lone, new) = (geo(1), geo(2), geo(1));
        send(
            &pipeline,
            &[padded(&old), padded(&lone), new.raw.clone()],
            &[&old, &lone, &new],
        )
        .await?;
        let dead_letters = format!("{}.dlq", pipeline.topic(Kind::Geo));
        eventually(Duration::from_mins(1), "two dead letters", async || {
            let letters = kafka::read(&dead_letters).await?;
            ensure!(letters.len() == 2, "{letters:?}");
            Ok(())
        })
        .await?;
        holds(space, &[&new]).await?;

        pipeline.apply(&spec(LIMITS.1)).await?;
        pipeline.ready().await?;
        pipeline
            .by_hand("back", &["command=redrive", "reason={too-large}"])
            .await?;
        pipeline.job_ends("back").await?;
        holds(space, &[&new, &lone]).await?;
        ensure!(
            records(&pipeline).await? == 5,
            "three records and two that came back"
        );

        pipeline.by_hand("again", &["command=redrive"]).await?;
        pipeline.job_ends("again").await?;
        ensure!(
            records(&pipeline).await? == 5,
            "what is back already came back once more"
        );

        // The archive tells a batch run of the order, too.
        pipeline.by_hand("everything", &["command=full"]).await?;
        pipeline.job_ends("everything").await?;
        let expected = rows(&[&new, &lone])
            .into_iter()
            .map(|(key, row)| (key, in_milliseconds(Kind::Geo, row)));
        ensure_same(
            "geo_batch",
            &expected.collect(),
            &cassandra::batch_table(&space.keyspace(), Kind::Geo).await?,
        )
    })
}

/// A record with a field nobody asked for, over the lower limit.
fn padded(sample: &Sample) -> String {
    let body = sample.raw.trim_end().strip_suffix('}').unwrap_or_default();
    format!("{body}, \"padding\": {}}}", json!("x".repeat(LIMITS.0)))
}

/// Writes records to the topic, past ingest.
async fn send(pipeline: &Pipeline, raw: &[String], samples: &[&Sample]) -> Result<()> {
    for (raw, sample) in raw.iter().zip(samples) {
        let record = (
            Some(sample.key.clone().into_bytes()),
            raw.clone().into_bytes(),
        );
        kafka::write(&pipeline.topic(Kind::Geo), &[record]).await?;
    }
    Ok(())
}

async fn records(pipeline: &Pipeline) -> Result<usize> {
    Ok(kafka::read(&pipeline.topic(Kind::Geo))
        .await
        .context("the topic")?
        .len())
}

fn rows(samples: &[&Sample]) -> BTreeMap<String, Row> {
    samples
        .iter()
        .map(|sample| (sample.key.clone(), sample.row.clone()))
        .collect()
}

/// Waits until the live table holds these rows and no others.
async fn holds(space: &Space, samples: &[&Sample]) -> Result<()> {
    eventually(Duration::from_mins(1), "the live table", async || {
        ensure_same(
            "geo",
            &rows(samples),
            &postgres::live_table(&space.schema(), Kind::Geo).await?,
        )
    })
    .await
}
