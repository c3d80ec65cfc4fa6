//! Merges the stored rows of one bucket with those a run has read into the latest row of each key.
//! The latest row replaces earlier ones as a whole.
//!
//! Output rows are sorted by key, in batches of a fixed size, so that a repeated run writes the
//! same bytes. Both inputs are sorted, too, and are streamed.

use std::cmp::Ordering;

use anyhow::Result;
use arrow::{
    array::{AsArray, Int64Array, RecordBatch, StringArray, UInt32Array},
    compute::{BatchCoalescer, interleave_record_batch, take_record_batch},
    datatypes::Int64Type,
    error::ArrowError,
};
use pinpipe_core::Kind;

use crate::rows::{self, Orders};

/// Rows per batch, which is the unit of query steps and of writes to a sink.
pub const BATCH_ROWS: usize = 8192;
/// Bytes of merged rows that are written before a batch has [`BATCH_ROWS`].
const BATCH_BYTES: usize = 8 << 20;

/// Receiver of merged rows.
pub trait MergeOutput {
    /// Takes state rows: the latest row of every key, sorted by key.
    fn state_batch(&mut self, rows: RecordBatch) -> Result<()>;
    /// Takes the latest rows that come from this run, in [`rows::read_schema`].
    fn changed_batch(&mut self, rows: RecordBatch) -> Result<()>;
}

/// Merges `read`, in [`rows::read_schema`], into `stored`, in [`rows::state_schema`]. Both are
/// sorted by key, with one row per key. Returns how many rows of this run are not older than the
/// stored ones; `out` gets these, too, if `keep_changed`.
pub fn merge(
    kind: Kind,
    stored: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    read: impl Iterator<Item = Result<RecordBatch>>,
    keep_changed: bool,
    out: &mut impl MergeOutput,
) -> Result<u64> {
    match kind {
        Kind::Pin => merge_by::<StringArray>(kind, stored, read, keep_changed, out),
        Kind::Geo | Kind::User => merge_by::<Int64Array>(kind, stored, read, keep_changed, out),
    }
}

/// The latest row of each key of rows in memory, sorted by key, batch by batch.
pub fn latest(kind: Kind, read: &[RecordBatch]) -> impl Iterator<Item = Result<RecordBatch>> {
    let rows = match kind {
        Kind::Pin => latest_by::<StringArray>(kind, read),
        Kind::Geo | Kind::User => latest_by::<Int64Array>(kind, read),
    };
    let batches: Vec<&RecordBatch> = read.iter().collect();
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = rows.len().min(start + BATCH_ROWS);
        let indices = rows.get(start..end).filter(|rows| !rows.is_empty())?;
        start = end;
        Some(interleave_record_batch(&batches, indices).map_err(Into::into))
    })
}

/// A key column.
trait Keys {
    type Key<'k>: Ord
    where
        Self: 'k;

    /// The key column of `rows`, which is always the first one.
    fn of(rows: &RecordBatch) -> &Self;

    fn key(&self, row: usize) -> Self::Key<'_>;
}

impl Keys for StringArray {
    type Key<'k> = &'k str;

    fn of(rows: &RecordBatch) -> &Self {
        rows.column(0).as_string::<i32>()
    }

    fn key(&self, row: usize) -> &str {
        self.value(row)
    }
}

impl Keys for Int64Array {
    type Key<'k> = i64;

    fn of(rows: &RecordBatch) -> &Self {
        rows.column(0).as_primitive::<Int64Type>()
    }

    fn key(&self, row: usize) -> i64 {
        self.value(row)
    }
}

/// Index of a row that was read: of its batch, and within the batch.
type RowIndex = (usize, usize);

fn latest_by<K: Keys>(kind: Kind, read: &[RecordBatch]) -> Vec<RowIndex> {
    let keys: Vec<&K> = read.iter().map(K::of).collect();
    let orders: Vec<Orders<'_>> = read.iter().map(|rows| Orders::of(kind, rows)).collect();
    let positions: Vec<Orders<'_>> = read
        .iter()
        .map(|rows| Orders::positions(kind, rows))
        .collect();
    let order = |(batch, row): RowIndex| (orders[batch].get(row), positions[batch].get(row));
    let key = |(batch, row): RowIndex| keys[batch].key(row);
    let indices =
        |(number, rows): (usize, &RecordBatch)| (0..rows.num_rows()).map(move |row| (number, row));
    let mut rows: Vec<RowIndex> = read.iter().enumerate().flat_map(indices).collect();
    rows.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)).then_with(|| order(b).cmp(&order(a))));
    rows.dedup_by(|&mut next, &mut first| key(next) == key(first));
    rows
}

/// A stream of sorted batches and the next row in its current one.
struct Cursor<I> {
    batches: I,
    batch: Option<RecordBatch>,
    row: usize,
}

impl<I: Iterator<Item = Result<RecordBatch, E>>, E> Cursor<I> {
    const fn new(batches: I) -> Self {
        Self {
            batches,
            batch: None,
            row: 0,
        }
    }

