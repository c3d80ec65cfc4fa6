//! The emulator.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use pinpipe_config::{ADMIN_PORT, Emulator};
use pinpipe_emulator::{
    report::Tally,
    send::Sender,
    source::{Batch, Pace, Source},
    target::Target,
};
use pinpipe_runtime::{admin::Admin, cli::WorkerArgs, config, shutdown, telemetry};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Number of concurrent requests.
const CONNECTIONS: usize = 16;

/// How often progress is logged.
const PROGRESS: Duration = Duration::from_secs(10);

/// Posts synthetic users' records to ingest and prints the numbers of acknowledged records as one
/// JSON line to standard output.
///
/// Options override the configuration file, which is not needed if --target is set. The exit code
/// is 0 only if every record was acknowledged.
#[derive(Parser)]
#[command(name = "pinpipe-emulator", version)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The base URL of ingest, such as `http://127.0.0.1:8080`.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Number of users, and so of records of each kind. Without it the emulator runs until it is
    /// stopped.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Records per second, all kinds together; 0 for as fast as possible. The default is 30.
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Seed of the users. The same seed produces the same users. The default is 1.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Ratio of records that are sent twice, 0 to 1.
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio)]
    repeat_ratio: f64,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text
        .parse()
        .map_err(|_| "it must be a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err("it must be from 0 to 1".to_owned())
    }
}

/// Settings of a run.
struct Run {
    url: String,
    target: Target,
    rate: u32,
    seed: u64,
    /// Whether the emulator is a worker of a pipeline, with an admin server.
    worker: bool,
}

impl Run {
    fn new(args: &Args) -> Result<Self> {
        let path = &args.worker.config;
        let file: Option<Emulator> = if args.target.is_some() && !path.exists() {
            None
        } else {
            Some(config::load(path)?)
        };
        let url = args
            .target
            .clone()
            .or_else(|| file.as_ref().map(|file| file.target.clone()));
        let url = url.context("no target: set the URL of ingest with --target")?;
        let certificate = file.as_ref().and_then(|file| file.certificate_file.clone());
        let tokens = file.as_ref().and_then(|file| file.tokens_dir.clone());
        Ok(Self {
            target: Target::new(&url, certificate, tokens)?,
            url,
            rate: args
                .rate
                .or_else(|| file.as_ref().map(|file| file.records_per_second))
                .unwrap_or(30),
            seed: args
                .seed
                .or_else(|| file.as_ref().map(|file| file.seed))
                .unwrap_or(1),
            worker: file.is_some(),
        })
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    let run = Run::new(&args)?;
    let stop = shutdown::on_signal();
    let tally = Tally::default();
    let stop_admin = CancellationToken::new();
    let admin = run
        .worker
        .then(|| tokio::spawn(serve_admin(tally.clone(), stop_admin.clone())));
    tracing::info!(
        target = run.url,
        rate = run.rate,
        seed = run.seed,
        count = args.count,
        "sending"
    );

    let start = Instant::now();
    let progress = tokio::spawn(log_progress(tally.clone(), start));
    let source = Source::new(run.seed, args.count, run.rate, args.repeat_ratio);
    send_all(source, Pace::new(run.rate), &run.target, &tally, &stop).await?;
    progress.abort();

    let report = tally.report(start.elapsed());
    println!("{}", serde_json::to_string(&report)?);
    stop_admin.cancel();
    if let Some(admin) = admin {
        admin.await??;
    }
    Ok(if report.complete(args.count) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sends all rounds over several connections, and returns when every record is settled.
async fn send_all(
    mut source: Source,
    mut pace: Pace,
    target: &Target,
    tally: &Tally,
    stop: &CancellationToken,
) -> Result<()> {
    let (batches, queue) = mpsc::channel::<Batch>(CONNECTIONS);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut sender = Sender::new(target.clone());
        let (queue, tally, stop) = (Arc::clone(&queue), tally.clone(), stop.clone());
        connections.spawn(async move {
            loop {
                let batch = queue.lock().await.recv().await;
                let Some(batch) = batch else { return };
                sender.deliver(batch, &tally, &stop).await;
            }
        });
    }
    let feed = async {
        for round in &mut source {
            pace.wait(round.iter().map(|batch| batch.records.len()).sum())
                .await;
            for batch in round {
                batches.send(batch).await?;
            }
        }
        Ok::<(), mpsc::error::SendError<Batch>>(())
    };
    tokio::select! {
        () = stop.cancelled() => {}
        result = feed => result?,
    }
    drop(batches);
    while let Some(result) = connections.join_next().await {
        result?;
    }
    Ok(())
}

async fn log_progress(tally: Tally, start: Instant) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
    loop {
        ticks.tick().await;
        let report = tally.report(start.elapsed());
        let records: u64 = report.acknowledged.values().sum();
        tracing::info!(
            acknowledged = records,
            retries = report.retries,
            refused = report.refused,
            "progress"
        );
    }
}

async fn serve_admin(tally: Tally, stop: CancellationToken) -> Result<()> {
    let mut admin = Admin::new();
    tally.register(admin.registry());
    admin.readiness().set(Ok(()));
    admin.serve(ADMIN_PORT, axum::Router::new(), stop).await
}
