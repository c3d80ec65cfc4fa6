//! Reads the raw objects of a manifest: several concurrently, cleaned as they arrive, and spilled
//! to disk by bucket.
//!
//! Memory is bounded, whatever the number of records: a few chunks and the spill's buffers.

mod imported;
mod lines;
#[cfg(test)]
mod server_tests;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pinpipe_config::{Batch, Topic, Topics};
use pinpipe_core::Kind;
use pinpipe_runtime::raw_zone::RawPartition;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
};
use tracing::info;

pub use self::lines::Lines;
use crate::{
    coverage::{Span, Spans},
    decode::{Cleaner, ReadStats},
    failure::{InSource, Permanent},
    manifest::{Manifest, PassedOver, RawObject, Window, pass_over_all},
    progress::Progress,
    retry::{RETRY_TIMEOUT, retry},
    rows::{self, Chunk},
    source,
    spill::{Spill, Spilled, buckets_of},
    store::Store,
};

/// Objects read concurrently.
const READERS: usize = 4;
/// Capacity of the channel of chunks to be spilled.
const CHUNKS: usize = 4;
/// Interval of progress log lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The result of reading.
pub struct Read {
    /// Clean rows by kind and bucket. A key may have several.
    pub rows: BTreeMap<Kind, Vec<Option<Spilled>>>,
    /// Statistics by kind.
    pub stats: BTreeMap<Kind, ReadStats>,
    /// What the archive's objects cover.
    pub spans: Spans,
    /// Imported objects that couldn't be read to their end.
    pub passed_over: PassedOver,
}

/// The result of reading one unit of work.
#[derive(Default)]
struct UnitRead {
    stats: ReadStats,
    /// What an object of the archive covers.
    span: Option<Span>,
    /// Imported objects that couldn't be read to their end.
    passed_over: PassedOver,
    /// Why one of them couldn't.
    corrupt: Option<String>,
}

/// The topic of a kind.
pub fn topic(topics: &Topics, kind: Kind) -> &Topic {
    match kind {
        Kind::Pin => &topics.pin,
        Kind::Geo => &topics.geo,
        Kind::User => &topics.user,
    }
}

type ChunkSender = Sender<(Kind, Chunk)>;

/// Reads and cleans all objects of a manifest. Rows are written to files in `folder`; up to
/// `budget` bytes of them are buffered in memory. Records that were read are added to `progress`.
pub async fn read(
    config: &Batch,
    store: &Store,
    manifest: &Manifest,
    folder: &Path,
    budget: usize,
    progress: &Progress,
) -> Result<Read> {
    let (chunks, arriving) = channel(CHUNKS);
    let (buckets, folder) = (manifest.buckets, folder.to_owned());
    let spilling = tokio::task::spawn_blocking(move || spill(arriving, buckets, &folder, budget));
    let read = read_all(config, store, manifest, chunks, progress).await;
    // If the disk is full, readers only see a closed channel: the spill's error comes first.
    let rows = spilling.await??;
    let (stats, spans, passed_over) = read?;
    Ok(Read {
        rows,
        stats,
        spans,
        passed_over,
    })
}

fn spill(
    mut arriving: Receiver<(Kind, Chunk)>,
    buckets: u32,
    folder: &Path,
    budget: usize,
) -> Result<BTreeMap<Kind, Vec<Option<Spilled>>>> {
    let spill = |kind: Kind| {
        let stem = folder.join(format!("read-{kind}"));
        (
            kind,
            Spill::latest_of(kind, &stem, buckets, budget / Kind::ALL.len()),
        )
    };
    let mut spills = BTreeMap::from(Kind::ALL.map(spill));
    while let Some((kind, chunk)) = arriving.blocking_recv() {
        let rows = rows::latest_per_key(kind, chunk.to_rows(kind)?)?;
        if let Some(spill) = spills.get_mut(&kind) {
            spill.push(&rows, &buckets_of(rows.column(0), buckets))?;
        }
    }
    spills
        .into_iter()
        .map(|(kind, spill)| Ok((kind, spill.finish()?)))
        .collect()
}

