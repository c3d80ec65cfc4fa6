//! Folds the rows a run has read into the state, bucket by bucket: a few concurrently, with bounded
//! memory.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result};
use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::take_record_batch,
    error::ArrowError,
};
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::Batch;
use pinpipe_core::Kind;
use tokio::sync::Semaphore;
use tracing::info;

use crate::{
    join::{JoinInputFiles, JoinInputs},
    manifest::{Manifest, Positions},
    memory::Memory,
    merge::{MergeOutput, latest, merge},
    read::Read,
    rows,
    runs::full_run,
    scratch::{Scratch, Stream, Writer, read as read_stream, remove},
    sort::Sorted,
    spill::{Spilled, buckets_of},
    state::{Part, State, States},
    store::Store,
};

/// Most buckets processed concurrently.
const CONCURRENT_BUCKETS: usize = 8;
/// Memory of a bucket besides the rows read, bytes: stored rows, batch by batch.
const OVERHEAD: u64 = 16 << 20;
/// Copies in memory of the rows read of a bucket: the rows themselves, and batches of the result.
const COPIES: u64 = 2;

/// The new state, and the inputs of the steps that follow.
pub struct Folded {
    /// The state; all of its objects are written.
    pub state: State,
    /// Numbers of rows that this run has changed, by kind.
    pub changed_rows: BTreeMap<Kind, u64>,
    /// These rows, if they were asked for.
    pub changed: BTreeMap<Kind, Vec<Stream>>,
    /// All rows, for the join.
    pub join_inputs: JoinInputFiles,
}

/// The work on one bucket.
struct BucketJob {
    kind: Kind,
    bucket: u32,
    read: Option<Spilled>,
    stored: Option<Part>,
}

/// What all jobs share.
struct Shared {
    scratch: Scratch,
    join_inputs: JoinInputs,
    states: States,
    run: String,
    buckets: u32,
    /// Whether the earlier state has fewer buckets, so that each of them is split.
    splits: bool,
    keep_changed: bool,
    /// Memory of all buckets that are merged concurrently, bytes.
    merging: usize,
    full_run: String,
}

/// What became of one bucket.
struct FoldedBucket {
    part: Option<Part>,
    changed_rows: u64,
    changed: Option<Stream>,
}

/// Writes the state of the run `manifest`: the rows of `base`, the state it builds on, merged with
/// the rows read. Keeps the changed rows on disk only if there is a sink for them.
pub async fn fold(
    store: &Store,
    config: &Batch,
    manifest: &Manifest,
    base: Option<&State>,
    mut read: Read,
    scratch: &Scratch,
    memory: &Memory,
) -> Result<Folded> {
    let buckets = manifest.buckets;
    let shared = Arc::new(Shared {
        scratch: scratch.clone(),
        join_inputs: JoinInputs::new(scratch.folder(), buckets, memory.buffers),
        states: States::new(&config.pipeline),
        run: manifest.run.clone(),
        buckets,
        splits: base.is_some_and(|base| base.buckets < buckets),
        keep_changed: !config.sinks.is_empty(),
        merging: memory.merging,
        full_run: full_run(&config.pipeline),
    });
    let mut jobs = Vec::new();
    for kind in Kind::ALL {
        let mut spilled = read.rows.remove(&kind).unwrap_or_default().into_iter();
        for bucket in 0..buckets {
            let read = spilled.next().flatten();
            let stored = base
                .and_then(|base| base.part(kind, bucket % base.buckets))
                .cloned();
            if read.is_some() || stored.is_some() {
                jobs.push(BucketJob {
                    kind,
                    bucket,
                    read,
                    stored,
                });
            }
        }
    }
    let mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    let permits = mib(memory.merging as u64).max(1);
    let semaphore = Semaphore::new(usize::try_from(permits)?);
    let total = jobs.len();
    let results = stream::iter(jobs).map(|job| async {
        let bytes = memory_of(job.read.as_ref());
        let _permit = semaphore.acquire_many(mib(bytes).clamp(1, permits)).await?;
        let (kind, bucket) = (job.kind, job.bucket);
        let result = fold_bucket(store, &shared, job).await;
        result
            .map(|result| (kind, result))
            .with_context(|| format!("folding bucket {bucket} of {kind}"))
    });
    let results: Vec<_> = results
        .buffer_unordered(CONCURRENT_BUCKETS)
        .try_collect()
        .await?;
    let mut tables: BTreeMap<Kind, Vec<Part>> = BTreeMap::new();
    let mut changed: BTreeMap<Kind, Vec<Stream>> = BTreeMap::new();
    let mut changed_rows: BTreeMap<Kind, u64> = BTreeMap::new();
    for (kind, bucket) in results {
        tables.entry(kind).or_default().extend(bucket.part);
        *changed_rows.entry(kind).or_default() += bucket.changed_rows;
        changed.entry(kind).or_default().extend(bucket.changed);
    }
    // Jobs finish in any order; a repeated run must write the same state.
    for parts in tables.values_mut() {
        parts.sort_unstable_by_key(|part| part.bucket);
    }
    for streams in changed.values_mut() {
        streams.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    }
    let latest = Kind::ALL.into_iter().filter_map(|kind| {
        let read = read.stats.get(&kind).map_or(0, |stats| stats.latest);
        let stored = base
            .and_then(|base| base.latest.get(&kind))
            .copied()
            .unwrap_or(0);
        Some((kind, read.max(stored))).filter(|(_, latest)| *latest > 0)
    });
    let state = State {
        run: manifest.run.clone(),
        run_time: Some(manifest.run_time),
        id: manifest.state_id.clone(),
        begin: Positions::new(),
        covered: Positions::new(),
        topic_ids: BTreeMap::new(),
        listed: Positions::new(),
        buckets,
        tables,
        latest: latest.collect(),
    };
    info!(buckets = total, bytes = state.bytes(), "state written");
    let join_inputs = Arc::into_inner(shared)
        .context("a bucket is still being processed")?
        .join_inputs
        .finish()?;
    Ok(Folded {
        state,
        changed_rows,
        changed,
        join_inputs,
    })
}

