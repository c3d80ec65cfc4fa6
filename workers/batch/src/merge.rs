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

use crate::{
    columns,
    rows::{self, Orders},
};

/// Rows per batch, which is the unit of query steps and of writes to a sink.
pub const BATCH_ROWS: usize = 8192;

/// Receiver of merged rows.
pub trait MergeOutput {
    /// Takes state rows: the latest row of every key, sorted by key.
    fn state_batch(&mut self, rows: RecordBatch) -> Result<()>;
    /// Takes clean rows: the latest rows that come from this run.
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
    let mut clean = Batches::new(BatchCoalescer::new(columns::schema(kind), BATCH_ROWS));
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
            let rows = take_record_batch(&rows::clean(kind, new)?, &UInt32Array::from(changed))?;
            clean.push(rows, |batch| out.changed_batch(batch))?;
        }
    }
    state.finish(|batch| out.state_batch(batch))?;
    clean.finish(|batch| out.changed_batch(batch))?;
    Ok(changed_rows)
}

/// Turns batches of any size into batches of a fixed size.
struct Batches(BatchCoalescer);

impl Batches {
    fn new(coalescer: BatchCoalescer) -> Self {
        Self(coalescer)
    }

    fn push(
        &mut self,
        batch: RecordBatch,
        out: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.0.push_batch(batch)?;
        self.drain(out)
    }

    fn finish(&mut self, out: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        self.0.finish_buffered_batch()?;
        self.drain(out)
    }

