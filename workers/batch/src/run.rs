//! One run: barrier, manifest, clean tables, answers, report.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use arrow::{array::RecordBatch, datatypes::Schema};
use chrono::{DateTime, Utc};
use pinpipe_config::{Batch, BatchSink};
use pinpipe_core::{Kind, columns::key};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    answers::{self, Answer},
    barrier,
    cassandra::Serving,
    columns,
    counts::Counts,
    latest::latest,
    lease::{self, Held},
    manifest::{self, Manifest, Positions, Runs, Step},
    read::{self, Read},
    report::{self, KindReport, Phases, Summary},
    store::Store,
    table::Table,
};

/// The latest row of each key, per kind.
type Tables = BTreeMap<Kind, Vec<RecordBatch>>;

/// Does what the run `name` asks for while holding the Lease, runs that died first. Ends early, with nothing published, when `stop`
/// is cancelled or the Lease is lost.
pub async fn execute(config: &Batch, name: &str, stop: &CancellationToken) -> Result<Summary> {
    manifest::check_name(name)?;
    let held = tokio::select! {
        held = take_lease(config) => held?,
        () = stop.cancelled() => bail!("stopped before it began"),
    };
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped in mid-run, nothing was published: the next run takes this one up")),
        error = held.lost() => Err(error.into()),
        result = under_lease(config, name, &held) => result,
    };
    held.release().await;
    result
}

async fn take_lease(config: &Batch) -> Result<Held> {
    let client =
        kube::Client::try_default().await.context("no access to the Kubernetes API, which keeps the run's Lease")?;
    let api = kube::Api::namespaced(client, &config.pipeline.namespace);
    let host = tokio::fs::read_to_string("/proc/sys/kernel/hostname").await.unwrap_or_default();
    // A container restarted in its pod has the same name and number: its predecessor is gone, and it need not wait.
    let identity = format!("{}_{}", host.trim(), std::process::id());
    Ok(lease::acquire(api, &config.lease, &identity).await?)
}

async fn under_lease(config: &Batch, name: &str, held: &Held) -> Result<Summary> {
    let store = Store::open(&config.zone).await?;
    let runs = Runs::new(&config.pipeline);
    let known = runs.list(&store).await?;
    let mut last = runs.last_done(&store, &known).await?;
    let mut summary = None;
    for step in manifest::steps(&known, name) {
        let mut phases = Phases::begin();
        let manifest = match step {
            Step::Finish(run) => {
                info!(run, "taking up a run that died, from its manifest");
                runs.read(&store, &run).await?
            }
            Step::Begin(run) => {
                let to = phases.time("barrier", barrier::wait(config)).await?;
                phases.time("manifest", begin(config, &store, &runs, run, to, last)).await?
            }
        };
        last = Some(manifest.run_time);
        summary = Some(finish(config, &store, &runs, &manifest, phases, held).await?);
    }
    if let Some(summary) = summary {
        return Ok(summary);
    }
    info!(run = name, "this run is done already");
    store.get_json(&runs.report(name)).await
}

/// Fixes what the run covers.
async fn begin(
    config: &Batch,
    store: &Store,
    runs: &Runs,
    run: String,
    to: Positions,
    last: Option<DateTime<Utc>>,
) -> Result<Manifest> {
    let objects = read::objects(store, &config.topics, &to).await?;
    // Every run reads everything there is.
    let from = |partitions: &BTreeMap<i32, i64>| partitions.keys().map(|partition| (*partition, 0)).collect();
    let from = to.iter().map(|(topic, partitions)| (topic.clone(), from(partitions))).collect();
    let manifest = Manifest { run, run_time: manifest::run_time(Utc::now(), last), from, to, objects };
    let manifest = runs.begin(store, manifest).await?;
    info!(run = manifest.run, run_time = %manifest.run_time, objects = manifest.objects.len(), "the run is fixed");
    Ok(manifest)
}

/// Everything from the manifest on. Done twice, it gives the same rows.
async fn finish(
    config: &Batch,
    store: &Store,
    runs: &Runs,
    manifest: &Manifest,
    mut phases: Phases,
    held: &Held,
) -> Result<Summary> {
    let reading = read::read(store, &config.topics, config.max_record_bytes, manifest);
    let read = phases.time("read and clean", reading).await?;
    let counts: BTreeMap<Kind, Counts> = read.iter().map(|(kind, read)| (*kind, read.counts.clone())).collect();
    // A long computation, kept off the threads that renew the Lease.
    let selecting = async { tokio::task::spawn_blocking(move || latest_of_all(read)).await? };
    let tables = phases.time("latest per key", selecting).await?;
    let answers = phases.time("questions", answers::ask(&tables)).await?;
    for sink in &config.sinks {
        phases
            .time("load", load(sink, manifest, &tables, &answers))
            .await
            .with_context(|| format!("sink {}", sink.name))?;
    }
    let keys = |kind: Kind| tables.get(&kind).into_iter().flatten().map(|batch| batch.num_rows() as u64).sum();
    let kinds = counts.into_iter().map(|(kind, counts)| (kind, KindReport { keys: keys(kind), counts })).collect();
    let report = report::report(manifest, kinds, &answers, &phases)?;
    held.check()?;
    store.put_json(&runs.report(&manifest.run), &report).await?;
    held.check()?;
    runs.point_to(store, manifest).await?;
    let Summary { run, read, clean, repaired, rejected, seconds, .. } = &report.summary;
    info!(run, read, clean, repaired, rejected, seconds, "the run is done and published");
    Ok(report.summary)
}

fn latest_of_all(read: BTreeMap<Kind, Read>) -> Result<Tables> {
    read.into_iter().map(|(kind, read)| Ok((kind, latest(kind, &read.chunks)?))).collect()
}

/// The table of a kind's clean rows.
const fn clean_table(kind: Kind) -> &'static str {
    match kind {
        Kind::Pin => "pinterest_batch",
        Kind::Geo => "geo_batch",
        Kind::User => "user_batch",
    }
}

/// Writes clean tables and answers to one sink.
async fn load(sink: &BatchSink, manifest: &Manifest, tables: &Tables, answers: &[Answer]) -> Result<()> {
    let serving = Serving::connect(&sink.cassandra).await?;
    let table = |name: &str, schema: &Schema, key: &[&str]| Table::new(serving.keyspace(), name, schema, key);
    let mut clean = Vec::new();
    for (kind, batches) in tables {
        clean.push((table(clean_table(*kind), &columns::schema(*kind), &[key(*kind)])?, batches));
    }
    let mut answered = Vec::new();
    for Answer { question, rows } in answers {
        answered.push((table(question.name, &rows.schema(), question.key)?, rows));
    }
    let all: Vec<Table> =
        clean.iter().map(|(table, _)| table.clone()).chain(answered.iter().map(|(table, _)| table.clone())).collect();
    serving.make_tables(&all).await?;
    for (table, batches) in clean {
        let rows = serving.write(&table, batches, manifest.run_time).await?;
        info!(sink = sink.name, table = table.name, rows, "table written");
    }
    for (table, rows) in answered {
        let written = serving.write(&table, std::slice::from_ref(rows), manifest.run_time).await?;
        let vanished = serving.delete_vanished(&table, manifest.run_time).await?;
        info!(sink = sink.name, table = table.name, rows = written, vanished, "answer written");
    }
    Ok(())
}