/// Memory that a bucket's merge takes if all rows read are loaded, bytes.
fn memory_of(read: Option<&Spilled>) -> u64 {
    read.map_or(0, |read| read.bytes * COPIES) + OVERHEAD
}

/// Folds one bucket.
async fn fold_bucket(store: &Store, shared: &Arc<Shared>, job: BucketJob) -> Result<FoldedBucket> {
    let (kind, bucket) = (job.kind, job.bucket);
    let stored = match &job.stored {
        Some(part) => {
            let path = shared
                .scratch
                .file(&format!("stored-{kind}-{bucket}.arrow"));
            store.get_file(&part.key, &path).await.with_context(|| {
                format!(
                    "can't read the state of the last run (if it was deleted, start a full \
                     run: {})",
                    shared.full_run
                )
            })?;
            Some(path)
        }
        None => None,
    };
    if job.read.is_none() && !shared.splits {
        let shared = Arc::clone(shared);
        tokio::task::spawn_blocking(move || {
            push_unchanged(kind, stored.as_deref(), &shared.join_inputs)
        })
        .await??;
        return Ok(FoldedBucket {
            part: job.stored,
            changed_rows: 0,
            changed: None,
        });
    }
    let worker = Arc::clone(shared);
    let Rewritten {
        state,
        changed_rows,
        changed,
    } = tokio::task::spawn_blocking(move || {
        rewrite(kind, bucket, job.read.as_ref(), stored.as_deref(), &worker)
    })
    .await??;
    let part = match state {
        Some(state) => {
            let key = shared.states.object(kind, bucket, &shared.run);
            let bytes = store.put_file(&key, &state.path).await?;
            remove(&state.path);
            Some(Part {
                bucket,
                key,
                rows: state.rows,
                bytes,
            })
        }
        None => None,
    };
    Ok(FoldedBucket {
        part,
        changed_rows,
        changed,
    })
}

/// Adds the rows of an unchanged bucket to the join's inputs.
fn push_unchanged(kind: Kind, stored: Option<&Path>, join_inputs: &JoinInputs) -> Result<()> {
    if let Some(stored) = stored {
        for rows in read_stream(stored)? {
            join_inputs.push(kind, &rows?)?;
        }
        remove(stored);
    }
    Ok(())
}

/// The output of one bucket's merge. Files are created at the first row.
struct BucketOutput<'a> {
    kind: Kind,
    bucket: u32,
    shared: &'a Shared,
    state: Option<Writer>,
    changed: Option<Writer>,
}

impl MergeOutput for BucketOutput<'_> {
    fn state_batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.shared.join_inputs.push(self.kind, &batch)?;
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
                none.insert(Writer::plain(path, &rows::read_schema(self.kind))?)
            }
        };
        changed.write(&batch)
    }
}

/// The rows of one bucket on disk.
struct Rewritten {
    state: Option<Stream>,
    changed_rows: u64,
    changed: Option<Stream>,
}

fn rewrite(
    kind: Kind,
    bucket: u32,
    spilled: Option<&Spilled>,
    stored: Option<&Path>,
    shared: &Shared,
) -> Result<Rewritten> {
    let in_memory;
    let read: Box<dyn Iterator<Item = Result<RecordBatch>> + '_> = match spilled {
        None => Box::new(std::iter::empty()),
        Some(spilled) if memory_of(Some(spilled)) > shared.merging as u64 => {
            // The semaphore lets nothing else be merged meanwhile.
            let budget = shared.merging / 2;
            let folder = shared.scratch.folder();
            info!(%kind, bucket, bytes = spilled.bytes, "sorting a large bucket on disk");
            Box::new(Sorted::new(kind, spilled, folder, budget)?)
        }
        Some(spilled) => {
            in_memory = spilled.stream.read()?.collect::<Result<Vec<_>, _>>()?;
            Box::new(latest(kind, &in_memory))
        }
    };
    let in_bucket = |batch: Result<RecordBatch, ArrowError>| match batch {
        Ok(batch) if shared.splits => rows_of_bucket(&batch, bucket, shared.buckets),
        batch => batch,
    };
    let stream = stored.map(read_stream).transpose()?;
    let mut out = BucketOutput {
        kind,
        bucket,
        shared,
        state: None,
        changed: None,
    };
    let changed_rows = merge(
        kind,
        stream.into_iter().flatten().map(in_bucket),
        read,
        shared.keep_changed,
        &mut out,
    )?;
    let rewritten = Rewritten {
        state: out.state.map(Writer::finish).transpose()?,
        changed_rows,
        changed: out.changed.map(Writer::finish).transpose()?,
    };
    for path in spilled
        .into_iter()
        .map(|spilled| spilled.stream.path.as_path())
        .chain(stored)
    {
        remove(path);
    }
    Ok(rewritten)
}

/// The rows of `batch` that belong to one bucket.
fn rows_of_bucket(
    batch: &RecordBatch,
    bucket: u32,
    buckets: u32,
) -> Result<RecordBatch, ArrowError> {
    let found = buckets_of(batch.column(0), buckets);
    let rows = (0..)
        .zip(found)
        .filter(|(_, found)| *found == bucket)
        .map(|(row, _)| row);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows))
}

#[cfg(test)]
mod tests;
