//! Reads the raw objects of a manifest: several concurrently, cleaned as they arrive, and spilled
//! to disk by bucket.
//!
//! Memory is bounded, whatever the number of records: a few chunks and the spill's buffers.

use std::{
    collections::BTreeMap,
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::{Batch, Topic, Topics};
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::{
    compressed::Decompressor,
    raw_zone::{self, Index, ObjectMetadata, RawPartition},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
};
use tracing::info;

use crate::{
    coverage::{Span, Spans},
    decode::{Cleaner, LineDecoder, LinePositions, ReadStats},
    failure::Permanent,
    manifest::{Format, Manifest, RawObject, Window},
    retry::{RETRY_TIMEOUT, retry},
    rows::{self, Chunk},
    spill::{Spill, Spilled, buckets_of},
    store::Store,
};

/// Objects read concurrently.
const READERS: usize = 4;
/// Single-record objects that a reader takes at a time.
const SINGLES: usize = 256;
/// Single-record objects that a reader reads concurrently.
const REQUESTS: usize = 8;
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
}

/// The result of reading one unit of work.
#[derive(Default)]
struct UnitRead {
    stats: ReadStats,
    /// What an object of the archive covers.
    span: Option<Span>,
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
/// `budget` bytes of them are buffered in memory.
pub async fn read(
    config: &Batch,
    store: &Store,
    manifest: &Manifest,
    folder: &Path,
    budget: usize,
) -> Result<Read> {
    let (chunks, arriving) = channel(CHUNKS);
    let (buckets, folder) = (manifest.buckets, folder.to_owned());
    let spilling = tokio::task::spawn_blocking(move || spill(arriving, buckets, &folder, budget));
    let read = read_all(config, store, manifest, chunks).await;
    // If the disk is full, readers only see a closed channel: the spill's error comes first.
    let rows = spilling.await??;
    let (stats, spans) = read?;
    Ok(Read { rows, stats, spans })
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
) -> Result<(BTreeMap<Kind, ReadStats>, Spans)> {
    let max_bytes = usize::try_from(config.max_record_bytes)?;
    let if_deleted = "can't read a raw object that the run needs";
    let total = manifest.objects.len();
    let mut pending = units(&manifest.objects).into_iter();
    let mut tasks: JoinSet<Result<(Vec<RawObject>, UnitRead)>> = JoinSet::new();
    let mut start = |tasks: &mut JoinSet<_>| {
        if let Some(unit) = pending.next().map(<[RawObject]>::to_vec) {
            let window =
                manifest.window(&topic(&config.topics, unit[0].kind).name, unit[0].partition);
            let (store, chunks) = (store.clone(), chunks.clone());
            tasks.spawn(async move {
                let read = read_unit(&store, &unit, &window, max_bytes, &chunks)
                    .await
                    .context(if_deleted)?;
                Ok((unit, read))
            });
        }
    };
    for _ in 0..READERS {
        start(&mut tasks);
    }
    let mut stats: BTreeMap<Kind, ReadStats> =
        Kind::ALL.map(|kind| (kind, ReadStats::default())).into();
    let mut spans = Spans::new();
    let (started, mut last_logged) = (Instant::now(), Instant::now());
    let (mut done, mut records) = (0, 0);
    while let Some(task) = tasks.join_next().await {
        let (objects, UnitRead { stats: unit, span }) = task??;
        start(&mut tasks);
        let RawObject {
            kind, partition, ..
        } = objects[0];
        done += objects.len();
        records += unit.counts.read;
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
    Ok((stats, spans))
}

/// The units of work of a reader: one object each, or many single-record objects of one kind.
fn units(objects: &[RawObject]) -> Vec<&[RawObject]> {
    let single = |object: &RawObject| matches!(object.format, Format::Single(_));
    let groups = objects.chunk_by(|a, b| single(a) && single(b) && a.kind == b.kind);
    groups.flat_map(|objects| objects.chunks(SINGLES)).collect()
}

async fn read_unit(
    store: &Store,
    unit: &[RawObject],
    window: &Window,
    max_bytes: usize,
    chunks: &ChunkSender,
) -> Result<UnitRead> {
    if let [
        RawObject {
            format: Format::Single(_),
            ..
        },
        ..,
    ] = unit
    {
        let stats = read_singles(store, unit, max_bytes, chunks).await?;
        return Ok(UnitRead { stats, span: None });
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
    let response = store.get_once(&object.key).await?;
    let mut span = None;
    let positions = match object.format {
        Format::Archive => {
            let metadata = ObjectMetadata::from_metadata(&response.metadata.unwrap_or_default())
                .map_err(|error| Permanent(error.to_string()))?;
            span = raw_zone::first_offset(&object.key)
                .map(|first| Span::new(&object.key, first, &metadata));
            if metadata.record_count == 0 {
                // A gap that was told to be one. It needs no index.
                let stats = ReadStats::default();
                return Ok(UnitRead { stats, span });
            }
            LinePositions::Index(store.get_json_once::<Index>(&metadata.index).await?)
        }
        Format::Connector(first) | Format::Single(first) => LinePositions::From(first),
    };
    let mut decompressor =
        Decompressor::for_key(&object.key).map_err(|error| Permanent(error.to_string()))?;
    let mut decoder = LineDecoder::new(
        Cleaner::new(object.kind, max_bytes),
        object.partition,
        window.clone(),
        positions,
    )?;
    let (mut body, mut bytes) = (response.body, 0);
    while let Some(piece) = body.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        decompressor.push(&piece, |text| decoder.push(text))?;
        send(chunks, object.kind, decoder.ready()).await?;
    }
    decompressor.finish()?;
    let (rest, stats) = decoder.finish()?;
    send(chunks, object.kind, rest).await?;
    let stats = ReadStats { bytes, ..stats };
    Ok(UnitRead { stats, span })
}

/// Reads objects with a single record each, however it is indented.
async fn read_singles(
    store: &Store,
    objects: &[RawObject],
    max_bytes: usize,
    chunks: &ChunkSender,
) -> Result<ReadStats> {
    let mut cleaner = Cleaner::new(objects[0].kind, max_bytes);
    let mut bytes = 0;
    let read = stream::iter(objects.to_vec())
        .map(|object| async move {
            let reading = retry(RETRY_TIMEOUT, "reading an object", || {
                read_single(store, &object.key, max_bytes)
            });
            let raw = reading.await.with_context(|| object.key.clone())?;
            anyhow::Ok((object, raw))
        })
        .buffered(REQUESTS);
    let mut read = pin!(read);
    while let Some((object, (raw, size))) = read.try_next().await? {
        bytes += size;
        let Format::Single(number) = object.format else {
            continue;
        };
        let order = Order {
            time: 0,
            partition: object.partition,
            offset: number,
        };
        cleaner.record(raw.trim_ascii_end(), order, order)?;
        send(chunks, objects[0].kind, cleaner.ready()).await?;
    }
    let kind = objects[0].kind;
    let (rest, stats) = cleaner.finish()?;
    send(chunks, kind, rest).await?;
    Ok(ReadStats { bytes, ..stats })
}

/// Reads one object with a single record, without the white space before it. Returns it with the
/// object's size; of an object larger than a record may be, only as much as shows that.
async fn read_single(store: &Store, key: &str, max_bytes: usize) -> Result<(Vec<u8>, u64)> {
    let mut body = store.get_once(key).await?.body;
    let (mut record, mut size) = (SingleRecord::new(max_bytes), 0);
    while let Some(piece) = body.next().await {
        let piece = piece?;
        size += piece.len() as u64;
        record.push(&piece);
    }
    Ok((record.0, size))
}

/// The bytes of a single record as they arrive, and the most there may be.
struct SingleRecord(Vec<u8>, usize);

impl SingleRecord {
    const fn new(max_bytes: usize) -> Self {
        Self(Vec::new(), max_bytes)
    }

    fn push(&mut self, mut piece: &[u8]) {
        let Self(kept, most) = self;
        if kept.is_empty() {
            piece = piece.trim_ascii_start();
        }
        let room = most.saturating_sub(kept.len());
        let (within, beyond) = piece.split_at(piece.len().min(room));
        kept.extend_from_slice(within);
        // One byte more shows that the record is too large; white space behind it doesn't count.
        if kept.len() == *most && !beyond.trim_ascii().is_empty() {
            kept.push(b'x');
        }
    }
}

async fn send(chunks: &ChunkSender, kind: Kind, ready: Vec<Chunk>) -> Result<()> {
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
    use super::*;

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
    fn a_single_record_is_kept_up_to_the_limit_without_white_space_around_it() {
        let read = |pieces: &[&[u8]]| {
            let mut record = SingleRecord::new(4);
            for piece in pieces {
                record.push(piece);
            }
            record.0.trim_ascii_end().to_vec()
        };
        assert_eq!(read(&[b" \n", b" ab", b"cd\n", b"\n\n"]), b"abcd");
        assert_eq!(read(&[b"a ", b" b"]), b"a  b");
        for large in [
            &[&b"abcde"[..]][..],
            &[b"abcd", b" ", b"e"],
            &[&[b'x'; 1000][..]; 9],
        ] {
            assert_eq!(read(large).len(), 5, "one more than allowed");
        }
    }

    #[test]
    fn single_record_objects_are_grouped_and_other_objects_are_not() {
        let object = |kind, format| RawObject {
            kind,
            partition: 0,
            key: String::new(),
            format,
        };
        let mut objects = vec![
            object(Kind::Pin, Format::Archive),
            object(Kind::Pin, Format::Connector(3)),
        ];
        let singles =
            |kind, count| (0..count).map(move |number| object(kind, Format::Single(number)));
        objects.extend(singles(Kind::Pin, 300).chain(singles(Kind::Geo, 2)));
        let sizes: Vec<usize> = units(&objects)
            .into_iter()
            .map(<[RawObject]>::len)
            .collect();
        assert_eq!(sizes, [1, 1, 256, 44, 2]);
    }
}
