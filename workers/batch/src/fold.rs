//! What a run has read, folded into the state: bucket by bucket, a few at once, within a bound of
//! memory.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result};
use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::take_record_batch,
    error::ArrowError,
};
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_core::Kind;
use tokio::sync::Semaphore;
use tracing::info;

use crate::{
    facts::{Buckets, Sides},
    manifest::Manifest,
    memory::Memory,
    merge::{Merged, merge},
    read::Read,
    rows,
    scratch::{Scratch, Stream, Writer, discard, read as read_stream},
    spill::{Spilled, buckets_of},
    state::{Part, State, States},
    store::Store,
};

/// Buckets worked on at once at most.
const AT_ONCE: usize = 8;
/// What a bucket takes beside the rows read: batches of what was kept, on their way through.
const OVERHEAD: u64 = 16 << 20;
/// How many times the rows read of a bucket are in memory: as they are, and as batches of the
/// result.
const COPIES: u64 = 2;

/// What a run leaves behind, and what the steps after it work on.
pub struct Folded {
    /// The state, of which every object is written.
    pub state: State,
    /// Clean rows that this run has changed, by kind.
    pub changed: BTreeMap<Kind, Vec<Stream>>,
    /// All rows, for the join.
    pub sides: Buckets,
}

/// The work on one bucket.
struct Job {
    kind: Kind,
    bucket: u32,
    read: Option<Spilled>,
    kept: Option<Part>,
}

/// What all jobs share.
struct Shared {
    scratch: Scratch,
    sides: Sides,
    run: String,
    buckets: u32,
    /// There were fewer buckets: what was kept holds rows of other buckets too.
    regroups: bool,
}

/// Makes the state of the run `manifest` out of that of the run it builds on and what was read.
pub async fn fold(
    store: &Store,
    states: &States,
    manifest: &Manifest,
    base: Option<&State>,
    mut read: Read,
    scratch: &Scratch,
    memory: &Memory,
) -> Result<Folded> {
    let buckets = manifest.buckets;
    let shared = Arc::new(Shared {
        scratch: scratch.clone(),
        sides: Sides::new(scratch.folder(), buckets, memory.waiting),
        run: manifest.run.clone(),
        buckets,
        regroups: base.is_some_and(|base| base.buckets < buckets),
    });
    let mut jobs = Vec::new();
    for kind in Kind::ALL {
        let mut spilled = read.rows.remove(&kind).unwrap_or_default().into_iter();
        for bucket in 0..buckets {
            let read = spilled.next().flatten();
            let kept = base
                .and_then(|base| base.part(kind, bucket % base.buckets))
                .cloned();
            if read.is_some() || kept.is_some() {
                jobs.push(Job {
                    kind,
                    bucket,
                    read,
                    kept,
                });
            }
        }
    }
    let mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    let room = mib(memory.merging as u64).max(1);
    let semaphore = Semaphore::new(usize::try_from(room)?);
    let total = jobs.len();
    let results = stream::iter(jobs).map(|job| async {
        let bytes = job.read.as_ref().map_or(0, |read| read.bytes * COPIES) + OVERHEAD;
        let _room = semaphore.acquire_many(mib(bytes).clamp(1, room)).await?;
        let (kind, bucket) = (job.kind, job.bucket);
        let done = fold_bucket(store, states, &shared, job).await;
        done.map(|done| (kind, done))
            .with_context(|| format!("bucket {bucket} of {kind}"))
    });
    let results: Vec<_> = results.buffer_unordered(AT_ONCE).try_collect().await?;
    let mut tables: BTreeMap<Kind, Vec<Part>> = BTreeMap::new();
    let mut changed: BTreeMap<Kind, Vec<Stream>> = BTreeMap::new();
    for (kind, (part, rows)) in results {
        tables.entry(kind).or_default().extend(part);
        changed.entry(kind).or_default().extend(rows);
    }
    // In the order of the buckets, whichever was done first.
    for parts in tables.values_mut() {
        parts.sort_unstable_by_key(|part| part.bucket);
    }
    for streams in changed.values_mut() {
        streams.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    }
    let latest = Kind::ALL.into_iter().filter_map(|kind| {
        let read = read.seen.get(&kind).map_or(0, |seen| seen.latest);
        let kept = base
            .and_then(|base| base.latest.get(&kind))
            .copied()
            .unwrap_or(0);
        Some((kind, read.max(kept))).filter(|(_, latest)| *latest > 0)
    });
    let state = State {
        run: manifest.run.clone(),
        buckets,
        tables,
        latest: latest.collect(),
    };
    info!(buckets = total, bytes = state.bytes(), "state written");
    let sides = Arc::into_inner(shared)
        .context("a bucket is still being worked on")?
        .sides
        .finish()?;
    Ok(Folded {
        state,
        changed,
        sides,
    })
}

