//! What a pipeline does otherwise when its spec asks for it: tables that only grow, compressed raw
//! objects, copies of repaired records, and sinks that stop at the first record they can't key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Spec, broken, ensure_same, eventually,
    flow::{Flow, PREFIX},
    kafka, objects,
    postgres::{self, Row},
    samples::Samples,
    shared::in_space,
};

/// Distinct keys of each kind, and records of them sent once more.
const KEYS: i64 = 300;
const REPEATS: usize = 60;
/// Within what everything sent has to be stored.
const STORED_WITHIN: Duration = Duration::from_mins(1);

#[test]
fn appended_rows_gzipped_objects_and_copies_of_repaired_records() -> Result<()> {
    in_space("modes", async |space| {
        let spec = Spec::new()
            .live(space)
            .write_mode("Append")
            .archive(space, 100)
            .compression("Gzip");
        let pipeline = space
            .apply(
                "flow",
                &spec.dead_letters("RejectAndLogRepairs").batch(space),
            )
            .await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let mut make = Samples::new(29);
        for kind in Kind::ALL {
            flow.send(kind, make.batch(kind, 0..KEYS, REPEATS), 50)
                .await?;
        }
        // A worker that dies repeats what it had not stored yet, and nothing else.
        let killed = pipeline.kill("stream-live").await?;
        pipeline.back("stream-live", &killed).await?;
        pipeline.start_run("all").await?;
        pipeline.run_ends("all").await?;
        for kind in Kind::ALL {
            let log = flow.log(kind).await?;
            let appended: BTreeMap<(i32, i64), Row> = log
                .good
                .iter()
                .map(|(message, sample)| ((message.partition, message.offset), sample.row.clone()))
                .collect();
            eventually(
                STORED_WITHIN,
                &format!("all records in the table of {kind}"),
                async || {
                    ensure_same(
                        kind.live_table(),
                        &appended,
                        &postgres::appended(&space.schema(), kind).await?,
                    )
                },
            )
            .await?;
            flow.raw_objects_are_right(kind).await?;
            let folder = format!("{PREFIX}/{}/", pipeline.topic(kind));
            let keys = objects::keys(&objects::client(), space.bucket(), &folder).await?;
            ensure!(keys.iter().all(|key| key.ends_with(".json.gz")), "{keys:?}");
            flow.batch_table_is_right(kind).await?;

            let repaired: BTreeSet<(i32, i64)> = log
                .good
                .iter()
                .filter(|(_, sample)| sample.repaired)
                .map(|(message, _)| (message.partition, message.offset))
                .collect();
            ensure!(
                !repaired.is_empty(),
                "no repaired record of {kind}: the test proves nothing"
            );
            eventually(
                STORED_WITHIN,
                &format!("copies of the repaired records of {kind}"),
                async || {
                    let mut copies = BTreeSet::new();
                    for letter in kafka::read(&format!("{}.dlq", pipeline.topic(kind))).await? {
                        let header = |name: &str| {
                            letter
                                .header(&format!("pinpipe.{name}"))
                                .with_context(|| format!("no {name}: {letter:?}"))
                        };
                        ensure!(header("outcome")? == "repaired", "{letter:?}");
                        ensure!(
                            !header("field")?.is_empty() && !header("reason")?.is_empty(),
                            "{letter:?}"
                        );
                        copies.insert((header("partition")?.parse()?, header("offset")?.parse()?));
                    }
                    ensure!(
                        copies == repaired,
                        "copies of {copies:?}, repaired were {repaired:?}"
                    );
                    Ok(())
                },
            )
            .await?;
        }
        Ok(())
    })
}

#[test]
fn every_sink_stops_at_a_record_it_cannot_key_and_goes_on_when_told_to() -> Result<()> {
    in_space("fails", async |space| {
        let spec = Spec::new()
            .live(space)
            .archive(space, 100)
            .compression("Zstd")
            .dead_letters("Fail");
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let mut make = Samples::new(31);
        flow.send(Kind::Geo, make.batch(Kind::Geo, 0..KEYS, REPEATS), 50)
            .await?;
        flow.live_table_is_right(Kind::Geo).await?;
        flow.send_broken(Kind::Geo, broken::records(Kind::Geo, 1, 8_192))
            .await?;
        for sink in ["StreamReady", "ArchiveReady"] {
            pipeline
                .says(
                    sink,
                    "False",
                    &["RecordRejected", &pipeline.topic(Kind::Geo)],
                )
                .await?;
        }
        // What was before it is stored.
        flow.live_table_is_right(Kind::Geo).await?;

        let log = flow.log(Kind::Geo).await?;
        let (message, _) = log
            .broken
            .first()
            .context("the broken record is not in the log")?;
        let behind = format!(
            "live/geo/{}=offset:{}",
            message.partition,
            message.offset + 1
        );
        pipeline.annotate("pinpipe.dev/reset-sink", &behind).await?;
        pipeline.says("StreamReady", "True", &[]).await?;
        flow.send(Kind::Geo, make.batch(Kind::Geo, KEYS..2 * KEYS, 0), 50)
            .await?;
        flow.live_table_is_right(Kind::Geo).await?;
        pipeline
            .says("ArchiveReady", "False", &["RecordRejected"])
            .await?;
        let dead_letters = format!("{}.dlq", pipeline.topic(Kind::Geo));
        let letters = kafka::read(&dead_letters).await?;
        ensure!(
            letters.is_empty(),
            "letters in spite of the mode: {letters:?}"
        );

        pipeline.apply(&spec.dead_letters("Reject")).await?;
        pipeline.ready().await?;
        flow.raw_objects_are_right(Kind::Geo).await?;
        let folder = format!("{PREFIX}/{}/", pipeline.topic(Kind::Geo));
        let keys = objects::keys(&objects::client(), space.bucket(), &folder).await?;
        ensure!(
            !keys.is_empty() && keys.iter().all(|key| key.ends_with(".json.zst")),
            "{keys:?}"
        );
        let letters = kafka::read(&dead_letters).await?;
        ensure!(
            letters.len() == 1,
            "a letter for the broken record: {letters:?}"
        );
        Ok(())
    })
}
