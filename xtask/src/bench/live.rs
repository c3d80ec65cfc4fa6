//! Kafka to PostgreSQL, compared with the same COPY and upsert from files; and the time of recovery
//! after a worker was killed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::measure::{Usage, Watch};
use super::servers::{self, Running};
use super::{Bench, mebibytes, typical, workers};
use crate::process;
use crate::step::step;

const TOPICS: &str = "live";
/// Records of a batch, as in the worker.
const BATCH: u64 = 10_000;
/// Each live table and its key.
const TABLES: [(&str, &str); 3] = [
    ("pin", "unique_id"),
    ("geo", "ind"),
    ("user_profile", "ind"),
];
/// The same records twice: half of them update a row.
const PASSES: u64 = 2;
const PATIENCE: Duration = Duration::from_mins(30);

pub fn run(bench: &Bench) -> Result<()> {
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let _postgres = servers::postgres(bench.context, &bench.folder)?;
    let users = bench.records / 10;
    let records = bench.fill(TOPICS, users, PASSES, 0.0)?;
    stream(bench, "prepared", records)?;
    let files = prepare(bench, users)?;

    let (mut ours, mut copied) = (Vec::new(), Vec::new());
    for number in 1..=bench.runs {
        let name = format!("live{number}");
        ours.push(super::measure(
            &format!("stream worker, run {number}"),
            || stream(bench, &name, records),
        )?);
        drop_schema(bench, &name)?;
        let title = format!("COPY and upsert, run {number}");
        copied.push(super::measure(&title, || {
            copy(bench, &files, &format!("copy{number}"))
        })?);
        drop_schema(bench, &format!("copy{number}"))?;
    }
    let (ours, copied) = (typical(&ours), typical(&copied));
    println!(
        "\nKafka to PostgreSQL, {records} records, half of them updates: medians, and the largest \
         peak of memory\n"
    );
    println!("| | seconds | records a second | peak memory |\n|---|---|---|---|");
    for (name, usage) in [
        ("stream worker", ours),
        ("COPY and upsert from files", copied),
    ] {
        let rate = records as f64 / usage.seconds;
        println!(
            "| {name} | {:.1} | {rate:.0} | {:.0} MiB |",
            usage.seconds,
            mebibytes(usage.peak)
        );
    }
    println!(
        "\n{:.0} % of its rate\n",
        100.0 * copied.seconds / ours.seconds
    );
    recovery(bench, records)
}

fn drop_schema(bench: &Bench, name: &str) -> Result<()> {
    servers::psql(
        bench.context,
        &format!("SET client_min_messages = error; DROP SCHEMA {name} CASCADE; CHECKPOINT"),
    )?;
    Ok(())
}

/// The time from the start of a worker until it has stored everything, which is also the rate at
/// which it drains a backlog.
fn stream(bench: &Bench, name: &str, records: u64) -> Result<Usage> {
    let worker = workers::live(bench, name, TOPICS)?;
    let mut watch = Watch::new(worker.pid());
    watch
        .until(PATIENCE, || Ok(workers::stored() >= records))
        .with_context(|| worker.failure())
}

/// Files of batches of clean rows in COPY's binary form, sorted by key as the worker sends them, by
/// table.
fn prepare(bench: &Bench, users: u64) -> Result<Vec<(PathBuf, u64)>> {
    step(bench.context, "batches as files", "read the log", |_| {
        let mut folders = Vec::new();
        for (table, key) in TABLES {
            let folder = bench.folder.join("copy").join(table);
            fs::create_dir_all(&folder)?;
            Command::new("chmod")
                .args(["-R", "a+rwx"])
                .arg(bench.folder.join("copy"))
                .status()?;
            let batches = users.div_ceil(BATCH);
            // The first load stored the same rows as the second, a day earlier.
            for (pass, age) in [(0, "1 day"), (1, "0")] {
                for batch in 0..batches {
                    let file = folder.join(format!("{}", pass * batches + batch));
                    let skipped = batch * BATCH;
                    let columns = columns(bench, table)?
                        .replace("\"_time\"", &format!("_time - interval '{age}' AS _time"));
                    let sql = format!(
                        "COPY (SELECT {columns} FROM (\
                   SELECT * FROM prepared.{table} ORDER BY _offset, _partition \
                         LIMIT {BATCH} OFFSET {skipped}) AS batch \
                 ORDER BY \"{key}\") TO '{}' (FORMAT binary)",
                        file.display()
                    );
                    servers::psql(bench.context, &sql)?;
                }
            }
            folders.push((folder, PASSES * batches));
        }
        Ok(folders)
    })
}

