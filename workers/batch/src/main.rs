//! The batch worker: one run from the raw objects to clean tables and the answers to the eight
//! questions.
//!
//! Started by the pod of a Job, it holds the pipeline's Lease, waits until the archive has
//! everything, fixes what the run covers in a manifest, and from there on does work that can be
//! repeated: a run that dies anywhere is finished by the next one, with the same rows. What it
//! publishes, the report and the pointer to the last run, comes last.

mod answers;
mod barrier;
mod cassandra;
mod cells;
mod columns;
mod counts;
mod decode;
mod facts;
mod fold;
mod load;
mod manifest;
mod memory;
mod merge;
mod plan;
mod quality;
mod read;
mod redrive;
mod report;
mod retry;
mod rows;
mod run;
mod scratch;
mod spill;
mod state;
mod store;
mod table;
#[cfg(test)]
mod testing;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use counts::Counts;
use pinpipe_config::Batch;
use pinpipe_core::Kind;
use pinpipe_runtime::{cli::WorkerArgs, config, malloc, shutdown, telemetry};
use plan::Request;
use quality::Unfit;
use report::Summary;
use tracing::{error, warn};

/// How long requests under way may hold up the end.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// Behind every record.
const END_OF_TIME: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(time) => time,
    None => DateTime::UNIX_EPOCH,
};

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
    /// The run's name. A name that was used before takes that run up again, or finds it done.
    /// Unless set: the time.
    #[arg(long, env = "PINPIPE_RUN", value_name = "NAME")]
    run: Option<String>,

    /// Reads everything anew instead of what no run has read yet. State that earlier runs have kept
    /// is left aside.
    #[arg(long, env = "PINPIPE_FULL", conflicts_with_all = ["from", "to", "import", "import_events"])]
    full: bool,

    /// Reads the records once more that came to Kafka from this moment on (RFC 3339), to clean them
    /// by today's rules. Left out: from the first one on.
    #[arg(long, env = "PINPIPE_FROM", value_name = "TIME", conflicts_with_all = ["import", "import_events"])]
    from: Option<DateTime<Utc>>,

    /// The first moment behind them. Left out: to the last one that was read.
    #[arg(long, env = "PINPIPE_TO", value_name = "TIME", conflicts_with_all = ["import", "import_events"])]
    to: Option<DateTime<Utc>>,

    /// Reads an S3 sink connector's objects, plain or compressed:
    /// PREFIX/<topic>/partition=<p>/<topic>+<p>+<first offset>.json[.gz].
    #[arg(long, env = "PINPIPE_IMPORT", value_name = "PREFIX")]
    import: Option<String>,

    /// Reads objects below PREFIX that are one JSON record each, several separated by commas:
    /// pin=events/pin,geo=events/geo.
    #[arg(long, env = "PINPIPE_IMPORT_EVENTS", value_name = "KIND=PREFIX", value_delimiter = ',', value_parser = kind_and_prefix)]
    import_events: Vec<(Kind, String)>,

    /// Where the outcome goes, as JSON, when the file is there: Kubernetes makes it for the pod's
    /// status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

fn kind_and_prefix(text: &str) -> Result<(Kind, String)> {
    let (kind, prefix) = text
        .split_once('=')
        .context("write KIND=PREFIX, such as pin=events/pin")?;
    Ok((kind.parse()?, prefix.to_owned()))
}

impl RunArgs {
    fn request(&self) -> Result<Request> {
        let (from, to) = (
            self.from.unwrap_or(DateTime::UNIX_EPOCH),
            self.to.unwrap_or(END_OF_TIME),
        );
        Ok(match (self.full, self.from, self.to) {
            (true, ..) => Request::Full,
            (_, None, None) => {
                match (
                    self.import.clone().filter(|prefix| !prefix.is_empty()),
                    self.import_events.clone(),
                ) {
                    (None, single) if single.is_empty() => Request::Incremental,
                    (connector, single) => Request::Import { connector, single },
                }
            }
            _ if from < to => Request::Backfill { from, to },
            _ => bail!("--from {from} is not before --to {to}"),
        })
    }
}

fn main() -> ExitCode {
    malloc::give_back();
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    match args.command {
        None => run_batch(&args.worker, &args.run),
        Some(Command::Run(run)) => run_batch(&args.worker, &run),
        Some(Command::Redrive(redrive)) => redrive::run(&args.worker, &redrive),
    }
}

fn run_batch(worker: &WorkerArgs, args: &RunArgs) -> ExitCode {
    let begun = Instant::now();
    let named = args.run.clone().filter(|run| !run.is_empty());
    let run = named.unwrap_or_else(|| Utc::now().format("%Y%m%dT%H%M%SZ").to_string());
    let result = args
        .request()
        .and_then(|request| work(&worker.config, &run, &request));
    let (summary, code) = match result {
        Ok(summary) => (summary, ExitCode::SUCCESS),
        Err(problem) => {
            let message = format!("{problem:#}");
            error!(run, "{message}");
            let none = Counts::default();
            let counts = problem
                .downcast_ref::<Unfit>()
                .map_or(&none, |unfit| &unfit.counts);
            (
                Summary::failed(&run, begun.elapsed().as_secs_f64(), counts, &message),
                ExitCode::FAILURE,
            )
        }
    };
    if args.termination_log.exists()
        && let Err(problem) = std::fs::write(&args.termination_log, summary.termination_message())
    {
        warn!(%problem, "the termination message could not be written");
    }
    code
}

fn work(path: &Path, run: &str, request: &Request) -> Result<Summary> {
    let config: Batch = config::load(path)?;
    // Two threads at least: on one, a long step of the work would keep the Lease from being
    // renewed.
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let stop = shutdown::on_signal();
        run::execute(&config, run, request, &stop).await
    });
    runtime.shutdown_timeout(END_TIMEOUT);
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
    fn options_say_what_a_run_reads() {
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
            (
                &["--import", "old"],
                Request::Import {
                    connector: Some("old".into()),
                    single: Vec::new(),
                },
            ),
            (
                &["--import-events", "pin=a/b,geo=c"],
                Request::Import {
                    connector: None,
                    single: vec![(Kind::Pin, "a/b".into()), (Kind::Geo, "c".into())],
                },
            ),
        ] {
            assert_eq!(request(options).unwrap(), expected, "{options:?}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for options in [
            &["--full", "--from", "2026-01-01T00:00:00Z"][..],
            &["--full", "--import", "x"],
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
            assert!(request(options).is_err(), "{options:?}");
        }
    }
}