async fn read_all(
    config: &Batch,
    store: &Store,
    manifest: &Manifest,
    chunks: ChunkSender,
    progress: &Progress,
) -> Result<(BTreeMap<Kind, ReadStats>, Spans, PassedOver)> {
    let max_bytes = usize::try_from(config.max_record_bytes)?;
    let if_deleted = "can't read a raw object that the run needs";
    let total = manifest.objects.len();
    let source = manifest.import.source.as_ref();
    let imports = source::open_or(source, store).await?;
    let mut pending = units(&manifest.objects).into_iter();
    let mut tasks: JoinSet<Result<(Vec<RawObject>, UnitRead)>> = JoinSet::new();
    let mut start = |tasks: &mut JoinSet<_>| {
        if let Some(unit) = pending.next().map(<[RawObject]>::to_vec) {
            let window =
                manifest.window(&topic(&config.topics, unit[0].kind).name, unit[0].partition);
            let is_imported = imported::is_imported(&unit[0]);
            let (store, chunks) = (if is_imported { &imports } else { store }, chunks.clone());
            let (store, source) = (store.clone(), source.filter(|_| is_imported).cloned());
            tasks.spawn(async move {
                let read = read_unit(&store, &unit, &window, max_bytes, &chunks).await;
                let read = read.map_err(|error| match &source {
                    Some(source) => source::explain(source, error).context(InSource),
                    None => error.context(if_deleted),
                });
                Ok((unit, read?))
            });
        }
    };
    for _ in 0..READERS {
        start(&mut tasks);
    }
    let mut stats: BTreeMap<Kind, ReadStats> =
        Kind::ALL.map(|kind| (kind, ReadStats::default())).into();
    let (mut spans, mut all_passed_over) = (Spans::new(), PassedOver::new());
    let mut first_corrupt = None;
    let (started, mut last_logged) = (Instant::now(), Instant::now());
    let (mut done, mut records) = (0, 0);
    while let Some(task) = tasks.join_next().await {
        let (objects, read) = task??;
        let UnitRead {
            stats: unit,
            span,
            passed_over,
            corrupt,
        } = read;
        first_corrupt = first_corrupt.or(corrupt);
        pass_over_all(&mut all_passed_over, passed_over);
        start(&mut tasks);
        let RawObject {
            kind, partition, ..
        } = objects[0];
        done += objects.len();
        records += unit.counts.read;
        progress.read(unit.counts.read);
        let all = stats.entry(kind).or_default();
        all.counts += &unit.counts;
        all.latest = all.latest.max(unit.latest);
        all.bytes += unit.bytes;
        if let Some(span) = span {
            let topic = topic(&config.topics, kind).name.clone();
            let partition = RawPartition { topic, partition };
            spans.entry(partition).or_default().push(span);
        }
        if done == total || last_logged.elapsed() >= LOG_EVERY {
            let per_second = (records as f64 / started.elapsed().as_secs_f64().max(0.001)).round();
            info!(
                objects = done,
                of = total,
                records,
                per_second,
                "raw objects read"
            );
            last_logged = Instant::now();
        }
    }
    if let Some(corrupt) = first_corrupt.filter(|_| records == 0)
        && all_passed_over
            .values()
            .map(|passed| passed.objects)
            .sum::<u64>()
            == total as u64
    {
        bail!(Permanent(format!(
            "none of the objects below import.prefix can be decompressed, such as {corrupt}: write \
             them again, or correct import.prefix"
        )));
    }
    Ok((stats, spans, all_passed_over))
}

/// The units of work of a reader: one object each, or many small imported objects of one kind.
fn units(objects: &[RawObject]) -> Vec<&[RawObject]> {
    let is_small = imported::is_small;
    let groups = objects.chunk_by(|a, b| is_small(a) && is_small(b) && a.kind == b.kind);
    groups
        .flat_map(|objects| objects.chunks(imported::OBJECTS))
        .collect()
}

