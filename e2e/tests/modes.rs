//! Optional modes of a pipeline: appended rows, compressed raw objects, copies of repaired records
//! in the dead-letter topics, and sinks that stop at the first record without a readable key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Spec, broken, ensure_same, eventually, kafka,
    ledger::{Ledger, PREFIX},
    objects,
    postgres::{self, Row},
    samples::Samples,
    scenario::in_sandbox,
};

/// Distinct keys of each kind.
const KEYS: i64 = 300;
/// Records of each kind that repeat a key with other values.
const REPEATS: usize = 60;
/// How long the sinks may take to store all records.
const STORED_WITHIN: Duration = Duration::from_mins(1);

#[test]
fn appended_rows_gzipped_objects_and_copies_of_repaired_records() -> Result<()> {
    in_sandbox("modes", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .write_mode("Append")
            .archive(sandbox, 100)
            .compression("Gzip");
        let pipeline = sandbox
            .apply(
                "flow",
                &spec.dead_letters("RejectAndLogRepairs").batch(sandbox),
            )
            .await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let mut make = Samples::new(29);
        for kind in Kind::ALL {
            ledger
                .send(kind, make.batch(kind, 0..KEYS, REPEATS), 50)
                .await?;
        }
        // The worker that replaces a killed one must not append the same records again.
        let killed = pipeline.kill("stream-live").await?;
        pipeline.recovers("stream-live", &killed).await?;
        pipeline.start_run("all").await?;
        pipeline.run_completes("all").await?;
        for kind in Kind::ALL {
            let log = ledger.log(kind).await?;
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
                        &postgres::appended(&sandbox.schema(), kind).await?,
                    )
                },
            )
            .await?;
            ledger.raw_objects_are_right(kind).await?;
            let folder = format!("{PREFIX}/{}/", pipeline.topic(kind));
            let keys = objects::keys(&objects::client(), sandbox.bucket(), &folder).await?;
            ensure!(keys.iter().all(|key| key.ends_with(".json.gz")), "{keys:?}");
            ledger.batch_table_is_right(kind).await?;

            let repaired: BTreeSet<(i32, i64)> = log
                .good
                .iter()
                .filter(|(_, sample)| sample.repaired)
                .map(|(message, _)| (message.partition, message.offset))
                .collect();
            ensure!(
                !repaired.is_empty(),
                "no repaired record of {kind}: too few samples"
            );
            eventually(
                STORED_WITHIN,
                &format!("copies of the repaired records of {kind}"),
                async || {
                    let mut copies = BTreeSet::new();
                    for dead_letter in kafka::read(&format!("{}.dlq", pipeline.topic(kind))).await?
                    {
                        let header = |name: &str| {
                            dead_letter
                                .header(&format!("pinpipe.{name}"))
                                .with_context(|| format!("no {name}: {dead_letter:?}"))
                        };
                        ensure!(header("outcome")? == "repaired", "{dead_letter:?}");
                        ensure!(
                            !header("field")?.is_empty() && !header("reason")?.is_empty(),
                            "{dead_letter:?}"
                        );
                        copies.insert((header("partition")?.parse()?, header("offset")?.parse()?));
                    }
                    ensure!(
                        copies == repaired,
                        "expected copies of {repaired:?}, found {copies:?}"
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
fn a_sink_stops_at_a_record_without_a_readable_key_until_it_is_reset() -> Result<()> {
    in_sandbox("fails", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .archive(sandbox, 100)
            .compression("Zstd")
            .dead_letters("Fail");
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let mut make = Samples::new(31);
        ledger
            .send(Kind::Geo, make.batch(Kind::Geo, 0..KEYS, REPEATS), 50)
            .await?;
        ledger.live_table_is_right(Kind::Geo).await?;
        ledger
            .send_broken(Kind::Geo, broken::records(Kind::Geo, 1, 8_192))
            .await?;
        for sink in ["StreamReady", "ArchiveReady"] {
            pipeline
                .has_condition(
                    sink,
                    "False",
                    &["RecordRejected", &pipeline.topic(Kind::Geo)],
                )
                .await?;
        }
        // All records before the broken one are stored.
        ledger.live_table_is_right(Kind::Geo).await?;

        let log = ledger.log(Kind::Geo).await?;
        let (message, _) = log
            .broken
            .first()
            .context("the broken record is not in the log")?;
        let reset = format!(
            "live/geo/{}=offset:{}",
            message.partition,
            message.offset + 1
        );
        pipeline.annotate("pinpipe.dev/reset-sink", &reset).await?;
        pipeline.has_condition("StreamReady", "True", &[]).await?;
        ledger
            .send(Kind::Geo, make.batch(Kind::Geo, KEYS..2 * KEYS, 0), 50)
            .await?;
        ledger.live_table_is_right(Kind::Geo).await?;
        pipeline
            .has_condition("ArchiveReady", "False", &["RecordRejected"])
            .await?;
        let dead_letters = format!("{}.dlq", pipeline.topic(Kind::Geo));
        let found = kafka::read(&dead_letters).await?;
        ensure!(found.is_empty(), "dead letters in mode Fail: {found:?}");

        pipeline.apply(&spec.dead_letters("Reject")).await?;
        pipeline.ready().await?;
        ledger.raw_objects_are_right(Kind::Geo).await?;
        let folder = format!("{PREFIX}/{}/", pipeline.topic(Kind::Geo));
        let keys = objects::keys(&objects::client(), sandbox.bucket(), &folder).await?;
        ensure!(
            !keys.is_empty() && keys.iter().all(|key| key.ends_with(".json.zst")),
            "{keys:?}"
        );
        let found = kafka::read(&dead_letters).await?;
        ensure!(
            found.len() == 1,
            "expected one dead letter for the broken record, found {found:?}"
        );
        Ok(())
    })
}