    fn drain(&mut self, mut out: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        while let Some(batch) = self.0.next_completed_batch() {
            out(batch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::{Order, Pin, Record, User};

    use super::*;
    use crate::{
        cells::{self, Cell},
        columns::TableBuilder,
        rows::Chunk,
    };

    #[derive(Default)]
    struct Collected {
        rows: Vec<RecordBatch>,
        changed: Vec<RecordBatch>,
    }

    impl MergeOutput for Collected {
        fn state_batch(&mut self, rows: RecordBatch) -> Result<()> {
            self.rows.push(rows);
            Ok(())
        }

        fn changed_batch(&mut self, rows: RecordBatch) -> Result<()> {
            self.changed.push(rows);
            Ok(())
        }
    }

    type UserRow = (i64, Option<&'static str>, Order);

    fn users(rows: &[UserRow]) -> RecordBatch {
        let mut table = TableBuilder::new(Kind::User);
        for (ind, name, _) in rows {
            let user = User {
                ind: *ind,
                user_name: name.map(Into::into),
                age: None,
                date_joined: None,
            };
            table.push(&Record::User(user));
        }
        let orders: Vec<Order> = rows.iter().map(|(_, _, order)| *order).collect();
        Chunk {
            batch: table.finish().unwrap(),
            positions: orders.clone(),
            orders,
        }
        .to_rows(Kind::User)
        .unwrap()
    }

    fn at(time: i64, partition: i32, offset: i64) -> Order {
        Order {
            time,
            partition,
            offset,
        }
    }

    fn merged(kind: Kind, stored: &[RecordBatch], read: &[RecordBatch]) -> Collected {
        let mut out = Collected::default();
        let stored = stored.iter().cloned().map(Ok);
        let rows = merge(kind, stored, latest(kind, read), true, &mut out).unwrap();
        let kept: usize = out.changed.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, kept as u64);
        out
    }

    fn names(batches: &[RecordBatch]) -> Vec<(i64, Option<String>)> {
        let name = |batch: &RecordBatch, row| match cells::row(batch, row).unwrap()[..] {
            [Cell::BigInt(ind), Cell::Text(name), ..] => (ind, Some(name.to_owned())),
            [Cell::BigInt(ind), Cell::Null, ..] => (ind, None),
            ref other => panic!("{other:?}"),
        };
        batches
            .iter()
            .flat_map(|batch| (0..batch.num_rows()).map(move |row| name(batch, row)))
            .collect()
    }

    fn row(ind: i64, name: &str) -> (i64, Option<String>) {
        (ind, Some(name.to_owned()))
    }

    #[test]
    fn the_latest_row_wins_as_a_whole_whatever_batch_it_is_in() {
        let a = users(&[
            (2, Some("late"), at(9, 0, 1)),
            (1, Some("first"), at(1, 0, 0)),
            (3, Some("only"), at(5, 2, 7)),
        ]);
        let b = users(&[(1, None, at(1, 1, 0)), (2, Some("early"), at(3, 1, 50))]);
        let expected = [(1, None), row(2, "late"), row(3, "only")];
        let out = merged(Kind::User, &[], &[a, b]);
        assert_eq!(
            names(&out.rows),
            expected,
            "nulls included, by time before partition before offset"
        );
        assert_eq!(names(&out.changed), expected, "all rows are new");
    }

    #[test]
    fn a_stored_row_stays_unless_one_of_the_same_order_or_a_later_one_was_read() {
        let stored = merged(
            Kind::User,
            &[],
            &[users(&[
                (1, Some("a"), at(5, 0, 0)),
                (3, Some("c"), at(5, 0, 1)),
                (5, Some("e"), at(5, 0, 2)),
            ])],
        );
        let read = users(&[
            (0, Some("before all"), at(0, 0, 0)),
            (1, Some("too early"), at(4, 9, 9)),
            (3, Some("the same again"), at(5, 0, 1)),
            (4, Some("between"), at(1, 0, 0)),
            (5, None, at(6, 0, 0)),
            (9, Some("behind all"), at(2, 0, 0)),
        ]);
        let out = merged(Kind::User, &stored.rows, &[read]);
        let changed = [
            row(0, "before all"),
            row(3, "the same again"),
            row(4, "between"),
            (5, None),
            row(9, "behind all"),
        ];
        assert_eq!(names(&out.changed), changed);
        let mut all = changed.to_vec();
        all.insert(1, row(1, "a"));
        assert_eq!(names(&out.rows), all);
        let untouched = merged(Kind::User, &out.rows, &[]);
        assert_eq!((names(&untouched.rows), untouched.changed.len()), (all, 0));
    }

    #[test]
    fn of_records_with_equal_orders_the_later_position_wins() {
        let redriven = |name, offset| {
            let mut chunk = TableBuilder::new(Kind::User);
            chunk.push(&Record::User(User {
                ind: 1,
                user_name: Some(name),
                age: None,
                date_joined: None,
            }));
            let chunk = Chunk {
                batch: chunk.finish().unwrap(),
                orders: vec![at(1, 0, 0)],
                positions: vec![at(9, 0, offset)],
            };
            chunk.to_rows(Kind::User).unwrap()
        };
        for batches in [["a", "b"], ["b", "a"]] {
            let read = batches.map(|name| redriven(name.into(), i64::from(name == "b")));
            assert_eq!(names(&merged(Kind::User, &[], &read).rows), [row(1, "b")]);
        }
    }

    #[test]
    fn rows_depend_neither_on_the_order_of_reading_nor_on_the_split_into_runs() {
        let rows = |n: i64| {
            users(&[
                (1, Some("x"), at(n, 0, 0)),
                (2, Some("y"), at(-n, 0, 0)),
                (n + 10, None, at(n, 0, 1)),
            ])
        };
        let forth = merged(Kind::User, &[], &[rows(0), rows(1), rows(2)]).rows;
        assert_eq!(
            forth,
            merged(Kind::User, &[], &[rows(2), rows(1), rows(0)]).rows
        );
        let first = merged(Kind::User, &[], &[rows(2)]).rows;
        let second = merged(Kind::User, &first, &[rows(0)]).rows;
        assert_eq!(forth, merged(Kind::User, &second, &[rows(1)]).rows);
    }

    #[test]
    fn without_rows_there_is_no_output() {
        for kind in Kind::ALL {
            let out = merged(kind, &[], &[]);
            assert_eq!((out.rows.len(), out.changed.len()), (0, 0));
        }
    }

    #[test]
    fn pins_are_keyed_by_text_and_written_in_batches_of_a_fixed_size() {
        let count = BATCH_ROWS + 1;
        let pins = |range: std::ops::Range<usize>, time| {
            let mut table = TableBuilder::new(Kind::Pin);
            for i in range.clone() {
                table.push(&Record::Pin(Pin {
                    unique_id: format!("{:05}", i % count).into(),
                    index_id: i64::try_from(i).unwrap(),
                    title: None,
                    category: None,
                    description: None,
                    poster_name: None,
                    follower_count: None,
                    tag_list: None,
                    is_image_or_video: None,
                    image_src: None,
                    downloaded: None,
                    save_location: None,
                }));
            }
            let orders: Vec<Order> = range
                .map(|i| at(time, 0, i64::try_from(i).unwrap()))
                .collect();
            Chunk {
                batch: table.finish().unwrap(),
                positions: orders.clone(),
                orders,
            }
            .to_rows(Kind::Pin)
            .unwrap()
        };
        let whole = merged(Kind::Pin, &[], &[pins(0..2 * count, 0)]).rows;
        assert_eq!(
            whole.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(),
            [BATCH_ROWS, 1]
        );
        assert_eq!(
            cells::row(&whole[1], 0).unwrap()[1],
            Cell::BigInt(i64::try_from(2 * count - 1).unwrap())
        );
        let first = merged(Kind::Pin, &[], &[pins(0..100, 0)]).rows;
        let again = merged(Kind::Pin, &first, &[pins(0..2 * count, 0)]);
        assert_eq!(
            again.rows, whole,
            "the same rows in the same batches, whatever the number of runs"
        );
    }
}
