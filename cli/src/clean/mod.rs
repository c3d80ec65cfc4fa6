//! `clean`: what the workers make of raw records, field by field. It uses no cluster.

mod record;
mod split;

use std::{fmt::Write as _, path::PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use pinpipe_core::Kind;

use crate::{
    failure::{Failure, Outcome},
    input::{self, Input},
    output::{Cell, Colour, Options, Paint, Table, shortened, show, visible},
};
use record::{Change, Examined, Field, Verdict};

/// Longest value in a table, characters.
const LONGEST: usize = 44;

/// Arguments of `clean`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// File of raw records (JSON lines, an array, or one document), or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// Kind of all records; by default the fields of each record tell it
    #[arg(long, value_name = "KIND", value_parser = kind(), ignore_case = true)]
    kind: Option<Kind>,

    /// Size limit of a record, as spec.ingest.maxRecordBytes sets it
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    max_record_bytes: usize,

    #[command(flatten)]
    options: Options,
}

fn kind() -> impl TypedValueParser<Value = Kind> {
    let names = PossibleValuesParser::new(Kind::ALL.map(Kind::as_str));
    names.try_map(|text| text.to_ascii_lowercase().parse())
}

/// Prints what becomes of each record. The answer is whether none is rejected.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut records = Vec::new();
    for file in &arguments.files {
        let Input { name, content } = input::bytes(file)?;
        for (raw, number) in split::records(&content).into_iter().zip(1..) {
            let at = format!("{name}:{number}");
            let examined = record::examine(raw, arguments.kind, arguments.max_record_bytes, at);
            records.push(examined.map_err(Failure::Usage)?);
        }
    }
    if records.is_empty() {
        return Err(Failure::Usage(
            "no record was found: give JSON objects, one a line or in an array".to_owned(),
        ));
    }
    let format = arguments.options.output;
    show(format, &records, &rows(&records), |paint| {
        records.iter().map(|record| text(record, paint)).collect()
    })?;
    Ok(records
        .iter()
        .all(|record| record.verdict != Verdict::Rejected))
}

const fn word(verdict: Verdict) -> (&'static str, Colour) {
    match verdict {
        Verdict::Clean => ("clean", Colour::Green),
        Verdict::Repaired => ("repaired", Colour::Yellow),
        Verdict::Rejected => ("rejected", Colour::Red),
    }
}

/// All fields of all records, for CSV; a rejected record has one row.
fn rows(records: &[Examined]) -> Table {
    let mut table = Table::new([
        "record", "kind", "outcome", "column", "raw", "clean", "change", "because",
    ]);
    for record in records {
        let kind = record.kind.map(Kind::as_str).unwrap_or_default();
        let mut row = |column: &str, raw: &str, clean: &str, change: &str, because: &str| {
            let start = [&record.at, kind, word(record.verdict).0];
            let rest = [column, raw, clean, change, because];
            table.row(start.into_iter().chain(rest).map(Cell::from));
        };
        for field in &record.fields {
            let (clean, change) = (field.clean.to_string(), change(field).0);
            row(field.column, &raw(field), &clean, change, &field.because);
        }
        if let Some(rejection) = &record.rejection {
            row("", "", "", rejection.reason, &rejection.message);
        }
    }
    table
}

/// A record for people.
fn text(record: &Examined, paint: Paint) -> String {
    let (word, colour) = word(record.verdict);
    let kind = record
        .kind
        .map_or_else(String::new, |kind| format!(" {kind},"));
    let mut text = format!("{}:{kind} {}", record.at, paint.text(word, colour));
    if let Some(rejection) = &record.rejection {
        let _ = writeln!(
            text,
            " ({}): {}",
            rejection.reason,
            visible(&rejection.message)
        );
        return text;
    }
    text.push('\n');
    let mut table = Table::new(["column", "raw", "clean", ""]);
    for field in &record.fields {
        let (word, colour) = change(field);
        let told = if field.because.is_empty() {
            word.to_owned()
        } else {
            format!("{word}: {}", field.because)
        };
        table.row([
            field.column.into(),
            shortened(&raw(field), LONGEST).into(),
            shortened(&field.clean.to_string(), LONGEST).into(),
            colour.map_or_else(|| Cell::from(&told), |colour| Cell::coloured(&told, colour)),
        ]);
    }
    text.push_str(&table.text(paint));
    if !record.ignored.is_empty() {
        let _ = writeln!(text, "ignored: {}", visible(&record.ignored.join(", ")));
    }
    text
}

/// Raw values of a column; with their names where there may be several.
fn raw(field: &Field) -> String {
    if field.raw.len() == 1 && field.column != "coordinates" && field.column != "user_name" {
        return field.raw.values().cloned().collect();
    }
    let values = field.raw.iter();
    let values: Vec<String> = values.map(|(name, raw)| format!("{name}: {raw}")).collect();
    values.join(", ")
}

const fn change(field: &Field) -> (&'static str, Option<Colour>) {
    match field.change {
        Change::None => ("", None),
        Change::Cleaned => ("cleaned", None),
        Change::Missing => ("missing", None),
        Change::Repaired => ("repaired", Some(Colour::Yellow)),
    }
}