/// One bucket: gives what of it is state now, and what has changed.
async fn fold_bucket(
    store: &Store,
    states: &States,
    shared: &Arc<Shared>,
    job: Job,
) -> Result<(Option<Part>, Option<Stream>)> {
    let (kind, bucket) = (job.kind, job.bucket);
    let kept = match &job.kept {
        Some(part) => {
            let path = shared.scratch.file(&format!("kept-{kind}-{bucket}.arrow"));
            store
                .get_file(&part.key, &path)
                .await
                .context("the state of the last run: run with --full where it is gone")?;
            Some(path)
        }
        None => None,
    };
    if job.read.is_none() && !shared.regroups {
        let shared = Arc::clone(shared);
        tokio::task::spawn_blocking(move || pass(kind, kept.as_deref(), &shared.sides)).await??;
        return Ok((job.kept, None));
    }
    let worker = Arc::clone(shared);
    let written = tokio::task::spawn_blocking(move || {
        rewrite(kind, bucket, job.read.as_ref(), kept.as_deref(), &worker)
    })
    .await??;
    let (state, changed) = written;
    let Some(state) = state else {
        return Ok((None, None));
    };
    let key = states.object(kind, bucket, &shared.run);
    let bytes = store.put_file(&key, &state.path).await?;
    discard(&state.path);
    Ok((
        Some(Part {
            bucket,
            key,
            rows: state.rows,
            bytes,
        }),
        changed,
    ))
}

/// A bucket that stays as it is: only the join wants its rows.
fn pass(kind: Kind, kept: Option<&Path>, sides: &Sides) -> Result<()> {
    if let Some(kept) = kept {
        for rows in read_stream(kept)? {
            sides.push(kind, &rows?)?;
        }
        discard(kept);
    }
    Ok(())
}

/// Where the rows of a bucket go. Files are made at the first row.
struct Out<'a> {
    kind: Kind,
    bucket: u32,
    shared: &'a Shared,
    state: Option<Writer>,
    changed: Option<Writer>,
}

impl Merged for Out<'_> {
    fn row_batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.shared.sides.push(self.kind, &batch)?;
        let state = match &mut self.state {
            Some(state) => state,
            none => {
                let path = self
                    .shared
                    .scratch
                    .file(&format!("state-{}-{}.arrow", self.kind, self.bucket));
                none.insert(Writer::compressed(path, &rows::state_schema(self.kind))?)
            }
        };
        state.write(&batch)
    }

    fn changed_batch(&mut self, batch: RecordBatch) -> Result<()> {
        let changed = match &mut self.changed {
            Some(changed) => changed,
            none => {
                let path = self
                    .shared
                    .scratch
                    .file(&format!("changed-{}-{:04}.arrow", self.kind, self.bucket));
                none.insert(Writer::plain(path, &crate::columns::schema(self.kind))?)
            }
        };
        changed.write(&batch)
    }
}

fn rewrite(
    kind: Kind,
    bucket: u32,
    spilled: Option<&Spilled>,
    kept: Option<&Path>,
    shared: &Shared,
) -> Result<(Option<Stream>, Option<Stream>)> {
    let read = match spilled {
        Some(spilled) => spilled.stream.read()?.collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let own = |batch: Result<RecordBatch, ArrowError>| match batch {
        Ok(batch) if shared.regroups => of_bucket(&batch, bucket, shared.buckets),
        batch => batch,
    };
    let stream = kept.map(read_stream).transpose()?;
    let mut out = Out {
        kind,
        bucket,
        shared,
        state: None,
        changed: None,
    };
    merge(kind, stream.into_iter().flatten().map(own), &read, &mut out)?;
    let files = (
        out.state.map(Writer::finish).transpose()?,
        out.changed.map(Writer::finish).transpose()?,
    );
    for path in spilled
        .into_iter()
        .map(|spilled| spilled.stream.path.as_path())
        .chain(kept)
    {
        discard(path);
    }
    Ok(files)
}

/// The rows of one bucket.
fn of_bucket(batch: &RecordBatch, bucket: u32, buckets: u32) -> Result<RecordBatch, ArrowError> {
    let found = buckets_of(batch.column(0), buckets);
    let rows = (0..)
        .zip(found)
        .filter(|(_, found)| *found == bucket)
        .map(|(row, _)| row);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows))
}
