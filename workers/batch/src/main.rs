//! The batch worker: one run from the raw objects to clean tables and the answers to the eight questions.
//!
//! Started by the pod of a Job, it holds the pipeline's Lease, waits until the archive has everything, fixes what the run covers in a
//! manifest, and from there on does work that can be repeated: a run that dies anywhere is finished by the next one, with the same
//! rows. What it publishes, the report and the pointer to the last run, comes last.

mod answers;
mod barrier;
mod cassandra;
mod cells;
mod columns;
mod counts;
mod latest;
mod lease;
mod manifest;
mod read;
mod redrive;
mod report;
mod retry;
mod run;
mod store;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::Utc;
use clap::{Parser, Subcommand};
use pinpipe_config::Batch;
use pinpipe_runtime::{cli::WorkerArgs, config, shutdown, telemetry};
use report::Summary;
use tracing::{error, warn};

/// How long requests under way may hold up the end.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Works over the raw objects of a pipeline: a batch run, unless a command says otherwise.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,

    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one batch: what happens without a command, too.
    Run(RunArgs),
    /// Puts dead letters back into the pipeline, each once.
    Redrive(redrive::Args),
}

/// What one run is told.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The run's name. A name that was used before takes that run up again, or finds it done. Unless set: the time.
    #[arg(long, env = "PINPIPE_RUN", value_name = "NAME")]
    run: Option<String>,

    /// Where the outcome goes, as JSON, when the file is there: Kubernetes makes it for the pod's status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    match args.command {
        None => run_batch(&args.worker, args.run),
        Some(Command::Run(run)) => run_batch(&args.worker, run),
        Some(Command::Redrive(redrive)) => redrive::run(&args.worker, &redrive),
    }
}

fn run_batch(worker: &WorkerArgs, args: RunArgs) -> ExitCode {
    let begun = Instant::now();
    let named = args.run.filter(|run| !run.is_empty());
    let run = named.unwrap_or_else(|| Utc::now().format("%Y%m%dT%H%M%SZ").to_string());
    let (summary, code) = match work(&worker.config, &run) {
        Ok(summary) => (summary, ExitCode::SUCCESS),
        Err(problem) => {
            let message = format!("{problem:#}");
            error!(run, "{message}");
            (Summary::failed(&run, begun.elapsed().as_secs_f64(), &message), ExitCode::FAILURE)
        }
    };
    if args.termination_log.exists()
        && let Err(problem) = std::fs::write(&args.termination_log, summary.termination_message())
    {
        warn!(%problem, "the termination message could not be written");
    }
    code
}

fn work(path: &Path, run: &str) -> Result<Summary> {
    let config: Batch = config::load(path)?;
    // Two threads at least: on one, a long step of the work would keep the Lease from being renewed.
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = shutdown::on_signal();
        run::execute(&config, run, &stop).await
    });
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}
