//! A backfill of a live sink: archived records of a period, cleaned by today's rules, replace what
//! the sink's tables have of them. Rows of later records stay, and so do the sink's positions.
//!
//! All of it may be repeated. A run that has finished isn't, when it is started again.

mod pending;
#[cfg(test)]
mod server_tests;
mod target;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use pinpipe_config::Batch as Config;
use pinpipe_core::Kind;
use pinpipe_lease::Held;
use pinpipe_stream::{
    postgres::{Postgres, Replayed},
    sink::SinkError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;

use self::pending::{Batch, Pending};
pub use self::target::Target;
use crate::{
    barrier,
    counts::{Counts, KindCounts},
    failure::Permanent,
    manifest::{Import, Manifest, RELEASE, RawObject, RunKind},
    plan,
    progress::{Progress, Step},
    read::{self, Lines},
    retry::{RETRY_TIMEOUT, retry},
    runs::Runs,
    set_aside,
    sink::Written,
    store::Store,
    summary::{Live, Summary, rounded},
};

/// Name of this kind of run in reports.
const KIND: &str = "liveBackfill";

/// Which records to write again, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The sink.
    pub target: Target,
    /// Start of the period, inclusive.
    pub from: DateTime<Utc>,
    /// Its end, exclusive.
    pub to: DateTime<Utc>,
}

/// The document of a run that has finished.
#[derive(Deserialize, Serialize)]
struct Done {
    /// What was asked for, as JSON.
    asked: String,
    #[serde(flatten)]
    summary: Summary,
}

/// Carries out the run `name`, or gives the summary of one of this name that has finished.
pub async fn execute(
    config: &Config,
    name: &str,
    request: &Request,
    progress: &Progress,
    held: &Held,
) -> Result<Summary> {
    let started = Instant::now();
    let (store, runs) = (
        Store::open(&config.zone).await?,
        Runs::new(&config.pipeline),
    );
    let key = runs.live_backfill(name);
    let sink = &request.target.postgres.name;
    let asked = json!({"sink": sink, "from": request.from, "to": request.to}).to_string();
    if let Some(done) = store.find_json::<Done>(&key).await? {
        ensure!(
            done.asked == asked,
            Permanent(format!(
                "nothing was written: there is a run {name} with other values; choose another name"
            ))
        );
        info!(run = name, "the run has already finished");
        return Ok(done.summary);
    }
    let replay = Replay {
        config,
        store: &store,
        sink: Postgres::new(
            request.target.postgres.clone(),
            format!("{}.backfill", request.target.group),
        ),
        name: sink,
        progress,
        held,
    };
    let manifest = replay.plan(name, request).await?;
    let mut summary = Summary {
        kind: Some(KIND.to_owned()),
        report: Some(store.uri(&key)),
        ..Summary::empty(name)
    };
    let mut live = Live {
        sink: sink.clone(),
        rows: 0,
        set_aside: BTreeMap::new(),
    };
    progress.step(Step::Load);
    for kind in Kind::ALL {
        let done = replay.kind(kind, &manifest).await?;
        let counts = KindCounts {
            refused: done.records.refused.number(),
            ..KindCounts::new(kind, &done.counts)
        };
        summary.add(counts);
        live.rows += done.rows;
        let rows = set_aside::set_aside(config, &store, sink, kind, &done.records.refused).await?;
        if rows > 0 {
            let topic = &read::topic(&config.topics, kind).dead_letter;
            live.set_aside.insert(topic.clone(), rows);
        }
    }
    progress.step(Step::Publish);
    summary.live = Some(live);
    summary.seconds = rounded(started.elapsed().as_secs_f64());
    held.check()?;
    let done = Done { asked, summary };
    store.put_json(&key, &done).await?;
    let Summary {
        run, read, clean, ..
    } = &done.summary;
    info!(run, sink, read, clean, "the live sink is backfilled");
    Ok(done.summary)
}

