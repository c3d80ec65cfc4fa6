//! Kafka to raw objects: CPU time per GB of records, compared with a consumer that drops what it
//! reads.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::measure::{Watch, to_the_end};
use super::servers::{self, Running};
use super::{Bench, mebibytes, typical, workers};

const TOPICS: &str = "archive";

pub fn run(bench: &Bench) -> Result<()> {
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let _s3 = servers::s3(bench.context, &bench.folder)?;
    let records = bench.fill(TOPICS, bench.records / 2, 1, 0.0)?;
    let bytes = bench.probe(&["consume", "--topics", TOPICS]).output()?;
    let bytes: f64 = String::from_utf8(bytes.stdout)?
        .trim()
        .parse()
        .context("the consumer reported no bytes")?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for number in 1..=bench.runs {
        // An archive resumes where its objects end, so every run has its own bucket.
        let name = format!("archive{number}");
        ours.push(super::measure(&format!("archive, run {number}"), || {
            let archive = workers::archive(bench, &name, TOPICS, &name)?;
            let mut watch = Watch::new(archive.pid());
            watch
                .until(Duration::from_mins(30), || Ok(workers::stored() >= records))
                .with_context(|| archive.failure())
        })?);
        bare.push(super::measure(
            &format!("bare consumer, run {number}"),
            || {
                let mut probe = bench.probe(&["consume", "--topics", TOPICS]);
                let mut running = Running::start(bench.context, "consume", &mut probe)?;
                to_the_end(&mut running.child).with_context(|| running.failure())
            },
        )?);
    }
    let gigabytes = bytes / 1e9;
    println!(
        "\nKafka to raw objects, {records} records, {gigabytes:.2} GB: medians, and the largest \
         peak of memory\n"
    );
    println!("| | seconds of processors a GB | MB/s | peak memory |\n|---|---|---|---|");
    let (ours, bare) = (typical(&ours), typical(&bare));
    for (name, usage) in [("archive", ours), ("bare consumer", bare)] {
        println!(
            "| {name} | {:.2} | {:.0} | {:.0} MiB |",
            usage.cpu / gigabytes,
            bytes / 1e6 / usage.seconds,
            mebibytes(usage.peak)
        );
    }
    println!(
        "\n{:.1} times the processor time of a bare consumer\n",
        ours.cpu / bare.cpu
    );
    Ok(())
}
