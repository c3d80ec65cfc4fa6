//! Memory of buckets that are larger than their share. Each measurement is a process of its own,
//! since the peak is that of a process.

use std::{env, fmt::Write as _, process::Command};

use pinpipe_core::Order;

use super::*;
use crate::{decode::Cleaner, memory, spill::Spill, testing::TestDir};

/// Number of records; `cargo xtask test --all` sets three million.
const RECORDS: &str = "PINPIPE_BUCKET_RECORDS";
/// Memory that is divided as in a container with this limit, bytes.
const LIMIT: usize = 256 << 20;

/// The line of a pin. `key` tells it from others.
fn line(key: &str, number: usize, out: &mut Vec<u8>) {
    let mut text = String::new();
    let _ = writeln!(
        text,
        r#"{{"unique_id": "{key}", "index": 7, "title": "version {number}", "description": "{}"}}"#,
        "words and more of them, ".repeat(25)
    );
    out.extend_from_slice(text.as_bytes());
}

/// Reads records, folds them as the rows of one bucket, and prints the peak of memory and the
/// number of rows. `key` names the key of each record.
fn fold_records(key: impl Fn(usize) -> String) {
    pinpipe_runtime::malloc::return_freed_memory();
    let records: usize = env::var(RECORDS).unwrap().parse().unwrap();
    let folder = TestDir::new();
    let memory = Memory::of(LIMIT);
    let mut cleaner = Cleaner::new(Kind::Pin, 4000);
    let mut spill = Spill::latest_of(
        Kind::Pin,
        &folder.file("read"),
        1,
        memory.buffers / Kind::ALL.len(),
    );
    let mut text = Vec::new();
    for number in 0..records {
        text.clear();
        line(&key(number), number, &mut text);
        let order = Order {
            time: 0,
            partition: 0,
            offset: i64::try_from(number).unwrap(),
        };
        cleaner.record(&text, order, order).unwrap();
        for chunk in cleaner.ready() {
            spill_chunk(&mut spill, &chunk);
        }
    }
    for chunk in cleaner.finish().unwrap().0 {
        spill_chunk(&mut spill, &chunk);
    }
    let spilled = spill.finish().unwrap().remove(0).unwrap();
    let scratch = Scratch::open(folder.path()).unwrap();
    let shared = Shared {
        join_inputs: JoinInputs::new(scratch.folder(), 1, memory.buffers),
        scratch,
        states: States::new(&pinpipe_config::Pipeline {
            namespace: "data".into(),
            name: "pins".into(),
            uid: "u".into(),
        }),
        run: "r".into(),
        buckets: 1,
        splits: false,
        keep_changed: true,
        merging: memory.merging,
        full_run: String::new(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rewritten = runtime.block_on(async {
        tokio::task::spawn_blocking(move || rewrite(Kind::Pin, 0, Some(&spilled), None, &shared))
            .await
            .unwrap()
            .unwrap()
    });
    let state = rewritten.state.unwrap();
    assert_eq!(rewritten.changed_rows, state.rows);
    let last = state.batches().last().unwrap().unwrap();
    let title = crate::cells::row(&last, last.num_rows() - 1).unwrap()[2].to_json();
    println!(
        "measured {} {} {title}",
        memory::peak().unwrap(),
        state.rows
    );
}

fn spill_chunk(spill: &mut Spill, chunk: &rows::Chunk) {
    let rows = rows::latest_per_key(Kind::Pin, chunk.to_rows(Kind::Pin).unwrap()).unwrap();
    let buckets = vec![0; rows.num_rows()];
    spill.push(&rows, &buckets).unwrap();
}

/// Runs a test of this file by itself. Returns the peak of memory, the rows and a title.
fn measured(test: &str, records: usize) -> (usize, usize, String) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("fold::tests::{test}"))
        .env(RECORDS, records.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = printed.lines().find_map(|line| {
        let (_, rest) = line.split_once("measured ")?;
        let mut words = rest.splitn(3, ' ');
        let mut number = || words.next()?.parse().ok();
        Some((number()?, number()?, words.next()?.to_owned()))
    });
    line.unwrap_or_else(|| panic!("{printed}{}", String::from_utf8_lossy(&output.stderr)))
}

fn records(quick: usize) -> usize {
    env::var(RECORDS).map_or(quick, |number| number.parse().unwrap())
}

#[test]
#[ignore = "a process of `one_key_any_number_of_times_stays_within_the_memory`"]
fn one_key() {
    fold_records(|_| "fbe53c66-3442-4773-b19e-d3ec6f54dddf".to_owned());
}

#[test]
fn one_key_any_number_of_times_stays_within_the_memory() {
    let records = records(200_000);
    let (peak, rows, title) = measured("one_key", records);
    assert!(peak < LIMIT, "{} MiB", peak >> 20);
    assert_eq!(rows, 1);
    assert_eq!(title, format!("\"version {}\"", records - 1));
}

#[test]
#[ignore = "a process of `a_bucket_larger_than_the_memory_is_sorted_on_disk`"]
fn many_keys() {
    fold_records(|number| format!("{:09}", number * 7_919 % 1_000_003));
}

#[test]
fn a_bucket_larger_than_the_memory_is_sorted_on_disk() {
    // 120 MB of rows; of three million records two thirds repeat a key.
    let records = records(150_000);
    let (peak, rows, _) = measured("many_keys", records);
    assert!(peak < LIMIT, "{} MiB", peak >> 20);
    assert_eq!(rows, records.min(1_000_003));
}

#[test]
fn sorting_on_disk_gives_the_same_rows_as_in_memory() {
    let folder = TestDir::new();
    let mut spill = Spill::new(
        &folder.file("read"),
        rows::read_schema(Kind::Pin),
        1,
        1 << 20,
    );
    let mut batches = Vec::new();
    for chunk in 0..30 {
        let mut cleaner = crate::decode::Cleaner::new(Kind::Pin, 4000);
        for row in 0..500 {
            let number = chunk * 500 + row;
            // Half of the records have the same key, which goes over several batches.
            let key = if number % 2 == 0 { 0 } else { number % 97 };
            let mut text = Vec::new();
            line(&format!("{key:05}"), number, &mut text);
            let order = |offset: usize| Order {
                time: 0,
                partition: 0,
                offset: i64::try_from(offset).unwrap(),
            };
            let of_equal_order = order(number * 7 % 1000);
            cleaner
                .record(text.trim_ascii(), of_equal_order, order(number))
                .unwrap();
        }
        let rows = cleaner.finish().unwrap().0[0].to_rows(Kind::Pin).unwrap();
        spill.push(&rows, &vec![0; rows.num_rows()]).unwrap();
        batches.push(rows);
    }
    let spilled = spill.finish().unwrap().remove(0).unwrap();
    let expected: Vec<RecordBatch> = latest(Kind::Pin, &batches).map(Result::unwrap).collect();
    let expected =
        arrow::compute::concat_batches(&rows::read_schema(Kind::Pin), &expected).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let path = folder.path().to_owned();
    let sorted: Vec<RecordBatch> = runtime.block_on(async {
        tokio::task::spawn_blocking(move || {
            Sorted::new(Kind::Pin, &spilled, &path, 4 << 20)
                .unwrap()
                .map(Result::unwrap)
                .collect()
        })
        .await
        .unwrap()
    });
    assert!(sorted.len() > 1, "more than one batch");
    let sorted = arrow::compute::concat_batches(&rows::read_schema(Kind::Pin), &sorted).unwrap();
    assert_eq!(sorted, expected);
}
