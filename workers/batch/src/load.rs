//! Loading a run's rows and answers into the sinks.

use std::{collections::BTreeMap, fmt::Write as _, pin::pin, time::Duration};

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use pinpipe_config::{Batch, BatchSink};
use pinpipe_core::{Kind, columns::key};
use serde::Serialize;
use tracing::{info, warn};

use crate::{
    answers::Answer,
    cassandra::CassandraSink,
    columns,
    failure::Permanent,
    loaded::Loaded,
    postgres::PostgresSink,
    read::topic,
    refused::{LISTED, Refused, RefusedRows},
    retry::{RETRY_TIMEOUT, Retry},
    scratch::{self, Scratch, Stream},
    set_aside,
    sink::{Extent, Interrupted, Marker, Rows, Sink, SinkTable, Written, extent},
    state::State,
    store::Store,
};

/// Interval at which a load is kept from timing out.
const KEEP_OPEN_EVERY: Duration = Duration::from_secs(20);

/// Connects to a sink.
pub async fn connect(sink: &BatchSink) -> Result<Box<dyn Sink>> {
    match (&sink.cassandra, &sink.postgres) {
        (Some(cassandra), None) => Ok(Box::new(CassandraSink::connect(cassandra).await?)),
        (None, Some(postgres)) => Ok(Box::new(PostgresSink::new(postgres.clone()))),
        _ => bail!(Permanent(
            "it must hold exactly one of cassandra and postgres".to_owned()
        )),
    }
}

/// Name of the table with a kind's clean rows.
pub const fn clean_table(kind: Kind) -> &'static str {
    match kind {
        Kind::Pin => "pinterest_batch",
        Kind::Geo => "geo_batch",
        Kind::User => "user_batch",
    }
}

/// What a sink got.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkReport {
    /// Which clean rows the sink got.
    pub loaded: Extent,
    /// Why these.
    pub because: String,
    /// Rows written, of clean tables and answers.
    pub rows: u64,
    /// Rows deleted that the run doesn't have.
    pub deleted: u64,
    /// Rows that the server refuses for good. Of these, the sink keeps the earlier version, if it
    /// got changes alone, and nothing if it got all rows.
    pub refused: u64,
    /// How many of them are clean rows, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_by_kind: BTreeMap<Kind, u64>,
    /// The first of these rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused_rows: Vec<Refused>,
    /// How many of them are in the dead letters, by topic.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_aside: BTreeMap<String, u64>,
}

impl SinkReport {
    fn add(&mut self, written: &Written, deleted: u64) {
        self.rows += written.rows;
        self.deleted += deleted;
        self.refused += written.refused.number();
        let free = LISTED.saturating_sub(self.refused_rows.len());
        self.refused_rows
            .extend(written.refused.first().iter().take(free).cloned());
    }
}

/// What each sink got, as the termination message has it.
pub fn loaded(sinks: &BTreeMap<String, SinkReport>) -> BTreeMap<String, Loaded> {
    let loaded = sinks.iter().map(|(name, sink)| {
        let loaded = Loaded {
            rows: sink.rows,
            refused: sink.refused,
            failed: false,
        };
        (name.clone(), loaded)
    });
    loaded.collect()
}

/// How many rows each sink has refused, and where they were set aside.
pub fn refused(sinks: &BTreeMap<String, SinkReport>) -> String {
    let mut text = String::new();
    for (name, sink) in sinks.iter().filter(|(_, sink)| sink.refused > 0) {
        // Writing to a String does not fail.
        let _ = write!(text, "\nsink {name}: {} rows refused", sink.refused);
        for (topic, rows) in &sink.set_aside {
            let _ = write!(text, ", {rows} set aside in {topic}");
        }
        text.push_str("; they are in report.json\n");
    }
    text
}

