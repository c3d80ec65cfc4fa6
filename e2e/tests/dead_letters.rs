//! Redriven dead letters are stored once, and don't replace a newer record of the same key. Records
//! that PostgreSQL refuses are dead letters, too.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, Spec, cassandra, ensure_same, eventually, kafka,
    postgres::{self, Row},
    samples::{Sample, Samples, in_milliseconds},
    scenario::in_sandbox,
};
use serde_json::json;

/// The size limit of a record, bytes, before and after it is raised.
const LIMITS: (usize, usize) = (2_048, 8_192);

#[test]
fn redriven_records_are_stored_once_and_do_not_replace_newer_ones() -> Result<()> {
    in_sandbox("dead-letters", async |sandbox| {
        let spec = |limit| {
            Spec::new()
                .max_record_bytes(limit)
                .live(sandbox)
                .archive(sandbox, 50)
                .batch(sandbox)
        };
        let pipeline = sandbox.apply("flow", &spec(LIMITS.0)).await?;
        pipeline.ready().await?;
        let mut make = Samples::new(23);
        let mut geo = |number| make.make(Kind::Geo, number, 10);
        let (old, only, new) = (geo(1), geo(2), geo(1));
        send(
            &pipeline,
            &[padded(&old), padded(&only), new.raw.clone()],
            &[&old, &only, &new],
        )
        .await?;
        let dead_letters = format!("{}.dlq", pipeline.topic(Kind::Geo));
        eventually(Duration::from_mins(1), "two dead letters", async || {
            let found = kafka::read(&dead_letters).await?;
            ensure!(found.len() == 2, "{found:?}");
            Ok(())
        })
        .await?;
        holds(sandbox, &[&new]).await?;

        pipeline.apply(&spec(LIMITS.1)).await?;
        pipeline.ready().await?;
        let redrive = json!({"redrive": {"reasons": ["too-large"]}});
        pipeline.run_succeeds("redrive", redrive).await?;
        holds(sandbox, &[&new, &only]).await?;
        ensure!(
            records(&pipeline).await? == 5,
            "not three records and two redriven ones"
        );

        let redrive = json!({"redrive": {}});
        pipeline.run_succeeds("redrive-again", redrive).await?;
        ensure!(
            records(&pipeline).await? == 5,
            "a record was redriven twice"
        );

        // The archive keeps the order for batch runs, too.
        let full = json!({"batch": {"full": true}});
        pipeline.run_succeeds("full", full).await?;
        let expected = rows(&[&new, &only])
            .into_iter()
            .map(|(key, row)| (key, in_milliseconds(Kind::Geo, row)));
        ensure_same(
            "geo_batch",
            &expected.collect(),
            &cassandra::batch_table(&sandbox.keyspace(), Kind::Geo).await?,
        )
    })
}

#[test]
fn a_record_that_postgresql_refuses_is_set_aside_and_can_be_redriven() -> Result<()> {
    in_sandbox("refused", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .archive(sandbox, 50)
            .batch(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let table = format!("{}.geo", sandbox.schema());
        let client = postgres::connect().await?;
        client
            .batch_execute(&format!(
                "ALTER TABLE {table} ADD CONSTRAINT real CHECK (country <> 'Atlantis')"
            ))
            .await?;
        let records: Vec<_> = ["Albania", "Atlantis", "Andorra"]
            .iter()
            .zip(1..)
            .map(|(country, ind)| {
                let raw = json!({"ind": ind, "country": country}).to_string();
                (Some(ind.to_string().into_bytes()), raw.into_bytes())
            })
            .collect();
        kafka::write(&pipeline.topic(Kind::Geo), &records).await?;
        let stored = async |expected: i64| {
            eventually(Duration::from_mins(1), "the live table", async || {
                let rows = postgres::count(&sandbox.schema(), Kind::Geo).await?;
                ensure!(rows == expected, "{rows} rows");
                Ok(())
            })
            .await
        };
        stored(2).await?;
        let dead_letters = kafka::read(&format!("{}.dlq", pipeline.topic(Kind::Geo))).await?;
        let [letter] = &dead_letters[..] else {
            anyhow::bail!("{dead_letters:?}")
        };
        ensure!(letter.value == records[1].1, "{letter:?}");
        for (name, value) in [("pinpipe.sink", "live"), ("pinpipe.outcome", "refused")] {
            ensure!(letter.header(name).as_deref() == Some(value), "{letter:?}");
        }
        let message = letter.header("pinpipe.message").unwrap_or_default();
        ensure!(
            message.contains("violates check constraint \"real\""),
            "{message}"
        );

        client
            .batch_execute(&format!("ALTER TABLE {table} DROP CONSTRAINT real"))
            .await?;
        let redrive = json!({"redrive": {"outcome": "Refused"}});
        pipeline.run_succeeds("redrive", redrive).await?;
        stored(3).await
    })
}

/// A sample with an unknown field that makes it larger than the lower limit.
fn padded(sample: &Sample) -> String {
    let body = sample.raw.trim_end().strip_suffix('}').unwrap_or_default();
    format!("{body}, \"padding\": {}}}", json!("x".repeat(LIMITS.0)))
}

/// Writes records directly to the topic, one after the other.
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
async fn holds(sandbox: &Sandbox, samples: &[&Sample]) -> Result<()> {
    eventually(Duration::from_mins(1), "the live table", async || {
        ensure_same(
            "geo",
            &rows(samples),
            &postgres::live_table(&sandbox.schema(), Kind::Geo).await?,
        )
    })
    .await
}
