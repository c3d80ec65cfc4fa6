//! The batch worker: one run from the raw objects to clean tables and the answers to the eight
//! questions.
//!
//! It runs in the pod of a Job and holds the pipeline's Lease. It waits until the archive has
//! written everything in the topics, records in a manifest what the run covers, and then does only
//! idempotent work: the next run completes one that died, with the same rows. The report and the
//! pointer to the last run are written last.

mod answers;
mod barrier;
mod cassandra;
mod cells;
mod columns;
mod counts;
mod coverage;
mod dead_letters;
mod decode;
mod failure;
mod fold;
mod import_args;
mod inspect;
mod join;
mod load;
mod loaded;
mod manifest;
mod memory;
mod merge;
mod output;
mod plan;
mod postgres;
mod progress;
mod quality;
mod query;
mod read;
mod redrive;
mod refused;
mod replay;
mod report;
mod retry;
mod rows;
mod run;
mod runs;
mod scratch;
mod set_aside;
mod sink;
mod sort;
mod source;
mod spill;
mod split;
mod state;
mod store;
mod summary;
mod termination;
#[cfg(test)]
mod testing;
mod turn;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use failure::Permanent;
use import_args::ImportArgs;
use pinpipe_config::{Batch, Pipeline};
use pinpipe_runtime::{cli::WorkerArgs, config, malloc, shutdown, telemetry};
use plan::Request;
use replay::Target;
use summary::Summary;
use tracing::error;
use turn::Work;

/// How long requests in progress may delay the end of the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// Later than the timestamp of any record: 9999-12-31T23:59:59Z.
const END_OF_TIME: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(time) => time,
    None => DateTime::UNIX_EPOCH,
};

/// Processes the raw objects of a pipeline. Without a command it executes a batch run.
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

#[derive(Debug, Subcommand)]
enum Command {
    /// Executes one batch run, which is also the default.
    Run(RunArgs),
    /// Writes dead letters back to their topics, each once.
    Redrive(redrive::Args),
    /// Reads the pipeline's data where it lies, and changes nothing.
    Inspect(inspect::Args),
}

/// Options of a batch run.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The run's name; the current time unless set. The name of an earlier run resumes that run, or
    /// does nothing if it has finished. An import fails if that run had other values.
    #[arg(long, env = "PINPIPE_RUN", value_name = "NAME")]
    run: Option<String>,

    /// Reads all records instead of those that no run has read yet, and ignores the state of
    /// earlier runs.
    #[arg(
        long,
        env = "PINPIPE_FULL",
        conflicts_with_all = ["from", "to", "ImportArgs"]
    )]
    full: bool,

    /// Reads records again whose Kafka timestamp is not before TIME (RFC 3339), to clean them by
    /// the current rules. Without it: from the first record on.
    #[arg(
        long,
        env = "PINPIPE_FROM",
        value_name = "TIME",
        conflicts_with = "ImportArgs"
    )]
    from: Option<DateTime<Utc>>,

    /// Reads records again whose Kafka timestamp is before TIME (RFC 3339). Without it: up to the
    /// last record that was read.
    #[arg(
        long,
        env = "PINPIPE_TO",
        value_name = "TIME",
        conflicts_with = "ImportArgs"
    )]
    to: Option<DateTime<Utc>>,

    #[command(flatten)]
    import: ImportArgs,

    /// Writes these records into the live tables of this sink of the stream instead, which must be
    /// in PostgreSQL and have writeMode Upsert.
    #[arg(
        long,
        env = "PINPIPE_BACKFILL_SINK",
        value_name = "NAME",
        conflicts_with_all = ["full", "ImportArgs"]
    )]
    sink: Option<String>,

    /// The configuration of that sink's stream worker.
    #[arg(long, env = "PINPIPE_LIVE_CONFIG", value_name = "PATH")]
    live_config: Option<PathBuf>,

    /// The `ConfigMap` in the pipeline's namespace into which the run writes how far it is and, at
    /// its end, its report and the answers.
    #[arg(long, env = "PINPIPE_OUTPUT", value_name = "NAME")]
    output: Option<String>,

    /// File for the outcome as JSON, written only if it exists: Kubernetes creates it and copies
    /// its content to the pod's status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

impl RunArgs {
    fn output(&self) -> Option<&str> {
        self.output.as_deref().filter(|name| !name.is_empty())
    }

    fn work(&self, pipeline: &Pipeline) -> Result<Work> {
        let Some(sink) = self.sink.as_ref().filter(|sink| !sink.is_empty()) else {
            return Ok(Work::Batch(self.request()?));
        };
        let Some(path) = &self.live_config else {
            bail!(Permanent(format!(
                "--live-config is missing: it is the configuration of the stream worker of {sink}"
            )));
        };
        let (from, to) = self.period()?;
        let target = Target::read(path, sink, pipeline)?;
        Ok(Work::Live(replay::Request { target, from, to }))
    }