/// The result of a run, for all sinks.
pub struct Loading<'a> {
    /// The configuration.
    pub config: &'a Batch,
    /// The bucket with the state's objects.
    pub store: &'a Store,
    /// The folder for downloads.
    pub scratch: &'a Scratch,
    /// The run's state.
    pub state: &'a State,
    /// The run's marker.
    pub marker: Marker,
    /// The time of the run it builds on; `None` for a run that starts empty.
    pub base: Option<DateTime<Utc>>,
    /// Whether a worker of another release has begun the run, or an import was abandoned before it.
    pub is_attempt: bool,
    /// Rows that the run has changed.
    pub changed: &'a BTreeMap<Kind, Vec<Stream>>,
    /// All answers.
    pub answers: &'a [Answer],
}

impl Loading<'_> {
    /// Writes the clean rows that the sink lacks and all answers to one sink, again from the
    /// beginning if that is [`Interrupted`]. `pipeline` claims it.
    pub async fn load(&self, name: &str, pipeline: &str, sink: &dyn Sink) -> Result<SinkReport> {
        let mut retry = Retry::new(RETRY_TIMEOUT);
        loop {
            let error = match self.attempt(name, pipeline, sink).await {
                Err(error) if error.is::<Interrupted>() => error,
                loaded => return loaded,
            };
            let (delay, error) = retry.delay(error)?;
            warn!(
                sink = name,
                error = format!("{error:#}"),
                "the load was interrupted, repeating it"
            );
            tokio::time::sleep(delay).await;
        }
    }

    async fn attempt(&self, name: &str, pipeline: &str, sink: &dyn Sink) -> Result<SinkReport> {
        let clean = Kind::ALL.map(|kind| SinkTable {
            name: clean_table(kind),
            schema: columns::schema(kind),
            key: vec![key(kind)],
        });
        let answered = self.answers.iter().map(|answer| SinkTable {
            name: answer.question.name,
            schema: answer.rows.schema(),
            key: answer.question.key.to_vec(),
        });
        let tables: Vec<SinkTable> = clean.into_iter().chain(answered).collect();
        let (clean, answered) = tables.split_at(Kind::ALL.len());
        let found = sink.prepare(pipeline, &tables).await?;
        let (base, is_attempt, is_atomic) = (self.base, self.is_attempt, sink.is_atomic());
        let (extent, because) = extent(found.as_ref(), &self.marker, base, is_attempt, is_atomic)?;
        info!(sink = name, loaded = ?extent, because, "loading");
        let mut report = SinkReport {
            loaded: extent,
            because,
            rows: 0,
            deleted: 0,
            refused: 0,
            refused_by_kind: BTreeMap::new(),
            refused_rows: Vec::new(),
            set_aside: BTreeMap::new(),
        };
        if extent == Extent::Nothing {
            return Ok(report);
        }
        let run_time = self.marker.run_time;
        let mut refused = Vec::new();
        for (kind, table) in Kind::ALL.into_iter().zip(clean) {
            let (total, rows) = self.rows_since(kind, extent);
            let written = sink.write(table, total, rows, run_time).await?;
            let deleted = match extent {
                Extent::Whole => replace(sink, table, &written, run_time).await?,
                Extent::Changes | Extent::Nothing => 0,
            };
            finished(name, table, &written, deleted);
            report.add(&written, deleted);
            if written.refused.number() > 0 {
                let rows = written.refused.number();
                report.refused_by_kind.insert(kind, rows);
            }
            refused.push((kind, written.refused));
        }
        for (answer, table) in self.answers.iter().zip(answered) {
            let rows = stream::iter([Ok(answer.rows.clone())]).boxed();
            let total = answer.rows.num_rows() as u64;
            let written = sink.write(table, total, rows, run_time).await?;
            let deleted = replace(sink, table, &written, run_time).await?;
            finished(name, table, &written, deleted);
            report.add(&written, deleted);
        }
        let set_aside = self.set_aside(name, &refused);
        report.set_aside = kept_open(sink, set_aside).await?;
        sink.mark(&self.marker).await?;
        Ok(report)
    }

    /// Sets refused rows aside, and returns how many, by topic. A sink of the stream may have the
    /// same name: dead letters name the batch's as the pipeline's status does.
    async fn set_aside(
        &self,
        sink: &str,
        refused: &[(Kind, RefusedRows)],
    ) -> Result<BTreeMap<String, u64>> {
        let (sink, mut all) = (format!("batch/{sink}"), BTreeMap::new());
        for (kind, refused) in refused {
            let rows = set_aside::set_aside(self.config, self.store, &sink, *kind, refused).await?;
            if rows > 0 {
                let topic = &topic(&self.config.topics, *kind).dead_letter;
                all.insert(topic.clone(), rows);
            }
        }
        Ok(all)
    }

    /// The rows of a kind that a sink lacks, and their number.
    fn rows_since(&self, kind: Kind, extent: Extent) -> (u64, Rows<'_>) {
        // A run that starts empty has changed all rows, and has them on disk.
        if extent == Extent::Changes || self.base.is_none() {
            let streams = self.changed.get(&kind).map_or(&[][..], Vec::as_slice);
            let total = streams.iter().map(|stream| stream.rows).sum();
            return (
                total,
                stream::iter(streams.iter().flat_map(Stream::batches)).boxed(),
            );
        }
        let parts = self.state.tables.get(&kind).map_or(&[][..], Vec::as_slice);
        let rows = stream::iter(parts)
            .then(move |part| async move {
                let path = self
                    .scratch
                    .file(&format!("load-{kind}-{}.arrow", part.bucket));
                self.store
                    .get_file(&part.key, &path)
                    .await
                    .context("can't read the state that this run has written")?;
                let batches = scratch::read(&path)?;
                // The open file stays readable.
                scratch::remove(&path);
                anyhow::Ok(batches.map(|batch| anyhow::Ok(batch?)))
            })
            .flat_map(|part| match part {
                Ok(batches) => stream::iter(batches).boxed(),
                Err(error) => stream::iter([Err::<RecordBatch, _>(error)]).boxed(),
            });
        (self.state.rows(kind), rows.boxed())
    }
}

