//! `cargo xtask bench`: the workers and their alternatives, measured on this machine without a
//! cluster.
//!
//! The contenders run alternately, so that other load on the machine affects all of them. Medians
//! are printed, and nothing here passes or fails.

mod archive;
mod batch;
mod cores;
mod ingest;
mod latency;
mod limit;
mod live;
mod measure;
pub mod servers;
mod workers;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::compile;
use crate::context::Context;
use crate::step::step;
use measure::Usage;

/// What to measure, and how much of it.
#[derive(Args)]
pub struct Options {
    /// What to measure; everything unless named
    what: Vec<What>,
    /// Runs of each contender
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Records of each kind in a batch run; the streams take a tenth of them, twice
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// A folder with the workers' binaries, instead of building them in the release profile
    #[arg(long)]
    binaries: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A batch run, and the same job on `PySpark`
    Batch,
    /// A batch run over ten times as many records in the same memory
    Scale,
    /// Kafka to PostgreSQL, and the same COPY and upsert from files; a backlog; recovery after
    /// SIGKILL
    Live,
    /// Kafka to raw objects, and a consumer that drops what it reads
    Archive,
    /// Kafka into a sink that drops records, on two cores and on one
    Cores,
    /// From POST to a row in PostgreSQL
    Latency,
    /// Posts to ingest, and to `FastAPI` with aiokafka
    Ingest,
}

/// The binaries that measurements need.
const PROGRAMS: [&str; 5] = [
    "pinpipe-ingest",
    "pinpipe-stream",
    "pinpipe-batch",
    "pinpipe-emulator",
    "bench-probe",
];

/// The settings of a measurement.
pub struct Bench<'a> {
    context: &'a Context,
    /// The folder of everything that servers and workers write.
    folder: PathBuf,
    binaries: PathBuf,
    runs: usize,
    records: u64,
}

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let binaries = match &options.binaries {
        Some(folder) => {
            fs::canonicalize(folder).with_context(|| format!("{}", folder.display()))?
        }
        None => build(context)?,
    };
    let all = [
        What::Batch,
        What::Scale,
        What::Live,
        What::Archive,
        What::Cores,
        What::Latency,
        What::Ingest,
    ];
    let chosen = if options.what.is_empty() {
        &all[..]
    } else {
        &options.what
    };
    for what in chosen {
        let bench = Bench {
            context,
            folder: folder()?,
            binaries: binaries.clone(),
            runs: options.runs,
            records: options.records,
        };
        match what {
            What::Batch => batch::run(&bench),
            What::Scale => batch::scale(&bench),
            What::Live => live::run(&bench),
            What::Archive => archive::run(&bench),
            What::Cores => cores::run(&bench),
            What::Latency => latency::run(&bench),
            What::Ingest => ingest::run(&bench),
        }?;
        // It holds gigabytes.
        let _ = fs::remove_dir_all(&bench.folder);
    }
    Ok(())
}

/// Builds the workers in the release profile; returns their folder.
fn build(context: &Context) -> Result<PathBuf> {
    compile::ensure_libraries(context)?;
    step(
        context,
        "cargo build --release",
        "fix the compiler's errors",
        |log| {
            let mut cargo = context.cargo();
            cargo.args([
                "build",
                "--release",
                "--workspace",
                "--message-format",
                "json-render-diagnostics",
            ]);
            // Only these: optimising a binary takes minutes.
            cargo.args(PROGRAMS.iter().flat_map(|program| ["--bin", program]));
            cargo.args(["--example", "dropping"]);
            let messages = log.output(&mut cargo)?;
            let binary = messages.lines().find_map(|line| {
                let message: Value = serde_json::from_str(line).ok()?;
                let binary = PathBuf::from(message["executable"].as_str()?);
                (message["target"]["kind"][0] == "bin").then_some(binary)
            });
            Ok(binary
                .as_deref()
                .and_then(std::path::Path::parent)
                .context("cargo built no binaries")?
                .to_path_buf())
        },
    )
}

/// An empty folder that the user of the PostgreSQL server can open; a home folder may be closed to
/// other users.
fn folder() -> Result<PathBuf> {
    let folder = env::temp_dir().join("pinpipe-bench");
    let removed = fs::remove_dir_all(&folder);
    ensure!(
        removed.is_ok() || !folder.exists(),
        "{} can't be removed",
        folder.display()
    );
    fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Measures one run of one contender and prints its usage.
fn measure(title: &str, work: impl FnOnce() -> Result<Usage>) -> Result<Usage> {
    let usage = work().with_context(|| title.to_owned())?;
    println!(
        "   {title}: {:.2} s, {:.2} s of processors, {:.0} MiB",
        usage.seconds,
        usage.cpu,
        mebibytes(usage.peak)
    );
    Ok(usage)
}

impl Bench<'_> {
    /// The command of the measurements' own probes.
    fn probe(&self, arguments: &[&str]) -> Command {
        let mut probe = Command::new(self.binaries.join("bench-probe"));
        probe
            .arg("--kafka")
            .arg(format!("127.0.0.1:{}", servers::KAFKA))
            .args(arguments);
        probe
    }

    /// Posts records of every kind through ingest into `topics`, `passes` times the same ones;
    /// returns how many.
    fn fill(&self, topics: &str, users: u64, passes: u64, repeated: f64) -> Result<u64> {
        step(
            self.context,
            "records into Kafka",
            "the log of ingest is beside this one",
            |log| {
                log.run(&mut self.probe(&["topics", "--topics", topics]))?;
                let _ingest = workers::ingest(self, topics)?;
                (0..passes)
                    .map(|_| workers::emulate(self, users, repeated))
                    .sum()
            },
        )
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The medians of the runs' times, and the largest peak.
fn typical(usages: &[Usage]) -> Usage {
    Usage {
        seconds: measure::median(usages.iter().map(|usage| usage.seconds)),
        cpu: measure::median(usages.iter().map(|usage| usage.cpu)),
        peak: usages.iter().map(|usage| usage.peak).max().unwrap_or(0),
    }
}
