//! A batch run over raw objects, and the same job on `PySpark`.
//!
//! Both begin with all records raw and end with the latest clean row of each key stored and the
//! eight questions answered. The batch worker reads its objects from the S3 server; `PySpark` is
//! given the same lines as local files. Neither writes to Cassandra.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::limit::Limit;
use super::measure::{Usage, to_the_end};
use super::servers::{self, Running};
use super::{Bench, mebibytes, typical, workers};
use crate::debian::{self, need};
use crate::images;
use crate::step::step;

const TOPICS: &str = "batch";
/// The name of the archive and of its bucket.
const ARCHIVE: &str = "batch-archive";
/// The share of records that are posted twice.
const REPEATED: f64 = 0.05;
/// The memory limit of the batch worker, bytes.
const MEMORY: u64 = 512 << 20;
/// The factor by which the records grow in the same memory.
const SCALE: u64 = 10;
/// Questions a run answers.
const QUESTIONS: usize = 8;

pub fn run(bench: &Bench) -> Result<()> {
    debian::ensure(
        bench.context,
        &[
            need("java", "openjdk-17-jre-headless"),
            need("python3", "python3"),
        ],
    )?;
    let recipe = bench.context.root.join("benches/pyspark");
    let wheels = images::wheels(bench.context, "pyspark", &recipe)?;
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let _s3 = servers::s3(bench.context, &bench.folder)?;
    let kubernetes = servers::kubernetes(bench.context, &bench.folder)?;
    let records = bench.fill(TOPICS, bench.records, 1, REPEATED)?;
    let _archive = archived(bench, records)?;
    let input = bench.folder.join("spark-input");
    step(
        bench.context,
        "the same lines as files",
        "read the log",
        |log| {
            let to = input.display().to_string();
            log.run(&mut bench.probe(&["lines", "--topics", TOPICS, "--to", &to]))
        },
    )?;

    let limit = Limit::new(MEMORY)?;
    let (mut ours, mut spark) = (Vec::new(), Vec::new());
    for number in 1..=bench.runs {
        ours.push(worker(bench, &limit, &kubernetes, number)?);
        let (usage, answers) = pyspark(bench, &recipe, &wheels, &input)
            .with_context(|| format!("PySpark, run {number}"))?;
        spark.push(super::measure(&format!("PySpark, run {number}"), || {
            Ok(usage)
        })?);
        if number == 1 {
            same_answers(
                &workers::report(ARCHIVE, &format!("run{number}"))?["answers"],
                &answers,
            )?;
        }
    }
    summary(records, &typical(&ours), &typical(&spark));
    Ok(())
}

/// Ten times as many records in the same memory.
pub fn scale(bench: &Bench) -> Result<()> {
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let _s3 = servers::s3(bench.context, &bench.folder)?;
    let kubernetes = servers::kubernetes(bench.context, &bench.folder)?;
    let records = bench.fill(TOPICS, bench.records * SCALE, 1, REPEATED)?;
    let _archive = archived(bench, records)?;
    let usage = worker(bench, &Limit::new(MEMORY)?, &kubernetes, 1)?;
    println!(
        "\nA batch run over {records} records within {:.0} MiB\n",
        mebibytes(MEMORY)
    );
    println!("| seconds | seconds of processors | peak memory |\n|---|---|---|");
    println!(
        "| {:.1} | {:.1} | {:.0} MiB |\n",
        usage.seconds,
        usage.cpu,
        mebibytes(usage.peak)
    );
    Ok(())
}

/// A run of a new pipeline, which therefore reads everything.
fn worker(
    bench: &Bench,
    limit: &Limit,
    kubernetes: &servers::Kubernetes,
    number: usize,
) -> Result<Usage> {
    let pipeline = format!("run{number}");
    let program = workers::batch(bench, &pipeline, TOPICS, ARCHIVE, &kubernetes.kubeconfig)?;
    let usage = super::measure(&format!("batch worker, run {number}"), || {
        let mut running = Running::start(bench.context, "batch", &mut limit.command(&program))?;
        to_the_end(&mut running.child).with_context(|| running.failure())
    })?;
    if number == 1 {
        println!("      {}", workers::outcome(bench, &pipeline)?);
    }
    Ok(usage)
}

