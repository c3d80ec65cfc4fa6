//! Ingest, and a `FastAPI` service with the same promise: a request is answered after the broker
//! has stored its records.

use anyhow::{Context as _, Result, ensure};
use pinpipe_servers::listens;
use serde_json::Value;

use super::measure::{Watch, median};
use super::servers::{self, KAFKA, Running};
use super::{Bench, mebibytes, workers};
use crate::debian::{self, need};
use crate::images;

const TOPICS: &str = "ingest";
/// A bearer token.
const TOKEN: &str = "a-token-of-32-bytes-for-the-bench";
const FASTAPI: u16 = 24083;
/// Open connections, each with one request at a time.
const CONNECTIONS: [u32; 2] = [64, 1000];
/// Connections and records per request of the arrays.
const ARRAYS: (u32, u32) = (8, 1000);
const SECONDS: u32 = 10;
/// The memory limit that ingest assumes, bytes: the operator's default.
const MEMORY: u64 = 256 << 20;

/// The figures of one service.
#[derive(Default)]
struct Figures {
    /// Requests per second, for each number of connections.
    rates: [Vec<f64>; 2],
    /// CPU time per request over the first number of connections, µs.
    cpu: Vec<f64>,
    /// 99th percentile of the latency at half of the first rate, ms.
    p99: Vec<f64>,
    /// Peak memory after single posts, MiB.
    memory: Vec<f64>,
    /// Records per second in arrays.
    arrays: Vec<f64>,
}

pub fn run(bench: &Bench) -> Result<()> {
    debian::ensure(bench.context, &[need("python3", "python3")])?;
    let recipe = bench.context.root.join("benches/fastapi");
    let wheels = images::wheels(bench.context, "fastapi", &recipe)?;
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let created = bench.probe(&["topics", "--topics", TOPICS]).status()?;
    ensure!(created.success(), "the topics can't be created");
    let (mut ours, mut fastapi) = (Figures::default(), Figures::default());
    for number in 1..=bench.runs {
        let service = workers::ingest_with(bench, TOPICS, Some(TOKEN), Some(MEMORY))?;
        let name = format!("ingest, run {number}");
        single(bench, &name, &service, workers::INGEST, &mut ours)?;
        let (connections, records) = ARRAYS;
        let rate = load(bench, workers::INGEST, connections, None, records)?.rate;
        ours.arrays.push(rate * f64::from(records));
        drop(service);

        let mut python = bench.context.command("python3");
        python
            .env("PYTHONPATH", &wheels)
            .env("BOOTSTRAP_SERVERS", format!("127.0.0.1:{KAFKA}"))
            .env("TOPICS", TOPICS)
            .env("TOKEN", TOKEN)
            .args(["-m", "uvicorn", "app:app", "--log-level=warning"])
            .args(["--no-access-log", "--port", &FASTAPI.to_string()])
            .arg("--app-dir")
            .arg(&recipe);
        let service =
            Running::start(bench.context, "fastapi", &mut python)?.until(|| listens(FASTAPI))?;
        let name = format!("FastAPI, run {number}");
        single(bench, &name, &service, FASTAPI, &mut fastapi)?;
    }
    summary(ours, fastapi);
    Ok(())
}

/// Single posts over each number of connections, and at half of the first rate.
fn single(
    bench: &Bench,
    name: &str,
    service: &Running,
    port: u16,
    figures: &mut Figures,
) -> Result<()> {
    // What is done once, such as connecting to the broker, is over before the measurement.
    load(bench, port, CONNECTIONS[0], Some(100), 1)?;
    let mut watch = Watch::new(service.pid());
    watch.look();
    let before = watch.usage().cpu;
    let (mut rates, mut half) = ([0.0; 2], 1);
    for (number, connections) in CONNECTIONS.into_iter().enumerate() {
        let measured =
            load(bench, port, connections, None, 1).with_context(|| service.failure())?;
        if number == 0 {
            watch.look();
            let cpu = (watch.usage().cpu - before) * 1e6 / f64::from(measured.requests);
            figures.cpu.push(cpu);
            half = measured.requests / SECONDS / 2;
        }
        rates[number] = measured.rate;
        figures.rates[number].push(measured.rate);
    }
    let p99 = load(bench, port, CONNECTIONS[0], Some(half), 1)?.p99;
    figures.p99.push(p99);
    watch.look();
    figures.memory.push(mebibytes(watch.usage().peak));
    println!(
        "   {name}: {:.0} and {:.0} requests a second, {:.0} µs of processors each; p99 {p99:.1} \
         ms at {half} a second; {:.0} MiB",
        rates[0],
        rates[1],
        figures.cpu.last().copied().unwrap_or_default(),
        mebibytes(watch.usage().peak),
    );
    Ok(())
}

/// What the load saw.
struct Measured {
    requests: u32,
    /// Requests per second.
    rate: f64,
    /// 99th percentile of the latency, ms.
    p99: f64,
}

fn load(
    bench: &Bench,
    port: u16,
    connections: u32,
    rate: Option<u32>,
    records: u32,
) -> Result<Measured> {
    let address = format!("127.0.0.1:{port}");
    let mut probe = bench.probe(&["load", "--ingest", &address, "--token", TOKEN]);
    probe
        .arg(format!("--connections={connections}"))
        .arg(format!("--seconds={SECONDS}"))
        .arg(format!("--records={records}"))
        .args(rate.map(|rate| format!("--rate={rate}")));
    let output = probe.output()?;
    ensure!(
        output.status.success(),
        "the probe: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let figure = |name: &str| report[name].as_f64().with_context(|| format!("no {name}"));
    let requests = u32::try_from(report["requests"].as_u64().context("no requests")?)?;
    Ok(Measured {
        requests,
        rate: f64::from(requests) / figure("seconds")?,
        p99: figure("p99Milliseconds")?,
    })
}

fn summary(ours: Figures, fastapi: Figures) {
    println!(
        "\nSingle posts, medians\n\n| | µs of processors a request | requests a second, {} \
         connections | {} connections | p99 at half that rate | peak memory |\n\
         |---|---|---|---|---|---|",
        CONNECTIONS[0], CONNECTIONS[1]
    );
    let mut cpu = Vec::new();
    let arrays = median(ours.arrays.clone());
    for (name, figures) in [("ingest", ours), ("FastAPI and aiokafka", fastapi)] {
        let [few, many] = figures.rates.map(median);
        cpu.push(median(figures.cpu));
        println!(
            "| {name} | {:.0} | {few:.0} | {many:.0} | {:.1} ms | {:.0} MiB |",
            cpu[cpu.len() - 1],
            median(figures.p99),
            median(figures.memory)
        );
    }
    println!(
        "\nFastAPI takes {:.1} times the processor time. In arrays of {} records ingest takes \
         {arrays:.0} records a second.\n",
        cpu[1] / cpu[0],
        ARRAYS.1
    );
}
