//! The time from POST to a committed row in PostgreSQL, at a fixed rate.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::measure::Watch;
use super::{Bench, servers, workers};

const TOPICS: &str = "latency";
/// Records a second.
const RATES: [u32; 2] = [100, 1000];
const SECONDS: u32 = 30;
const PATIENCE: Duration = Duration::from_mins(1);

pub fn run(bench: &Bench) -> Result<()> {
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let _postgres = servers::postgres(bench.context, &bench.folder)?;
    // Some records first, so that topics and tables exist when the measurement starts.
    let records = bench.fill(TOPICS, 100, 1, 0.0)?;
    let _ingest = workers::ingest(bench, TOPICS)?;
    let worker = workers::live(bench, "latency", TOPICS)?;
    Watch::new(worker.pid())
        .until(PATIENCE, || Ok(workers::stored() >= records))
        .with_context(|| worker.failure())?;
    println!("\nFrom POST to a row in PostgreSQL, {SECONDS} s at each rate\n");
    println!("| records a second | p50 | p99 | longest |\n|---|---|---|---|");
    for rate in RATES {
        let url = format!("127.0.0.1:{}", workers::INGEST);
        let postgres = format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            servers::POSTGRES
        );
        let (rate, seconds) = (rate.to_string(), SECONDS.to_string());
        let mut probe = bench.probe(&[
            "latency",
            "--ingest",
            &url,
            "--postgres",
            &postgres,
            "--table",
            "latency.geo",
        ]);
        let output = probe
            .args(["--rate", &rate, "--seconds", &seconds])
            .output()?;
        ensure!(
            output.status.success(),
            "the probe: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        println!("| {rate} | {} |", String::from_utf8(output.stdout)?.trim());
    }
    println!();
    Ok(())
}
