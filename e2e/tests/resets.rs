//! A sink whose next records were deleted stops until its user resets it, which a run does once. A
//! sink that is removed and added again continues at its last position.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, ensure_same, eventually, kafka, ledger::Ledger, postgres,
    samples::Samples, scenario::in_sandbox,
};
use serde_json::json;

/// Records stored before the workers stop.
const STORED: i64 = 300;
/// Records written after that.
const UNREAD: i64 = 300;

#[test]
fn a_sink_whose_records_are_deleted_stops_and_is_reset_once_by_a_run() -> Result<()> {
    in_sandbox("resets", async |sandbox| {
        let pipeline = sandbox.apply("flow", &Spec::new().live(sandbox)).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let mut make = Samples::new(17);
        ledger
            .send(Kind::Geo, make.batch(Kind::Geo, 0..STORED, 0), 100)
            .await?;
        ledger.live_table_is_right(Kind::Geo).await?;
        let mut expected = ledger.log(Kind::Geo).await?.latest();

        pipeline.change(json!({"suspend": true})).await?;
        no_workers(&pipeline).await?;
        let topic = pipeline.topic(Kind::Geo);
        let unread = make.batch(Kind::Geo, STORED..STORED + UNREAD, 0);
        let records: Vec<_> = unread
            .iter()
            .map(|s| (Some(s.key.clone().into_bytes()), s.raw.clone().into_bytes()))
            .collect();
        kafka::write(&topic, &records).await?;
        kafka::delete_old(&topic).await?;

        pipeline.change(json!({"suspend": false})).await?;
        pipeline
            .has_condition(
                "StreamReady",
                "False",
                &["OffsetOutOfRange", &topic, "kubectl pinpipe reset"],
            )
            .await?;
        let reset = json!({"reset": {"sink": "live", "to": {"earliest": {}}}});
        let first = pipeline.run_succeeds("reset", reset.clone()).await?;
        pipeline.ready().await?;
        // Stored rows stay, and the records left in the topic are added.
        let left = kafka::read(&topic).await?;
        for sample in &unread {
            if left
                .iter()
                .any(|message| message.key.as_deref() == Some(sample.key.as_bytes()))
            {
                expected.insert(sample.key.clone(), sample.row.clone());
            }
        }
        ensure!(
            expected.len() > usize::try_from(STORED)?,
            "every unread record was deleted: the test shows nothing"
        );
        eventually(
            Duration::from_mins(1),
            "the remaining records in the live table",
            async || {
                ensure_same(
                    "geo",
                    &expected,
                    &postgres::live_table(&sandbox.schema(), Kind::Geo).await?,
                )
            },
        )
        .await?;

        // A deleted row would reappear if the run that is created again were carried out again.
        let stored = unread.iter().find(|sample| {
            let key = Some(sample.key.as_bytes());
            left.iter().any(|message| message.key.as_deref() == key)
        });
        let deleted = &stored.context("no record is left")?.key;
        let delete = format!("DELETE FROM {}.geo WHERE ind = {deleted}", sandbox.schema());
        postgres::connect().await?.execute(&delete, &[]).await?;
        expected.remove(deleted);
        pipeline.delete_run("reset").await?;
        let again = pipeline.run_succeeds("reset", reset).await?;
        ensure!(again["id"] == first["id"], "{again}");
        pipeline.ready().await?;
        let more = make.batch(Kind::Geo, STORED + UNREAD..STORED + UNREAD + 50, 0);
        expected.extend(more.iter().map(|it| (it.key.clone(), it.row.clone())));
        ledger.send(Kind::Geo, more, 50).await?;
        let what = "new records alone in the live table";
        eventually(Duration::from_mins(1), what, async || {
            ensure_same(
                "geo",
                &expected,
                &postgres::live_table(&sandbox.schema(), Kind::Geo).await?,
            )
        })
        .await
    })
}

#[test]
fn a_sink_removed_and_added_again_continues_at_its_last_position() -> Result<()> {
    in_sandbox("put-back", async |sandbox| {
        let (without, with) = (Spec::new(), Spec::new().live(sandbox));
        let pipeline = sandbox.apply("flow", &with).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let mut make = Samples::new(19);
        ledger
            .send(Kind::Geo, make.batch(Kind::Geo, 0..STORED, 0), 100)
            .await?;
        ledger.live_table_is_right(Kind::Geo).await?;

        pipeline.apply(&without).await?;
        no_workers(&pipeline).await?;
        pipeline.ready().await?;
        ledger
            .send(
                Kind::Geo,
                make.batch(Kind::Geo, STORED..STORED + UNREAD, 0),
                100,
            )
            .await?;
        let mut expected = ledger.log(Kind::Geo).await?.latest();
        // A deleted row would reappear if its record were read again.
        let (deleted_key, _) = expected.pop_first().context("nothing was sent")?;
        let deleted = format!(
            "DELETE FROM {}.geo WHERE ind = {deleted_key}",
            sandbox.schema()
        );
        ensure!(
            postgres::connect().await?.execute(&deleted, &[]).await? == 1,
            "no row {deleted_key}"
        );

        pipeline.apply(&with).await?;
        pipeline.ready().await?;
        eventually(
            Duration::from_mins(1),
            "the records sent meanwhile",
            async || {
                ensure_same(
                    "geo",
                    &expected,
                    &postgres::live_table(&sandbox.schema(), Kind::Geo).await?,
                )
            },
        )
        .await
    })
}

async fn no_workers(pipeline: &Pipeline) -> Result<()> {
    eventually(Duration::from_mins(1), "no workers", async || {
        let workers = pipeline.workers("stream-live").await?;
        ensure!(workers.is_empty(), "{workers:?}");
        Ok(())
    })
    .await
}
