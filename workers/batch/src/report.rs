//! What a run tells: a report in the bucket, and a few figures as its pod's termination message.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;
use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use pinpipe_core::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use crate::{
    answers::Answer,
    cells::{self, UnsupportedType},
    counts::Counts,
    manifest::{Manifest, Positions},
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything is written and published.
    Succeeded,
    /// Nothing is published.
    Failed,
}

/// The figures everyone asks for first: the head of the report, and the termination message the operator's status is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The run's name.
    pub run: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Raw records read.
    pub read: u64,
    /// Records cleaned, repaired ones and repeats of a key among them.
    pub clean: u64,
    /// Clean records with at least one field made null.
    pub repaired: u64,
    /// Records in which nothing could be keyed.
    pub rejected: u64,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The report of one run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The run's figures.
    #[serde(flatten)]
    pub summary: Summary,
    /// The time its rows carry.
    pub run_time: DateTime<Utc>,
    /// Figures of each kind of record.
    pub kinds: BTreeMap<Kind, KindReport>,
    /// Fields repaired, by kind and raw name (`pin.follower_count`) and reason.
    pub repaired_by_field: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Records rejected, by reason.
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
    /// The eight answers, by the questions' names.
    pub answers: BTreeMap<&'static str, Table>,
    /// The first record of each partition the run covers.
    pub from: Positions,
    /// The first record of each partition behind the run.
    pub to: Positions,
    /// Raw objects read.
    pub objects: usize,
    /// How long each phase took, seconds.
    pub phases: BTreeMap<&'static str, f64>,
}

/// The figures of one kind of record.
#[derive(Debug, Serialize)]
pub struct KindReport {
    /// What was read.
    #[serde(flatten)]
    pub counts: Counts,
    /// Distinct keys: rows of the clean table.
    pub keys: u64,
}

/// A small table in JSON.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The columns' names.
    pub columns: Vec<&'static str>,
    /// The rows, each a list of values.
    pub rows: Vec<Vec<Value>>,
}

/// How long a run's phases take.
#[derive(Debug)]
pub struct Phases {
    begun: Instant,
    seconds: BTreeMap<&'static str, f64>,
}

impl Phases {
    /// The clock starts.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), seconds: BTreeMap::new() }
    }

    /// Runs a phase; its beginning and its end go to the log.
    pub async fn time<T>(&mut self, name: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        info!(phase = name, "begins");
        let begun = Instant::now();
        let result = work.await?;
        let seconds = rounded(begun.elapsed().as_secs_f64());
        info!(phase = name, seconds, "done");
        *self.seconds.entry(name).or_default() += seconds;
        Ok(result)
    }

    /// Seconds since [`Phases::begin`].
    pub fn total(&self) -> f64 {
        rounded(self.begun.elapsed().as_secs_f64())
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Puts the report of a run together.
pub fn report(
    manifest: &Manifest,
    kinds: BTreeMap<Kind, KindReport>,
    answers: &[Answer],
    phases: &Phases,
) -> Result<Report, UnsupportedType> {
    let mut all = Counts::default();
    let mut repaired_by_field = BTreeMap::new();
    for (kind, KindReport { counts, .. }) in &kinds {
        all += counts;
        for (field, reasons) in &counts.repaired_by_field {
            repaired_by_field.insert(format!("{kind}.{field}"), reasons.clone());
        }
    }
    let answers = answers.iter().map(|answer| Ok((answer.question.name, table(answer)?)));
    Ok(Report {
        summary: Summary {
            run: manifest.run.clone(),
            outcome: Outcome::Succeeded,
            read: all.read,
            clean: all.clean,
            repaired: all.repaired,
            rejected: all.rejected,
            seconds: phases.total(),
            message: None,
        },
        run_time: manifest.run_time,
        kinds,
        repaired_by_field,
        rejected_by_reason: all.rejected_by_reason,
        answers: answers.collect::<Result<_, UnsupportedType>>()?,
        from: manifest.from.clone(),
        to: manifest.to.clone(),
        objects: manifest.objects.len(),
        phases: phases.seconds.clone(),
    })
}

fn table(answer: &Answer) -> Result<Table, UnsupportedType> {
    let columns = answer.question.columns.iter().map(|column| column.name).collect();
    Ok(Table { columns, rows: rows(&answer.rows)? })
}

fn rows(batch: &RecordBatch) -> Result<Vec<Vec<Value>>, UnsupportedType> {
    (0..batch.num_rows()).map(|row| Ok(cells::row(batch, row)?.iter().map(cells::Cell::to_json).collect())).collect()
}

impl Summary {
    /// The summary of a run that ended early.
    pub fn failed(run: &str, seconds: f64, message: &str) -> Self {
        Self {
            run: run.to_owned(),
            outcome: Outcome::Failed,
            read: 0,
            clean: 0,
            repaired: 0,
            rejected: 0,
            seconds: rounded(seconds),
            message: Some(message.to_owned()),
        }
    }

    /// As a termination message. Kubernetes cuts one at 4096 bytes, which would leave broken JSON: a long message is cut before.
    pub fn termination_message(&self) -> String {
        const MESSAGE_BYTES: usize = 2000;
        let mut short = self.clone();
        if let Some(message) = &mut short.message {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        }
        serde_json::to_string(&short).unwrap_or_default()
    }
}