    /// The batch with the next row; `None` at the end.
    fn current(&mut self) -> Result<Option<RecordBatch>, E> {
        while self
            .batch
            .as_ref()
            .is_none_or(|batch| self.row == batch.num_rows())
        {
            let Some(batch) = self.batches.next().transpose()? else {
                return Ok(None);
            };
            (self.batch, self.row) = (Some(batch), 0);
        }
        Ok(self.batch.clone())
    }
}

/// Index of a source of merged rows.
const STORED: usize = 0;
const READ: usize = 1;

fn merge_by<K: Keys>(
    kind: Kind,
    stored: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    read: impl Iterator<Item = Result<RecordBatch>>,
    keep_changed: bool,
    out: &mut impl MergeOutput,
) -> Result<u64> {
    let none = RecordBatch::new_empty(rows::read_schema(kind));
    let (mut stored, mut read) = (Cursor::new(stored), Cursor::new(read));
    let mut state = Batches::new(BatchCoalescer::new(rows::state_schema(kind), BATCH_ROWS));
    let mut kept = Batches::new(BatchCoalescer::new(rows::read_schema(kind), BATCH_ROWS));
    let mut changed_rows = 0;
    loop {
        let (old, new) = (stored.current()?, read.current()?);
        if old.is_none() && new.is_none() {
            break;
        }
        let (old_len, new_len) = [&old, &new]
            .map(|batch| batch.as_ref().map_or(0, RecordBatch::num_rows))
            .into();
        let (old, new) = (old.as_ref().unwrap_or(&none), new.as_ref().unwrap_or(&none));
        let (old_keys, old_orders) = (K::of(old), Orders::of(kind, old));
        let (new_keys, new_orders) = (K::of(new), Orders::of(kind, new));
        let mut merged: Vec<RowIndex> = Vec::new();
        // Rows of this run that are not older than the stored row of their key.
        let mut changed: Vec<u32> = Vec::new();
        // Until one of the batches ends.
        while (stored.row < old_len || old_len == 0) && (read.row < new_len || new_len == 0) {
            let ordering = match (old_len, new_len) {
                (0, _) => Ordering::Greater,
                (_, 0) => Ordering::Less,
                _ => old_keys.key(stored.row).cmp(&new_keys.key(read.row)),
            };
            // A record that is read again replaces its row: it is cleaned by the current rules.
            let wins = match ordering {
                Ordering::Less => false,
                Ordering::Greater => true,
                Ordering::Equal => new_orders.get(read.row) >= old_orders.get(stored.row),
            };
            if wins {
                merged.push((READ, read.row));
                changed.push(u32::try_from(read.row)?);
            } else {
                merged.push((STORED, stored.row));
            }
            stored.row += usize::from(ordering != Ordering::Greater);
            read.row += usize::from(ordering != Ordering::Less);
        }
        let mut take_state = |batch| out.state_batch(batch);
        if changed.is_empty() && merged.len() == old_len {
            state.push(old.clone(), &mut take_state)?;
        } else {
            let (old, new) = (rows::state(kind, old)?, rows::state(kind, new)?);
            let rows = interleave_record_batch(&[&old, &new], &merged)?;
            state.push(rows, &mut take_state)?;
        }
        changed_rows += changed.len() as u64;
        if keep_changed && !changed.is_empty() {
            let rows = take_record_batch(new, &UInt32Array::from(changed))?;
            kept.push(rows, |batch| out.changed_batch(batch))?;
        }
    }
    state.finish(|batch| out.state_batch(batch))?;
    kept.finish(|batch| out.changed_batch(batch))?;
    Ok(changed_rows)
}

/// Turns batches of any size into batches of a fixed number of rows, or of fewer if they are large.
struct Batches {
    coalescer: BatchCoalescer,
    /// Bytes of the rows that wait for more.
    bytes: usize,
}

impl Batches {
    const fn new(coalescer: BatchCoalescer) -> Self {
        Self {
            coalescer,
            bytes: 0,
        }
    }

    fn push(
        &mut self,
        batch: RecordBatch,
        out: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let (rows, bytes) = (batch.num_rows(), bytes_of(&batch)?);
        self.coalescer.push_batch(batch)?;
        let waiting = self.coalescer.get_buffered_rows();
        self.bytes = if waiting < rows {
            bytes * waiting / rows
        } else {
            self.bytes + bytes
        };
        if self.bytes >= BATCH_BYTES {
            self.coalescer.finish_buffered_batch()?;
            self.bytes = 0;
        }
        self.drain(out)
    }

    fn finish(&mut self, out: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        self.coalescer.finish_buffered_batch()?;
        self.drain(out)
    }

    fn drain(&mut self, mut out: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        while let Some(batch) = self.coalescer.next_completed_batch() {
            out(batch)?;
        }
        Ok(())
    }
}

/// Bytes of a batch's rows, which may be a part of larger buffers.
fn bytes_of(batch: &RecordBatch) -> Result<usize, ArrowError> {
    let columns = batch.columns().iter();
    columns
        .map(|column| column.to_data().get_slice_memory_size())
        .sum()
}

#[cfg(test)]
mod tests;