/// A live table's columns, quoted, in order.
fn columns(bench: &Bench, table: &str) -> Result<String> {
    servers::psql(
        bench.context,
        &format!(
            "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) \
             FROM information_schema.columns \
             WHERE table_schema = 'prepared' AND table_name = '{table}'"
        ),
    )
    .map(|names| {
        names
            .split(", ")
            .map(|name| format!("\"{}\"", name.trim_matches('"')))
            .collect::<Vec<_>>()
            .join(", ")
    })
}

/// The worker's transactions without the worker, with a connection for each table as in the worker.
fn copy(bench: &Bench, files: &[(PathBuf, u64)], schema: &str) -> Result<Usage> {
    servers::psql(bench.context, &format!("CREATE SCHEMA {schema}"))?;
    let mut scripts = Vec::new();
    for ((table, key), (folder, batches)) in TABLES.iter().zip(files) {
        let made = format!("CREATE TABLE {schema}.{table} (LIKE prepared.{table} INCLUDING ALL)");
        servers::psql(bench.context, &made)?;
        scripts.push((
            table,
            script(
                schema,
                table,
                key,
                &columns(bench, table)?,
                folder,
                *batches,
            ),
        ));
    }
    let begun = Instant::now();
    let mut running = Vec::new();
    for (table, script) in scripts {
        let file = bench.folder.join(format!("{table}.sql"));
        fs::write(&file, script)?;
        let mut psql = servers::psql_command(bench.context);
        running.push(
            psql.arg("--file")
                .arg(file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?,
        );
    }
    for mut psql in running {
        ensure!(psql.wait()?.success(), "psql ended badly");
    }
    Ok(Usage {
        seconds: begun.elapsed().as_secs_f64(),
        cpu: 0.0,
        peak: 0,
    })
}

/// The statements are those of workers/stream/src/postgres/sql.rs.
fn script(
    schema: &str,
    table: &str,
    key: &str,
    columns: &str,
    folder: &Path,
    batches: u64,
) -> String {
    let set: Vec<String> = columns
        .split(", ")
        .filter(|name| name.trim_matches('"') != key)
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    let order = if key == "unique_id" {
        "\"unique_id\" COLLATE \"C\"".to_owned()
    } else {
        format!("\"{key}\"")
    };
    let mut script = format!(
        "CREATE TEMPORARY TABLE stage (LIKE {schema}.{table}) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE position (next_offset bigint, moved_at timestamptz);
INSERT INTO position VALUES (0, now());
PREPARE upsert AS INSERT INTO {schema}.{table} AS live ({columns}) \
SELECT {columns} FROM stage ORDER BY {order} ON CONFLICT (\"{key}\") DO UPDATE SET {} \
WHERE (excluded._time, excluded._partition, excluded._offset) > \
(live._time, live._partition, live._offset);
",
        set.join(", ")
    );
    for batch in 0..batches {
        // Writing to a String does not fail.
        let _ = writeln!(
            script,
            "BEGIN; SELECT next_offset FROM position FOR UPDATE; \
             COPY stage ({columns}) FROM '{}' (FORMAT binary); EXECUTE upsert; \
             UPDATE position SET next_offset = {batch}, moved_at = now(); COMMIT;",
            folder.join(batch.to_string()).display()
        );
    }
    script
}

/// The time from killing a worker in the middle of a backlog until another stores the next batch.
fn recovery(bench: &Bench, records: u64) -> Result<()> {
    let mut took = Vec::new();
    for number in 1..=bench.runs {
        let name = format!("killed{number}");
        let positions =
            format!("SELECT coalesce(sum(next_offset), 0) FROM {name}.pinpipe_position");
        let position = || {
            servers::psql(bench.context, &positions)
                .ok()
                .and_then(|sum| sum.parse::<u64>().ok())
        };
        let worker = workers::live(bench, &name, TOPICS)?;
        Watch::new(worker.pid()).until(PATIENCE, || Ok(workers::stored() > records / 4))?;
        process::kill_tree(worker.pid());
        drop(worker);
        let (killed, begun) = (position().context("no positions")?, Instant::now());
        let successor: Running = workers::live(bench, &name, TOPICS)?;
        Watch::new(successor.pid())
            .until(PATIENCE, || Ok(position().is_some_and(|now| now > killed)))?;
        took.push(begun.elapsed().as_secs_f64());
        println!(
            "   recovery after SIGKILL, run {number}: {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        drop(successor);
        drop_schema(bench, &name)?;
    }
    println!(
        "\nRecovery after SIGKILL, until its successor has stored the next batch: {:.1} s\n",
        super::measure::median(took)
    );
    Ok(())
}
