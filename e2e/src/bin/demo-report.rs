//! Prints the number of a pipeline's records at every stage, and the answers of its last batch run.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Parser;
use pinpipe_e2e::{
    Cluster, Kind, answers::QUESTIONS, cassandra, kafka, ledger::PREFIX, objects, postgres, run,
};
use serde_json::Value;

/// The largest number of rows printed per answer.
const ROWS: usize = 10;

/// Counts at every stage of a pipeline of the demonstration cluster, and its answers.
#[derive(Parser)]
struct Arguments {
    /// The pipeline's namespace.
    #[arg(long, default_value = "data")]
    namespace: String,
    /// The pipeline's name.
    #[arg(long, default_value = "pinterest")]
    pipeline: String,
    /// Acknowledged pins according to the emulator.
    #[arg(long)]
    acknowledged_pin: Option<u64>,
    /// Acknowledged geo records according to the emulator.
    #[arg(long)]
    acknowledged_geo: Option<u64>,
    /// Acknowledged user records according to the emulator.
    #[arg(long)]
    acknowledged_user: Option<u64>,
}

/// The stores of a pipeline, from its spec and the operator's defaults.
struct Stores {
    topics: BTreeMap<Kind, String>,
    bucket: String,
    prefix: String,
    schema: String,
    keyspace: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    run(async {
        let stores = stores(&arguments).await?;
        let full_name = format!("{}.{}", arguments.namespace, arguments.pipeline);
        let report = objects::last_report(&stores.bucket, &full_name).await?;
        let report = report
            .with_context(|| format!("no batch run of {full_name} has published a report yet"))?;
        println!("{}", table(&stages(&arguments, &stores, &report).await?));
        for question in &QUESTIONS {
            let answer = &report["answers"][question.name];
            let rows = answer["rows"].as_array().cloned().unwrap_or_default();
            println!("\n{}", question.name);
            let mut lines = vec![
                question
                    .columns
                    .iter()
                    .map(|column| (*column).to_owned())
                    .collect(),
            ];
            lines.extend(
                rows.iter()
                    .take(ROWS)
                    .map(|row| row.as_array().into_iter().flatten().map(text).collect()),
            );
            println!("{}", table(&lines));
            if rows.len() > ROWS {
                println!("  … {} more", rows.len() - ROWS);
            }
        }
        Ok(())
    })
}

async fn stores(arguments: &Arguments) -> Result<Stores> {
    let Arguments {
        namespace,
        pipeline: name,
        ..
    } = arguments;
    let pipeline = Cluster::connect()
        .await?
        .pipelines(namespace)
        .get(name)
        .await?;
    let spec = &pipeline.data["spec"];
    let or = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    let topic = |kind: Kind| {
        let set = &spec["broker"]["kafka"]["topics"]["overrides"][kind.name()]["name"];
        (kind, or(set, &format!("{namespace}.{name}.{kind}")))
    };
    Ok(Stores {
        topics: Kind::ALL.map(topic).into(),
        bucket: spec["archive"]["bucket"]
            .as_str()
            .context("the pipeline has no archive")?
            .to_owned(),
        prefix: or(&spec["archive"]["prefix"], PREFIX),
        schema: or(&spec["stream"]["sinks"][0]["postgres"]["schema"], "public"),
        keyspace: or(
            &spec["batch"]["sinks"][0]["cassandra"]["keyspace"],
            "pinterest_data",
        ),
    })
}

/// A line per stage, with a column per kind of record and their sum.
async fn stages(
    arguments: &Arguments,
    stores: &Stores,
    report: &Value,
) -> Result<Vec<Vec<String>>> {
    let mut stages: Vec<(&str, [Option<u64>; 3])> = vec![
        (
            "acknowledged by ingest",
            [
                arguments.acknowledged_pin,
                arguments.acknowledged_geo,
                arguments.acknowledged_user,
            ],
        ),
        ("in the topics", [None; 3]),
        ("rows in PostgreSQL", [None; 3]),
        ("in the raw objects", [None; 3]),
        ("rows in Cassandra", [None; 3]),
        ("repaired", [None; 3]),
        ("rejected", [None; 3]),
    ];
    for (n, kind) in Kind::ALL.into_iter().enumerate() {
        let topic = &stores.topics[&kind];
        let in_topic: i64 = kafka::ends(topic)
            .await?
            .values()
            .map(|(start, end)| end - start)
            .sum();
        let (_, in_objects) = objects::raw_count(&stores.bucket, &stores.prefix, topic).await?;
        let counted = &report["kinds"][kind.name()];
        let found = [
            Some(u64::try_from(in_topic)?),
            Some(u64::try_from(postgres::count(&stores.schema, kind).await?)?),
            Some(in_objects),
            Some(cassandra::count(&stores.keyspace, kind.batch_table()).await?),
            counted["repaired"].as_u64(),
            counted["rejected"].as_u64(),
        ];
        for ((_, counts), found) in stages.iter_mut().skip(1).zip(found) {
            counts[n] = found;
        }
    }
    let mut lines = vec![
        ["", "pin", "geo", "user", "all"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (stage, counts) in stages {
        let sum = counts.iter().copied().sum::<Option<u64>>();
        let cells = counts
            .into_iter()
            .chain([sum])
            .map(|count| count.map_or("?".to_owned(), grouped));
        lines.push(std::iter::once(stage.to_owned()).chain(cells).collect());
    }
    Ok(lines)
}

/// `12345` as `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && n % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A value for people: long numbers with commas, and no `.0`.
fn text(value: &Value) -> String {
    let Value::Number(number) = value else {
        return value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
    };
    let digits = number.to_string();
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, "0"));
    let whole = match whole.parse::<u64>() {
        // Years stay without a comma.
        Ok(count) if count > 9_999 => grouped(count),
        _ => whole.to_owned(),
    };
    if fraction == "0" {
        whole
    } else {
        format!("{whole}.{fraction}")
    }
}

/// A table with a heading; texts are aligned left, numbers right.
fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| lines.iter().filter_map(move |line| line.get(column));
    let widths: Vec<usize> = (0..columns)
        .map(|c| cells(c).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let is_number = |cell: &String| {
        cell.starts_with(|c: char| c.is_ascii_digit() || c == '?') && !cell.contains(['-', '+'])
    };
    let right: Vec<bool> = (0..columns)
        .map(|column| cells(column).skip(1).all(is_number))
        .collect();
    let mut printed = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let padded = line
            .iter()
            .zip(widths.iter().zip(&right))
            .map(|(cell, (width, right))| {
                if *right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        printed.push(format!(
            "  {}",
            padded.collect::<Vec<_>>().join("  ").trim_end()
        ));
        if n == 0 {
            printed.push(format!(
                "  {}",
                widths
                    .iter()
                    .map(|width| "─".repeat(*width))
                    .collect::<Vec<_>>()
                    .join("  ")
            ));
        }
    }
    printed.join("\n")
}
