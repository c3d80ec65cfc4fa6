//! Optional modes of a pipeline: appended rows and compressed raw objects.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use pinpipe_e2e::{
    Kind, Spec, ensure_same, eventually,
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
fn appended_rows_and_gzipped_objects() -> Result<()> {
    in_sandbox("modes", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .write_mode("Append")
            .archive(sandbox, 100)
            .compression("Gzip")
            .batch(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
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
        }
        Ok(())
    })
}
