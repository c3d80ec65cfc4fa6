//! Benchmark of cleaning against sonic-rs, which decodes the same bytes into typed records without
//! cleaning them.
//!
//! Run with `cargo bench -p pinpipe-core`. Results and method: docs/internals/performance.md.

mod plain;
mod sample;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use pinpipe_core::{Kind, clean, record_key};
use sample::Sample;

/// Records in a sample. Few enough to stay in the CPU cache, like records just consumed.
const RECORDS: usize = 1_000;

const LIMIT: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decode");
    group
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    for (name, kinds) in [
        ("pin", &[Kind::Pin][..]),
        ("geo", &[Kind::Geo]),
        ("user", &[Kind::User]),
        ("mix", &Kind::ALL),
    ] {
        let sample = Sample::of(kinds, RECORDS);
        println!("{name}: {}", sample.summary());
        group.throughput(Throughput::ElementsAndBytes {
            elements: RECORDS as u64,
            bytes: sample.bytes(),
        });
        group.bench_function(BenchmarkId::new("plain-sonic-rs", name), |bencher| {
            bencher.iter(|| {
                sample.each(|kind, raw| _ = black_box(plain::decode(kind, black_box(raw))));
            });
        });
        group.bench_function(BenchmarkId::new("clean", name), |bencher| {
            bencher.iter(|| {
                sample.each(|kind, raw| _ = black_box(clean(kind, black_box(raw), LIMIT)));
            });
        });
        group.bench_function(BenchmarkId::new("record-key", name), |bencher| {
            bencher.iter(|| {
                sample.each(|kind, raw| _ = black_box(record_key(kind, black_box(raw), LIMIT)));
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