/// Stores all records as raw objects. The archive keeps running because a run asks it to flush.
fn archived(bench: &Bench, records: u64) -> Result<Running> {
    step(
        bench.context,
        "records into raw objects",
        "the log of the archive is beside this one",
        |_| {
            let archive = workers::archive(bench, ARCHIVE, TOPICS, ARCHIVE)?;
            let mut watch = super::measure::Watch::new(archive.pid());
            watch
                .until(Duration::from_mins(30), || Ok(workers::stored() >= records))
                .with_context(|| archive.failure())?;
            Ok(archive)
        },
    )
}

/// The usage of a run, and its answers by question, each as a list of rows.
fn pyspark(bench: &Bench, recipe: &Path, wheels: &Path, input: &Path) -> Result<(Usage, Value)> {
    let (output, scratch) = (
        bench.folder.join("spark-output"),
        bench.folder.join("spark-scratch"),
    );
    for folder in [&output, &scratch] {
        let _ = fs::remove_dir_all(folder);
    }
    fs::create_dir_all(&scratch)?;
    let mut python = bench.context.command("python3");
    python
        .env("PYTHONPATH", wheels)
        .env("SPARK_HOME", wheels.join("pyspark"))
        .arg(recipe.join("batch.py"));
    for (name, folder) in [
        ("--input", input),
        ("--output", &output),
        ("--scratch", &scratch),
    ] {
        python.arg(name).arg(folder);
    }
    let mut running = Running::start(bench.context, "pyspark", &mut python)?;
    let usage = to_the_end(&mut running.child).with_context(|| running.failure())?;
    let log = fs::read_to_string(bench.context.cache.join("logs/bench-pyspark.log"))?;
    let report = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .next_back();
    let mut report = report.context("PySpark reported nothing")?;
    println!("      {} {}", report["keys"], report["seconds"]);
    Ok((usage, report["answers"].take()))
}

/// Fails unless both gave the same eight answers.
fn same_answers(ours: &Value, spark: &Value) -> Result<()> {
    let ours = ours
        .as_object()
        .context("the run's report has no answers")?;
    ensure!(ours.len() == QUESTIONS, "{} answers", ours.len());
    for (question, table) in ours {
        let (ours, theirs) = (comparable(&table["rows"]), comparable(&spark[question]));
        let different = ours
            .iter()
            .zip(&theirs)
            .find(|(ours, theirs)| ours != theirs);
        ensure!(
            !ours.is_empty() && ours == theirs,
            "{question}: {} rows, PySpark {}; {different:?}",
            ours.len(),
            theirs.len()
        );
    }
    println!("      the same answers");
    Ok(())
}

/// Rows in a fixed order, with integers and other numbers in one format.
fn comparable(rows: &Value) -> Vec<String> {
    let value = |value: &Value| {
        value
            .as_f64()
            .map_or_else(|| value.to_string(), |number| number.to_string())
    };
    let row = |row: &Value| {
        row.as_array()
            .into_iter()
            .flatten()
            .map(value)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut rows: Vec<String> = rows.as_array().into_iter().flatten().map(row).collect();
    rows.sort();
    rows
}

fn summary(records: u64, ours: &Usage, spark: &Usage) {
    println!(
        "\nA batch run over {records} records, the batch worker within {:.0} MiB: medians, and the \
         largest peak of memory\n",
        mebibytes(MEMORY)
    );
    println!("| | seconds | seconds of processors | peak memory |\n|---|---|---|---|");
    for (name, usage) in [("batch worker", ours), ("PySpark local[*]", spark)] {
        println!(
            "| {name} | {:.1} | {:.1} | {:.0} MiB |",
            usage.seconds,
            usage.cpu,
            mebibytes(usage.peak)
        );
    }
    println!("\n{:.1} times as fast\n", spark.seconds / ours.seconds);
}