/// Does work in the middle of a load, which must not time out meanwhile.
async fn kept_open<T>(sink: &dyn Sink, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(KEEP_OPEN_EVERY) => sink.keep_open().await?,
        }
    }
}

/// Deletes the rows that those of this run replace, and returns their number.
async fn replace(
    sink: &dyn Sink,
    table: &SinkTable,
    written: &Written,
    run_time: DateTime<Utc>,
) -> Result<u64> {
    let what = || format!("table {}", table.name);
    written.check_replacement().with_context(what)?;
    sink.delete_older(table, run_time).await
}

fn finished(sink: &str, table: &SinkTable, written: &Written, deleted: u64) {
    info!(
        sink,
        table = table.name,
        rows = written.rows,
        refused = written.refused.number(),
        deleted,
        "table written"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_are_shown_with_the_topics_of_their_dead_letters() {
        let sink = |refused, set_aside: &[(&str, u64)]| SinkReport {
            loaded: Extent::Changes,
            because: String::new(),
            rows: 10,
            deleted: 0,
            refused,
            refused_by_kind: BTreeMap::new(),
            refused_rows: Vec::new(),
            set_aside: set_aside
                .iter()
                .map(|(topic, rows)| ((*topic).to_owned(), *rows))
                .collect(),
        };
        let sinks = [
            ("serving".to_owned(), sink(0, &[])),
            ("warehouse".to_owned(), sink(3, &[("d.geo.dlq", 2)])),
        ];
        assert_eq!(
            refused(&sinks.into()),
            "\nsink warehouse: 3 rows refused, 2 set aside in d.geo.dlq; they are in report.json\n"
        );
    }
}
