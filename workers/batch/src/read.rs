//! Reading the raw objects of a manifest: several at once, cleaned as they come, and spilled to
//! disk by bucket.
//!
//! In memory are a few chunks and what waits to be written, whatever the number of records.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use pinpipe_config::{Batch, Topic, Topics};
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::{
    compressed::Decompressor,
    raw_zone::{Facts, Index},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
};
use tracing::info;

use crate::{
    decode::{Cleaner, Lines, Places, Seen},
    manifest::{Form, Manifest, RawObject, Window},
    retry::{Hopeless, PATIENCE, patiently},
    rows::{self, Chunk},
    spill::{Spill, Spilled, buckets_of},
    store::Store,
};

/// Objects read at once.
const READERS: usize = 4;
/// Objects of one record each that one reader takes at a time.
const SINGLES: usize = 256;
/// Chunks on their way to the disk.
const CHUNKS: usize = 4;
/// How often the log says how far reading is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What was read.
pub struct Read {
    /// Clean rows by kind and bucket, repeats of a key among them.
    pub rows: BTreeMap<Kind, Vec<Option<Spilled>>>,
    /// What was seen, by kind.
    pub seen: BTreeMap<Kind, Seen>,
}

/// The topic of one kind.
pub fn topic(topics: &Topics, kind: Kind) -> &Topic {
    match kind {
        Kind::Pin => &topics.pin,
        Kind::Geo => &topics.geo,
        Kind::User => &topics.user,
    }
}

/// Where chunks go.
type Chunks = Sender<(Kind, Chunk)>;

/// Reads and cleans everything a manifest names. Rows go to files in `folder`; up to `budget` bytes
/// of them wait in memory.
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
    let seen = read_all(config, store, manifest, chunks).await;
    // Where the disk is full, readers only see that nobody takes their chunks: that comes first.
    let rows = spilling.await??;
    Ok(Read { rows, seen: seen? })
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
            Spill::new(
                &stem,
                rows::read_schema(kind),
                buckets,
                budget / Kind::ALL.len(),
            ),
        )
    };
    let mut spills = BTreeMap::from(Kind::ALL.map(spill));
    while let Some((kind, chunk)) = arriving.blocking_recv() {
        let rows = chunk.to_rows(kind)?;
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
    chunks: Chunks,
) -> Result<BTreeMap<Kind, Seen>> {
    let max_bytes = usize::try_from(config.max_record_bytes)?;
    let total = manifest.objects.len();
    let mut waiting = units(&manifest.objects).into_iter();
    let mut tasks: JoinSet<Result<(Kind, usize, Seen)>> = JoinSet::new();
    let mut start = |tasks: &mut JoinSet<_>| {
        if let Some(unit) = waiting.next().map(<[RawObject]>::to_vec) {
            let window =
                manifest.window(&topic(&config.topics, unit[0].kind).name, unit[0].partition);
            let (store, chunks) = (store.clone(), chunks.clone());
            tasks.spawn(async move {
                let seen = read_unit(&store, &unit, &window, max_bytes, &chunks).await?;
                Ok((unit[0].kind, unit.len(), seen))
            });
        }
    };
    for _ in 0..READERS {
        start(&mut tasks);
    }
    let mut seen: BTreeMap<Kind, Seen> = Kind::ALL.map(|kind| (kind, Seen::default())).into();
    let (begun, mut told) = (Instant::now(), Instant::now());
    let (mut done, mut records) = (0, 0);
    while let Some(task) = tasks.join_next().await {
        let (kind, objects, found) = task??;
        start(&mut tasks);
        done += objects;
        records += found.counts.read;
        let all = seen.entry(kind).or_default();
        all.counts += &found.counts;
        all.latest = all.latest.max(found.latest);
        all.bytes += found.bytes;
        if done == total || told.elapsed() >= TELL_EVERY {
            let per_second = (records as f64 / begun.elapsed().as_secs_f64().max(0.001)).round();
            info!(
                objects = done,
                of = total,
                records,
                per_second,
                "raw objects read"
            );
            told = Instant::now();
        }
    }
    Ok(seen)
}

/// What a reader takes at a time: one object, or many that are one record each.
fn units(objects: &[RawObject]) -> Vec<&[RawObject]> {
    let single = |object: &RawObject| matches!(object.form, Form::Single(_));
    let alike = objects.chunk_by(|a, b| single(a) && single(b) && a.kind == b.kind);
    alike.flat_map(|objects| objects.chunks(SINGLES)).collect()
}

