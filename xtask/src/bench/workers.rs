//! The measured workers, with configurations as the operator writes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pinpipe_servers::get;
use serde_json::Value;

use super::Bench;
use super::servers::{KAFKA, POSTGRES, Running, S3, S3_FILER};

pub const INGEST: u16 = 24080;
const INGEST_ADMIN: u16 = 24081;
pub const STREAM_ADMIN: u16 = 24082;
const STREAM_CONTROL: u16 = 24083;

/// Larger than every record, bytes.
const MAX_RECORD_BYTES: u32 = 65_536;

/// The part that all configurations share; `topics` is the prefix of the topics' names.
fn common(pipeline: &str, topics: &str) -> String {
    format!(
        "configVersion: 1
pipeline: {{namespace: default, name: {pipeline}, uid: bench}}
kafka: {{bootstrapServers: '127.0.0.1:{KAFKA}'}}
topics:
  pin: {{name: {topics}.pin, deadLetter: {topics}.pin.dlq}}
  geo: {{name: {topics}.geo, deadLetter: {topics}.geo.dlq}}
  user: {{name: {topics}.user, deadLetter: {topics}.user.dlq}}
maxRecordBytes: {MAX_RECORD_BYTES}
"
    )
}

fn zone(bench: &Bench, bucket: &str) -> String {
    format!(
        "bucket: {bucket}, prefix: topics, s3: {{endpoint: 'http://127.0.0.1:{S3}', \
         region: us-east-1, credentialsDir: '{}'}}",
        bench.folder.join("s3-credentials").display()
    )
}

/// The command of a worker, with its configuration in a file.
fn worker(bench: &Bench, program: &str, name: &str, config: &str) -> Result<Command> {
    let file = bench.folder.join(format!("{name}.yaml"));
    fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
    let mut command = Command::new(bench.binaries.join(format!("pinpipe-{program}")));
    command
        .arg("--config")
        .arg(file)
        .args(["--log-format", "plain"]);
    Ok(command)
}

pub fn ingest(bench: &Bench, topics: &str) -> Result<Running> {
    ingest_with(bench, topics, None, None)
}

/// Ingest that asks for a bearer token, and assumes a container's memory limit.
pub fn ingest_with(
    bench: &Bench,
    topics: &str,
    token: Option<&str>,
    memory_bytes: Option<u64>,
) -> Result<Running> {
    let tokens = match token {
        Some(token) => {
            let folder = bench.folder.join("tokens");
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("bench"), token)?;
            format!("tokensDir: '{}'\n", folder.display())
        }
        None => String::new(),
    };
    let config = common("bench", topics) + "maxRequestBytes: 4194304\n" + &tokens;
    let mut command = worker(bench, "ingest", "ingest", &config)?;
    command.args([
        "--port",
        &INGEST.to_string(),
        "--admin-port",
        &INGEST_ADMIN.to_string(),
    ]);
    command.args(memory_bytes.map(|bytes| format!("--memory-bytes={bytes}")));
    Running::start(bench.context, "ingest", &mut command)?
        .until(|| get(INGEST_ADMIN, "/readyz").is_some())
}

/// Makes the emulator post the records of `users` users; returns how many were acknowledged.
pub fn emulate(bench: &Bench, users: u64, repeated: f64) -> Result<u64> {
    let mut emulator = Command::new(bench.binaries.join("pinpipe-emulator"));
    emulator
        .arg(format!("--target=http://127.0.0.1:{INGEST}"))
        .args(["--rate=0", "--log-format=plain"])
        .arg(format!("--count={users}"))
        .arg(format!("--repeat-ratio={repeated}"));
    let output = emulator.output().context("starting the emulator")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "the emulator ended with {}: {text}",
        output.status
    );
    let report = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .next_back();
    let report = report.context("the emulator reported nothing")?;
    let acknowledged = report["acknowledged"]
        .as_object()
        .context("the emulator's report names no records")?;
    Ok(acknowledged.values().filter_map(Value::as_u64).sum())
}