async fn read_unit(
    store: &Store,
    unit: &[RawObject],
    window: &Window,
    max_bytes: usize,
    chunks: &ChunkSender,
) -> Result<UnitRead> {
    if imported::is_imported(&unit[0]) {
        return imported::read(store, unit, max_bytes, chunks).await;
    }
    let object = &unit[0];
    // A second attempt sends chunks again, which is harmless: rows of the same record are merged.
    retry(RETRY_TIMEOUT, "reading a raw object", || {
        read_lines(store, object, window, max_bytes, chunks)
    })
    .await
    .with_context(|| object.key.clone())
}

async fn read_lines(
    store: &Store,
    object: &RawObject,
    window: &Window,
    max_bytes: usize,
    chunks: &ChunkSender,
) -> Result<UnitRead> {
    let cleaner = Cleaner::new(object.kind, max_bytes);
    let mut lines = Lines::open(store, object, window, cleaner).await?;
    while lines.read().await? {
        send(chunks, object.kind, lines.records().ready()).await?;
    }
    let (span, bytes) = (lines.span.take(), lines.bytes);
    let (rest, stats) = lines.finish()?.finish()?;
    send(chunks, object.kind, rest).await?;
    Ok(UnitRead {
        stats: ReadStats { bytes, ..stats },
        span,
        ..UnitRead::default()
    })
}

/// Sends chunks to be spilled, and lets other tasks go on: the Lease must be renewed.
async fn send(chunks: &ChunkSender, kind: Kind, ready: Vec<Chunk>) -> Result<()> {
    tokio::task::yield_now().await;
    for chunk in ready {
        chunks
            .send((kind, chunk))
            .await
            .ok()
            .context("can't write rows to the scratch folder")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pinpipe_core::Order;

    use super::*;
    use crate::manifest::{Format, Imported};

    /// Versions of one user.
    fn versions(offsets: std::ops::Range<i64>) -> Chunk {
        let mut cleaner = Cleaner::new(Kind::User, 1000);
        for offset in offsets {
            let raw = format!("{{\"ind\": 7, \"first_name\": \"{offset}\"}}");
            let order = Order {
                time: 0,
                partition: 0,
                offset,
            };
            cleaner.record(raw.as_bytes(), order, order).unwrap();
        }
        cleaner.finish().unwrap().0.remove(0)
    }

    #[test]
    fn repeats_of_a_key_are_dropped_before_rows_are_written() {
        for budget in [0, usize::MAX] {
            let folder = crate::testing::TestDir::new();
            let (chunks, arriving) = channel(20);
            for start in 0..20 {
                let chunk = versions(start * 1000..(start + 1) * 1000);
                chunks.try_send((Kind::User, chunk)).unwrap();
            }
            drop(chunks);
            let mut rows = spill(arriving, 64, folder.path(), budget).unwrap();
            let spilled: Vec<Spilled> = rows
                .remove(&Kind::User)
                .unwrap()
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(spilled.len(), 1);
            assert!(spilled[0].stream.rows <= 20, "{}", spilled[0].stream.rows);
            let last = spilled[0].stream.batches().last().unwrap().unwrap();
            let row = crate::cells::row(&last, last.num_rows() - 1).unwrap();
            assert_eq!(
                row[1],
                crate::cells::Cell::Text("19999"),
                "the latest stays"
            );
        }
    }

    #[test]
    fn small_imported_objects_are_grouped_and_other_objects_are_not() {
        let object = |kind, format| RawObject {
            kind,
            partition: 0,
            key: String::new(),
            format,
        };
        let imported = |kind, bytes| {
            let imported = Imported {
                modified: 0,
                number: 0,
                bytes,
                etag: None,
            };
            object(kind, Format::Imported(imported))
        };
        let mut objects = vec![
            object(Kind::Pin, Format::Archive),
            object(Kind::Pin, Format::Connector(3)),
            imported(Kind::Pin, 1 << 30),
        ];
        objects.extend((0..300).map(|_| imported(Kind::Pin, 500)));
        objects.extend((0..2).map(|_| imported(Kind::Geo, 500)));
        let sizes: Vec<usize> = units(&objects)
            .into_iter()
            .map(<[RawObject]>::len)
            .collect();
        assert_eq!(sizes, [1, 1, 1, 256, 44, 2]);
    }
}