struct Replay<'a> {
    config: &'a Config,
    store: &'a Store,
    sink: Postgres,
    /// The sink's name.
    name: &'a str,
    progress: &'a Progress,
    held: &'a Held,
}

/// What became of records.
#[derive(Default)]
struct Outcome {
    counts: Counts,
    /// Clean records, taken or refused.
    records: Written,
    /// Rows written to the table.
    rows: u64,
}

impl Replay<'_> {
    /// What to read: all that is in the topics now, as far as it is of the period.
    async fn plan(&self, run: &str, request: &Request) -> Result<Manifest> {
        let ends = barrier::wait(self.config).await?;
        let (from, to) = (request.from, request.to);
        let mut manifest = Manifest {
            run: run.to_owned(),
            run_time: Utc::now(),
            release: RELEASE.to_owned(),
            kind: RunKind::Backfill { from, to },
            state: None,
            state_id: String::new(),
            buckets: 0,
            from: BTreeMap::new(),
            to: ends,
            begin: BTreeMap::new(),
            covered: BTreeMap::new(),
            import: Import::default(),
            objects: Vec::new(),
        };
        let topics = &self.config.topics;
        let (objects, _) = plan::archived_objects(self.store, topics, &manifest, None).await?;
        manifest.objects = objects.into_iter().map(|(object, _)| object).collect();
        info!(
            run,
            sink = self.name,
            objects = manifest.objects.len(),
            "run planned"
        );
        Ok(manifest)
    }

    async fn kind(&self, kind: Kind, manifest: &Manifest) -> Result<Outcome> {
        let mut all = Outcome::default();
        let objects = manifest.objects.iter();
        for object in objects.filter(|object| object.kind == kind) {
            let what = "writing the records of a raw object";
            let done = retry(RETRY_TIMEOUT, what, || self.object(object, manifest)).await;
            let done = done.with_context(|| object.key.clone())?;
            self.progress.read(done.counts.read);
            all.counts += &done.counts;
            all.rows += done.rows;
            all.records.add(done.records)?;
        }
        Ok(all)
    }

    async fn object(&self, object: &RawObject, manifest: &Manifest) -> Result<Outcome> {
        let topic = &read::topic(&self.config.topics, object.kind).name;
        let window = manifest.window(topic, object.partition);
        let max_bytes = usize::try_from(self.config.max_record_bytes)?;
        let pending = Pending::new(object.kind, max_bytes);
        let mut lines = Lines::open(self.store, object, &window, pending).await?;
        let mut done = Outcome::default();
        while lines.read().await? {
            if lines.records().is_full() {
                self.write(object.kind, lines.records().take(), &mut done)
                    .await?;
            }
        }
        let mut pending = lines.finish()?;
        self.write(object.kind, pending.take(), &mut done).await?;
        done.counts = pending.counts;
        Ok(done)
    }

    /// Writes a batch. Where the server refuses it, smaller and smaller ones are tried, until it is
    /// known which records it refuses.
    async fn write(&self, kind: Kind, batch: Batch, done: &mut Outcome) -> Result<()> {
        let mut left = vec![batch];
        while let Some(batch) = left.pop() {
            self.held.check()?;
            let mut written = Written::default();
            match self.sink.replay(kind, &batch.rows).await.map_err(failure)? {
                Replayed::Written(rows) => {
                    done.rows += rows;
                    written.rows = batch.records() as u64;
                }
                Replayed::Refused(reason) => match batch.split() {
                    Some((first, second)) => left.extend([second, first]),
                    None => batch
                        .refused(&reason)
                        .for_each(|row| written.refused.push(row)),
                },
            }
            done.records.add(written)?;
        }
        Ok(())
    }
}

/// What a failure of the sink means for the run.
fn failure(error: SinkError) -> anyhow::Error {
    match error {
        SinkError::Unavailable(error) => error,
        SinkError::Halt(halt) => Permanent(halt.to_string()).into(),
    }
}
