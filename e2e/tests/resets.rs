//! A sink that stopped because records were deleted before it read them says so, and goes on where
//! its user tells it to. One that was taken out of the pipeline goes on where it was when it is
//! back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, ensure_same, eventually, flow::Flow, kafka, postgres, samples::Samples,
    shared::in_space,
};
use serde_json::json;

/// Records before the workers stop, and after.
const SEEN: i64 = 300;
const UNSEEN: i64 = 300;

#[test]
fn a_sink_whose_records_are_gone_stops_and_is_reset_by_an_annotation() -> Result<()> {
    in_space("resets", async |space| {
        let pipeline = space.apply("flow", &Spec::new().live(space)).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let mut make = Samples::new(17);
        flow.send(Kind::Geo, make.batch(Kind::Geo, 0..SEEN, 0), 100)
            .await?;
        flow.live_table_is_right(Kind::Geo).await?;
        let mut expected = flow.log(Kind::Geo).await?.latest();

        pipeline.change(json!({"suspend": true})).await?;
        no_workers(&pipeline).await?;
        let topic = pipeline.topic(Kind::Geo);
        let unseen = make.batch(Kind::Geo, SEEN..SEEN + UNSEEN, 0);
        let records: Vec<_> = unseen
            .iter()
            .map(|s| (Some(s.key.clone().into_bytes()), s.raw.clone().into_bytes()))
            .collect();
        kafka::write(&topic, &records).await?;
        kafka::delete_old(&topic).await?;

        pipeline.change(json!({"suspend": false})).await?;
        pipeline
            .says(
                "StreamReady",
                "False",
                &["OffsetOutOfRange", &topic, "pinpipe.dev/reset-sink"],
            )
            .await?;
        pipeline
            .annotate("pinpipe.dev/reset-sink", "live=earliest")
            .await?;
        pipeline.ready().await?;
        // What was stored stays; what is left in the log joins it; what was deleted is lost, and
        // the user knows.
        let left = kafka::read(&topic).await?;
        for sample in &unseen {
            if left
                .iter()
                .any(|message| message.key.as_deref() == Some(sample.key.as_bytes()))
            {
                expected.insert(sample.key.clone(), sample.row.clone());
            }
        }
        ensure!(
            expected.len() > usize::try_from(SEEN)?,
            "nothing unseen is left: the test proves nothing"
        );
        eventually(
            Duration::from_mins(1),
            "the rest in the live table",
            async || {
                ensure_same(
                    "geo",
                    &expected,
                    &postgres::live_table(&space.schema(), Kind::Geo).await?,
                )
            },
        )
        .await?;
        Ok(())
    })
}

#[test]
fn a_sink_taken_out_and_put_back_goes_on_where_it_was() -> Result<()> {
    in_space("put-back", async |space| {
        let (without, with) = (Spec::new(), Spec::new().live(space));
        let pipeline = space.apply("flow", &with).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let mut make = Samples::new(19);
        flow.send(Kind::Geo, make.batch(Kind::Geo, 0..SEEN, 0), 100)
            .await?;
        flow.live_table_is_right(Kind::Geo).await?;

        pipeline.apply(&without).await?;
        no_workers(&pipeline).await?;
        pipeline.ready().await?;
        flow.send(
            Kind::Geo,
            make.batch(Kind::Geo, SEEN..SEEN + UNSEEN, 0),
            100,
        )
        .await?;
        let mut expected = flow.log(Kind::Geo).await?.latest();
        // A row that is gone would come back if its record were read again.
        let (gone, _) = expected.pop_first().context("nothing was sent")?;
        let deleted = format!("DELETE FROM {}.geo WHERE ind = {gone}", space.schema());
        ensure!(
            postgres::connect().await?.execute(&deleted, &[]).await? == 1,
            "no row {gone}"
        );

        pipeline.apply(&with).await?;
        pipeline.ready().await?;
        eventually(Duration::from_mins(1), "what came meanwhile", async || {
            ensure_same(
                "geo",
                &expected,
                &postgres::live_table(&space.schema(), Kind::Geo).await?,
            )
        })
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
