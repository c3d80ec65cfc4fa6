//! The report of a run: an object in the bucket, whose summary is also the pod's termination
//! message.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::Result;
use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use pinpipe_core::Kind;
use serde::Serialize;
use serde_json::Value;
use tracing::info;

use crate::{
    answers::Answer,
    cells::{self, UnsupportedType},
    counts::{self, Counts, KindCounts},
    coverage::Gap,
    join::Orphans,
    load::SinkReport,
    manifest::{Manifest, PassedObjects, PassedOver, Positions},
    memory,
    progress::{Progress, Step},
    summary::{Summary, rounded},
};

/// Most rows of an answer that the log shows.
const SHOWN_ROWS: usize = 40;
/// Most characters of a value that the log shows.
const SHOWN_CHARS: usize = 40;

/// The report of one run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The run's outcome and counts.
    #[serde(flatten)]
    pub summary: Summary,
    /// Timestamp of the rows the run has written.
    pub run_time: DateTime<Utc>,
    /// The run whose state this one builds on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builds_on: Option<String>,
    /// Counts by kind of record.
    pub kinds: BTreeMap<Kind, KindReport>,
    /// Repaired fields by kind and raw field name (`pin.follower_count`), and reason.
    pub repaired_by_field: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Rejected records by reason.
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
    /// Rows without a match in the joins of the questions.
    pub orphans: Orphans,
    /// The eight answers by question.
    pub answers: BTreeMap<&'static str, Table>,
    /// First offset of each partition that the run covers.
    pub from: Positions,
    /// First offset of each partition after those the run covers.
    pub to: Positions,
    /// What each sink got; empty without sinks.
    pub sinks: BTreeMap<String, SinkReport>,
    /// Offsets without a raw object before the first one that is there, which the run has gone
    /// without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Objects that an import has passed over, by reason.
    #[serde(skip_serializing_if = "PassedOver::is_empty")]
    pub passed_over: PassedOver,
    /// Number of raw objects read.
    pub objects: usize,
    /// Bytes of the raw objects as stored, compressed or not.
    pub bytes: u64,
    /// Peak memory of the process, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Duration of each phase, seconds.
    pub phases: BTreeMap<&'static str, f64>,
}

/// Counts of one kind of record.
#[derive(Debug, Serialize)]
pub struct KindReport {
    /// Counts of the records read.
    #[serde(flatten)]
    pub counts: Counts,
    /// Rows of the clean table, which has one per key.
    pub keys: u64,
    /// Rows of the clean table that this run has written.
    pub changed: u64,
    /// Freshness of the clean table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
}

/// Freshness of a clean table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// Kafka timestamp of the latest record.
    pub latest_record: DateTime<Utc>,
    /// Age of the latest record when the run started, seconds.
    pub seconds: f64,
}

impl Freshness {
    /// The freshness of a table at `run_time`. `latest` is the timestamp of its latest record,
    /// milliseconds since the epoch.
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

/// An answer as JSON.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Column names.
    pub columns: Vec<&'static str>,
    /// Rows, each a list of values in column order.
    pub rows: Vec<Vec<Value>>,
}

impl fmt::Display for Table {
    /// Aligned columns, numbers to the right. What doesn't fit on a screen is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.columns.iter().map(|name| (*name).to_owned()).collect();
        let shown: Vec<Vec<String>> = std::iter::once(head)
            .chain(
                self.rows
                    .iter()
                    .take(SHOWN_ROWS)
                    .map(|row| row.iter().map(shown).collect()),
            )
            .collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let chars = shown.iter().map(|row| row[column].chars().count());
                chars.max().unwrap_or(0)
            })
            .collect();
        let is_number =
            |column: usize| self.rows.first().is_some_and(|row| row[column].is_number());
        for (number, row) in shown.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| {
                if is_number(column) {
                    format!(" {cell:>width$} ")
                } else {
                    format!(" {cell:<width$} ")
                }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("|").trim_end())?;
            if number == 0 {
                let lines: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
                writeln!(f, "{}", lines.join("+"))?;
            }
        }
        match self.rows.len() {
            0 => writeln!(f, " no rows"),
            rows if rows > SHOWN_ROWS => {
                let more = rows - SHOWN_ROWS;
                writeln!(f, " and {more} more rows, which are in report.json")
            }
            _ => Ok(()),
        }
    }
}

/// A value on a screen. Users' texts may hold control characters, which a terminal would obey.
fn shown(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let mut short: String = text.chars().take(SHOWN_CHARS).map(printable).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        short.push('…');
    }
    short
}

fn printable(char: char) -> char {
    if char.is_control() {
        char::REPLACEMENT_CHARACTER
    } else {
        char
    }
}

/// All answers as tables to be read on a screen, in the order of the questions.
pub fn readable(answers: &[Answer]) -> Result<String, UnsupportedType> {
    let tables = answers.iter().map(|answer| {
        let name = answer.question.name;
        Ok(format!("\n{name}\n{}", table(answer)?))
    });
    tables.collect()
}

