//! What a run tells: a report in the bucket, and a few figures as its pod's termination message.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

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
    facts::Orphans,
    manifest::{Manifest, Positions},
    memory,
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything is written and published.
    Succeeded,
    /// Nothing is published.
    Failed,
}

/// The figures everyone asks for first: the head of the report, and the termination message the
/// operator's status is made from.
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
    /// Which records it was to read: `incremental`, `full`, `backfill` or `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
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
    /// The run whose rows it builds on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builds_on: Option<String>,
    /// Figures of each kind of record.
    pub kinds: BTreeMap<Kind, KindReport>,
    /// Fields repaired, by kind and raw name (`pin.follower_count`) and reason.
    pub repaired_by_field: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Records rejected, by reason.
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
    /// Rows that found no partner in the joins of the questions.
    pub orphans: Orphans,
    /// The eight answers, by the questions' names.
    pub answers: BTreeMap<&'static str, Table>,
    /// The first record of each partition the run covers.
    pub from: Positions,
    /// The first record of each partition behind the run.
    pub to: Positions,
    /// Raw objects read.
    pub objects: usize,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// The most memory the process had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
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
    /// Rows of it this run has written.
    pub changed: u64,
    /// How fresh it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
}

/// How fresh a clean table is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// When its latest record came to Kafka.
    pub latest_record: DateTime<Utc>,
    /// How long that was before the run began.
    pub seconds: f64,
}

impl Freshness {
    /// Of a table whose latest record is of `latest`, milliseconds since the epoch, in a run of
    /// `run_time`.
    pub fn new(latest: i64, run_time: DateTime<Utc>) -> Option<Self> {
        let latest_record = DateTime::from_timestamp_millis(latest)?;
        let age = (run_time - latest_record)
            .to_std()
            .unwrap_or(Duration::ZERO);
        Some(Self {
            latest_record,
            seconds: rounded(age.as_secs_f64()),
        })
    }
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
        Self {
            begun: Instant::now(),
            seconds: BTreeMap::new(),
        }
    }

    /// Runs a phase; its beginning and its end go to the log.
    pub async fn time<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
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
    bytes: u64,
    orphans: Orphans,
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
    let answers = answers
        .iter()
        .map(|answer| Ok((answer.question.name, table(answer)?)));
    Ok(Report {
        summary: Summary {
            run: manifest.run.clone(),
            outcome: Outcome::Succeeded,
            read: all.read,
            clean: all.clean,
            repaired: all.repaired,
            rejected: all.rejected,
            seconds: phases.total(),
            kind: Some(manifest.kind.as_str().to_owned()),
            message: None,
        },
        run_time: manifest.run_time,
        builds_on: manifest.state.clone(),
        kinds,
        repaired_by_field,
        rejected_by_reason: all.rejected_by_reason,
        orphans,
        answers: answers.collect::<Result<_, UnsupportedType>>()?,
        from: manifest.from.clone(),
        to: manifest.to.clone(),
        objects: manifest.objects.len(),
        bytes,
        peak_memory_bytes: memory::peak(),
        phases: phases.seconds.clone(),
    })
}

fn table(answer: &Answer) -> Result<Table, UnsupportedType> {
    let columns = answer
        .question
        .columns
        .iter()
        .map(|column| column.name)
        .collect();
    Ok(Table {
        columns,
        rows: rows(&answer.rows)?,
    })
}

fn rows(batch: &RecordBatch) -> Result<Vec<Vec<Value>>, UnsupportedType> {
    (0..batch.num_rows())
        .map(|row| {
            Ok(cells::row(batch, row)?
                .iter()
                .map(cells::Cell::to_json)
                .collect())
        })
        .collect()
}

impl Summary {
    /// The summary of a run that ended early, having read `counts`.
    pub fn failed(run: &str, seconds: f64, counts: &Counts, message: &str) -> Self {
        Self {
            run: run.to_owned(),
            outcome: Outcome::Failed,
            read: counts.read,
            clean: counts.clean,
            repaired: counts.repaired,
            rejected: counts.rejected,
            seconds: rounded(seconds),
            kind: None,
            message: Some(message.to_owned()),
        }
    }

    /// As a termination message. Kubernetes cuts one at 4096 bytes, which would leave broken JSON:
    /// a long message is cut before.
    pub fn termination_message(&self) -> String {
        // Half of the 4096, since JSON may write a character as two; names are short.
        const MESSAGE_BYTES: usize = 1700;
        let mut short = self.clone();
        if let Some(message) = &mut short.message {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        }
        serde_json::to_string(&short).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_termination_message_stays_json_within_what_kubernetes_keeps() {
        let summary = Summary::failed("r", 1.5, &Counts::default(), &"\"ä\n".repeat(5000));
        let message = summary.termination_message();
        assert!(message.len() < 4096, "{}", message.len());
        assert_eq!(
            serde_json::from_str::<Summary>(&message).unwrap().outcome,
            Outcome::Failed
        );
    }

    #[test]
    fn freshness_is_how_old_the_latest_record_was() {
        let run_time = DateTime::from_timestamp_millis(10_000).unwrap();
        assert!((Freshness::new(7_500, run_time).unwrap().seconds - 2.5).abs() < f64::EPSILON);
        assert!(
            Freshness::new(12_000, run_time).unwrap().seconds.abs() < f64::EPSILON,
            "a broker's clock that is ahead"
        );
    }
}