fn stream_config(name: &str, topics: &str, sink: &str) -> String {
    common("bench", topics)
        + &format!("group: bench.{name}\nwritesDeadLetters: false\nsink: {sink}\n")
}

/// The file with the configuration of a stream worker whose sink drops records.
pub fn dropping(bench: &Bench, name: &str, topics: &str) -> Result<PathBuf> {
    let file = bench.folder.join(format!("{name}.yaml"));
    let sink = "!postgres {name: unused, urlFile: unused, schema: unused, startFrom: earliest, \
                writeMode: upsert}";
    fs::write(&file, stream_config(name, topics, sink))?;
    Ok(file)
}

fn stream(bench: &Bench, name: &str, topics: &str, sink: &str) -> Result<Running> {
    let config = stream_config(name, topics, sink);
    let mut command = worker(bench, "stream", name, &config)?;
    command.args(["--admin-port", &STREAM_ADMIN.to_string(), "--pod", name]);
    command.args(["--control-port", &STREAM_CONTROL.to_string()]);
    Running::start(bench.context, name, &mut command)
}

/// A stream worker that writes live tables into its own schema.
pub fn live(bench: &Bench, name: &str, topics: &str) -> Result<Running> {
    let url = bench.folder.join("postgres-url");
    fs::write(
        &url,
        format!("postgresql://postgres@127.0.0.1:{POSTGRES}/postgres"),
    )?;
    let sink = format!(
        "!postgres {{name: {name}, urlFile: '{}', schema: {name}, startFrom: earliest, \
             writeMode: upsert}}",
        url.display()
    );
    stream(bench, name, topics, &sink)
}

/// A stream worker that writes raw objects into a bucket.
pub fn archive(bench: &Bench, name: &str, topics: &str, bucket: &str) -> Result<Running> {
    let sink = format!(
        "!archive {{zone: {{{}}}, \
             rotate: {{bytes: 67108864, records: 100000, intervalSeconds: 5}}, compression: none}}",
        zone(bench, bucket)
    );
    stream(bench, name, topics, &sink)
}

/// Records that the running stream worker has stored.
pub fn stored() -> u64 {
    let metrics = get(STREAM_ADMIN, "/metrics").unwrap_or_default();
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("pinpipe_stream_committed_records_total "));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// A batch run over the raw objects that the archive `name` wrote from `topics` into the bucket
/// `name`.
pub fn batch(
    bench: &Bench,
    pipeline: &str,
    topics: &str,
    name: &str,
    kubeconfig: &Path,
) -> Result<Command> {
    let scratch: PathBuf = bench.folder.join(format!("scratch-{pipeline}"));
    fs::create_dir_all(&scratch)?;
    let config = common(pipeline, topics)
        + &format!(
            "zone: {{{}}}
archiveGroup: bench.{name}
archiveControl: 127.0.0.1:{STREAM_CONTROL}
barrierTimeoutSeconds: 60
lease: {pipeline}
sinks: []
scratchDir: '{}'
",
            zone(bench, name),
            scratch.display()
        );
    let mut command = worker(bench, "batch", &format!("batch-{pipeline}"), &config)?;
    let outcome = bench.folder.join(format!("{pipeline}.json"));
    fs::write(&outcome, "")?;
    command
        .args(["--run", "bench", "--termination-log"])
        .arg(outcome)
        .env("KUBECONFIG", kubeconfig);
    Ok(command)
}

/// The report that a batch run printed.
pub fn outcome(bench: &Bench, pipeline: &str) -> Result<Value> {
    let file = bench.folder.join(format!("{pipeline}.json"));
    let text = fs::read_to_string(&file)?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "the run's outcome in {} is not JSON: {text}",
            file.display()
        )
    })
}

/// The report of a pipeline's last run, read from its bucket through the S3 server's filer, which
/// needs no signature.
pub fn report(bucket: &str, pipeline: &str) -> Result<Value> {
    let path = format!("/buckets/{bucket}/runs/default.{pipeline}/bench/report.json");
    let report = get(S3_FILER, &path).with_context(|| format!("no report at {path}"))?;
    serde_json::from_str(&report).context("the report is not JSON")
}