    fn request(&self) -> Result<Request> {
        Ok(match (self.full, self.from, self.to) {
            (true, ..) => Request::Full,
            (_, None, None) => self
                .import
                .request()?
                .map_or(Request::Incremental, Request::Import),
            _ => {
                let (from, to) = self.period()?;
                Request::Backfill { from, to }
            }
        })
    }

    /// The period of a backfill, without its end.
    fn period(&self) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
        let (from, to) = (
            self.from.unwrap_or(DateTime::UNIX_EPOCH),
            self.to.unwrap_or(END_OF_TIME),
        );
        ensure!(
            from < to,
            Permanent(format!("--from {from} is not before --to {to}"))
        );
        Ok((from, to))
    }
}

fn main() -> ExitCode {
    malloc::return_freed_memory();
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    match args.command {
        None => run_batch(&args.worker, &args.run),
        Some(Command::Run(run)) => run_batch(&args.worker, &run),
        Some(Command::Redrive(redrive)) => redrive::run(&args.worker, &redrive),
        Some(Command::Inspect(inspect)) => inspect::run(&inspect),
    }
}

fn run_batch(worker: &WorkerArgs, args: &RunArgs) -> ExitCode {
    let started = Instant::now();
    let name = args.run.clone().filter(|run| !run.is_empty());
    let run = name.unwrap_or_else(|| Utc::now().format("%Y%m%dT%H%M%SZ").to_string());
    let result = execute(&worker.config, &run, args);
    let (summary, code) = match result {
        Ok(summary) => (summary, ExitCode::SUCCESS),
        Err(error) => {
            error!(run, "{error:#}");
            (
                Summary::of_failure(&run, started.elapsed().as_secs_f64(), &error),
                failure::exit_code(&error).into(),
            )
        }
    };
    termination::write(&args.termination_log, &summary.termination_message());
    code
}

fn load_config(path: &Path) -> Result<Batch> {
    config::load(path).map_err(|error| Permanent::from(error).into())
}

fn execute(path: &Path, run: &str, args: &RunArgs) -> Result<Summary> {
    let config = load_config(path)?;
    let work = args.work(&config.pipeline)?;
    // At least two threads: on a single one, a long computation would keep the Lease from being
    // renewed.
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let stop = shutdown::on_signal();
        let client = turn::client(&config).await?;
        turn::execute(&config, client, run, &work, args.output(), &stop).await
    });
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[&str]) -> Result<Request> {
        Args::try_parse_from(["pinpipe-batch"].iter().chain(options))?
            .run
            .request()
    }

    #[test]
    fn options_select_what_a_run_reads() {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let first = "2026-01-01T00:00:00Z";
        let last = "2026-02-01T00:00:00+01:00";
        for (options, expected) in [
            (&[][..], Request::Incremental),
            (&["--full"], Request::Full),
            (
                &["--from", first, "--to", last],
                Request::Backfill {
                    from: time(first),
                    to: time(last),
                },
            ),
            (
                &["--from", first],
                Request::Backfill {
                    from: time(first),
                    to: END_OF_TIME,
                },
            ),
            (
                &["--to", first],
                Request::Backfill {
                    from: DateTime::UNIX_EPOCH,
                    to: time(first),
                },
            ),
        ] {
            assert_eq!(request(options).unwrap(), expected, "{options:?}");
        }
    }

    #[test]
    fn refused_options_exit_with_the_permanent_code() {
        for options in [
            &["--full", "--from", "2026-01-01T00:00:00Z"][..],
            &["--full", "--import", "x"],
            &["--full", "--sink", "live"],
            &["--sink", "live", "--import", "x"],
            &["--to", "2026-01-01T00:00:00Z", "--import", "x"],
            &[
                "--from",
                "2026-01-02T00:00:00Z",
                "--to",
                "2026-01-01T00:00:00Z",
            ],
            &["--from", "yesterday"],
            &["--import-events", "pins=a"],
            &["--import-events", "events"],
        ] {
            let error = request(options).unwrap_err();
            let code = match error.downcast_ref::<clap::Error>() {
                Some(error) => u8::try_from(error.exit_code()).unwrap(),
                None => failure::exit_code(&error),
            };
            assert_eq!(code, pinpipe_config::EXIT_PERMANENT_FAILURE, "{options:?}");
        }
    }

    #[test]
    fn a_configuration_that_cannot_be_read_exits_with_the_permanent_code() {
        let error = load_config(Path::new("/nonexistent/config.yaml")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/config.yaml"));
        assert_eq!(
            failure::exit_code(&error),
            pinpipe_config::EXIT_PERMANENT_FAILURE
        );
    }
}