/// How many objects an import has passed over, and why.
pub fn passed_over(passed_over: &PassedOver) -> String {
    let mut text = String::new();
    for (reason, PassedObjects { objects, first }) in passed_over {
        let first: String = first.chars().map(printable).collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "passed over: {objects} objects ({reason}), such as {first}"
        );
    }
    text
}

/// What a phase is to those who watch the run.
fn step(phase: &str) -> Step {
    match phase {
        "read and clean" => Step::Clean,
        "latest per key" => Step::Merge,
        "join" | "questions" => Step::Query,
        "load" => Step::Load,
        _ => Step::Read,
    }
}

/// Measures the phases of a run.
#[derive(Clone, Debug)]
pub struct Phases {
    started: Instant,
    progress: Progress,
    seconds: BTreeMap<&'static str, f64>,
}

impl Phases {
    /// Starts the clock of a run that shows its `progress`.
    pub fn start(progress: &Progress) -> Self {
        progress.begin();
        Self {
            started: Instant::now(),
            progress: progress.clone(),
            seconds: BTreeMap::new(),
        }
    }

    /// Executes a phase, and logs its start and its end.
    pub async fn time<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        info!(phase = name, "phase started");
        self.progress.step(step(name));
        let started = Instant::now();
        let result = work.await?;
        let seconds = rounded(started.elapsed().as_secs_f64());
        info!(phase = name, seconds, "phase finished");
        *self.seconds.entry(name).or_default() += seconds;
        Ok(result)
    }

    /// Seconds since [`Phases::start`].
    pub fn total(&self) -> f64 {
        rounded(self.started.elapsed().as_secs_f64())
    }
}

/// The report of a run that succeeded, without its sinks, its gaps and what it has passed over.
pub fn report(
    manifest: &Manifest,
    kinds: BTreeMap<Kind, KindReport>,
    bytes: u64,
    orphans: Orphans,
    answers: &[Answer],
    phases: &Phases,
) -> Result<Report, UnsupportedType> {
    let all = counts::all(kinds.values().map(|kind| &kind.counts));
    let mut summary = Summary {
        seconds: phases.total(),
        kind: Some(manifest.kind.as_str().to_owned()),
        ..Summary::empty(&manifest.run)
    };
    let mut repaired_by_field = BTreeMap::new();
    for (kind, KindReport { counts, .. }) in &kinds {
        summary.add(KindCounts::new(*kind, counts));
        for (field, reasons) in &counts.repaired_by_field {
            repaired_by_field.insert(format!("{kind}.{field}"), reasons.clone());
        }
    }
    let answers = answers
        .iter()
        .map(|answer| Ok((answer.question.name, table(answer)?)));
    Ok(Report {
        summary,
        run_time: manifest.run_time,
        builds_on: manifest.state.clone(),
        kinds,
        repaired_by_field,
        rejected_by_reason: all.rejected_by_reason,
        orphans,
        answers: answers.collect::<Result<_, UnsupportedType>>()?,
        from: manifest.from.clone(),
        to: manifest.to.clone(),
        sinks: BTreeMap::new(),
        gaps: Vec::new(),
        passed_over: PassedOver::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_others_show_no_control_characters() {
        let passed = PassedObjects {
            objects: 1,
            first: "a\u{1b}[2J".into(),
        };
        let text = passed_over(&PassedOver::from([("suffix".to_owned(), passed)]));
        assert!(!text.contains('\u{1b}') && text.contains("[2J"), "{text}");
    }

    #[test]
    fn an_answer_is_shown_as_a_table_that_fits_on_a_screen() {
        let row = |country: &str, count: i64| vec![country.into(), count.into()];
        let mut table = Table {
            columns: vec!["country", "category_count"],
            rows: vec![row("Åland", 7), row("a\u{1b}[31m\nb", 12)],
        };
        assert_eq!(
            table.to_string(),
            " country  | category_count\n\
             ----------+----------------\n Åland    |              7\n \
             a\u{fffd}[31m\u{fffd}b |             12\n"
        );
        table.rows = vec![row(&"x".repeat(60_000), 1); SHOWN_ROWS + 3];
        let text = table.to_string();
        assert_eq!(text.lines().count(), SHOWN_ROWS + 3);
        assert!(
            text.ends_with(" and 3 more rows, which are in report.json\n"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() < 70), "{text}");
        table.rows.clear();
        assert!(table.to_string().ends_with("\n no rows\n"), "{table}");
    }

    #[test]
    fn freshness_is_the_age_of_the_latest_record() {
        let run_time = DateTime::from_timestamp_millis(10_000).unwrap();
        assert!((Freshness::new(7_500, run_time).unwrap().seconds - 2.5).abs() < f64::EPSILON);
        assert!(
            Freshness::new(12_000, run_time).unwrap().seconds.abs() < f64::EPSILON,
            "a broker's clock that is ahead"
        );
    }
}