async fn read_unit(
    store: &Store,
    unit: &[RawObject],
    window: &Window,
    max_bytes: usize,
    chunks: &Chunks,
) -> Result<Seen> {
    if let [
        RawObject {
            form: Form::Single(_),
            ..
        },
        ..,
    ] = unit
    {
        return read_singles(store, unit, max_bytes, chunks).await;
    }
    let object = &unit[0];
    // A second try sends chunks once more: rows of one order are one row in the end.
    patiently(PATIENCE, "reading a raw object", || {
        read_lines(store, object, window, max_bytes, chunks)
    })
    .await
    .with_context(|| gone(&object.key))
}

fn gone(key: &str) -> String {
    format!(
        "the raw object {key}: the run needs it; where it is gone for good, delete the run's manifest.json and start anew with --full \
         (PINPIPE_FULL=true)"
    )
}

async fn read_lines(
    store: &Store,
    object: &RawObject,
    window: &Window,
    max_bytes: usize,
    chunks: &Chunks,
) -> Result<Seen> {
    let got = store.get_once(&object.key).await?;
    let places = match object.form {
        Form::Archive => {
            let facts = Facts::from_metadata(&got.metadata.unwrap_or_default());
            let facts = facts.map_err(|error| Hopeless(error.to_string()))?;
            Places::Index(store.get_json_once::<Index>(&facts.index).await?)
        }
        Form::Connector(first) | Form::Single(first) => Places::From(first),
    };
    let mut unpack =
        Decompressor::for_key(&object.key).map_err(|error| Hopeless(error.to_string()))?;
    let mut lines = Lines::new(
        Cleaner::new(object.kind, max_bytes),
        object.partition,
        window.clone(),
        places,
    )?;
    let (mut body, mut bytes) = (got.body, 0);
    while let Some(piece) = body.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        unpack.push(&piece, |text| lines.push(text))?;
        send(chunks, object.kind, lines.ready()).await?;
    }
    unpack.finish()?;
    let (rest, seen) = lines.finish()?;
    send(chunks, object.kind, rest).await?;
    Ok(Seen { bytes, ..seen })
}

/// Objects that are one record each, with whatever white space is in them.
async fn read_singles(
    store: &Store,
    objects: &[RawObject],
    max_bytes: usize,
    chunks: &Chunks,
) -> Result<Seen> {
    let mut cleaner = Cleaner::new(objects[0].kind, max_bytes);
    let mut bytes = 0;
    for object in objects {
        let raw = patiently(PATIENCE, "reading an object", || async {
            Ok(store
                .get_once(&object.key)
                .await?
                .body
                .collect()
                .await?
                .into_bytes())
        });
        let raw = raw.await.with_context(|| gone(&object.key))?;
        bytes += raw.len() as u64;
        let Form::Single(number) = object.form else {
            continue;
        };
        let order = Order {
            time: 0,
            partition: object.partition,
            offset: number,
        };
        cleaner.record(raw.trim_ascii(), order, order)?;
    }
    let kind = objects[0].kind;
    send(chunks, kind, cleaner.ready()).await?;
    let (rest, seen) = cleaner.finish()?;
    send(chunks, kind, rest).await?;
    Ok(Seen { bytes, ..seen })
}

async fn send(chunks: &Chunks, kind: Kind, ready: Vec<Chunk>) -> Result<()> {
    for chunk in ready {
        chunks
            .send((kind, chunk))
            .await
            .ok()
            .context("what was read can't be written to the scratch folder")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_records_are_taken_together_and_other_objects_one_by_one() {
        let object = |kind, form| RawObject {
            kind,
            partition: 0,
            key: String::new(),
            form,
        };
        let mut objects = vec![
            object(Kind::Pin, Form::Archive),
            object(Kind::Pin, Form::Connector(3)),
        ];
        let singles =
            |kind, count| (0..count).map(move |number| object(kind, Form::Single(number)));
        objects.extend(singles(Kind::Pin, 300).chain(singles(Kind::Geo, 2)));
        let sizes: Vec<usize> = units(&objects)
            .into_iter()
            .map(<[RawObject]>::len)
            .collect();
        assert_eq!(sizes, [1, 1, 256, 44, 2]);
    }
}
