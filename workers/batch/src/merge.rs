//! Merges the stored rows of one bucket with those a run has read into the latest row of each key.
//! The latest row replaces earlier ones as a whole.
//!
//! Output rows are sorted by key, in batches of a fixed size, so that a repeated run writes the
//! same bytes. Stored rows are sorted, too, and are streamed; only the rows that the run has read
//! are in memory.

use std::cmp::Ordering;

use anyhow::Result;
use arrow::{
    array::{AsArray, Int64Array, RecordBatch, StringArray},
    compute::{BatchCoalescer, interleave_record_batch},
    datatypes::Int64Type,
    error::ArrowError,
};
use pinpipe_core::{Kind, Order};

use crate::rows::{self, Orders};

/// Rows per batch, which is the unit of query steps and of writes to a sink.
pub const BATCH_ROWS: usize = 8192;

/// Receiver of merged rows.
pub trait MergeOutput {
    /// Takes state rows: the latest row of every key, sorted by key.
    fn state_batch(&mut self, rows: RecordBatch) -> Result<()>;
    /// Takes clean rows: the latest rows that come from this run.
    fn changed_batch(&mut self, rows: RecordBatch) -> Result<()>;
}

/// Merges `read`, in [`rows::read_schema`], into `stored`, in [`rows::state_schema`] and sorted by
/// unique key.
pub fn merge(
    kind: Kind,
    stored: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    read: &[RecordBatch],
    out: &mut impl MergeOutput,
) -> Result<()> {
    match kind {
        Kind::Pin => merge_by::<StringArray>(kind, stored, read, out),
        Kind::Geo | Kind::User => merge_by::<Int64Array>(kind, stored, read, out),
    }
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

/// The latest row of each key that a run has read, sorted by key.
struct Latest<'a, K> {
    keys: Vec<&'a K>,
    orders: Vec<Orders<'a>>,
    rows: Vec<RowIndex>,
}

impl<'a, K: Keys> Latest<'a, K> {
    fn new(kind: Kind, read: &'a [RecordBatch]) -> Self {
        let keys: Vec<&K> = read.iter().map(K::of).collect();
        let orders: Vec<Orders<'_>> = read.iter().map(|rows| Orders::of(kind, rows)).collect();
        let positions: Vec<Orders<'_>> = read
            .iter()
            .map(|rows| Orders::positions(kind, rows))
            .collect();
        let order = |(batch, row): RowIndex| (orders[batch].get(row), positions[batch].get(row));
        let key = |(batch, row): RowIndex| keys[batch].key(row);
        let indices = |(number, rows): (usize, &RecordBatch)| {
            (0..rows.num_rows()).map(move |row| (number, row))
        };
        let mut rows: Vec<RowIndex> = read.iter().enumerate().flat_map(indices).collect();
        rows.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)).then_with(|| order(b).cmp(&order(a))));
        rows.dedup_by(|&mut next, &mut first| key(next) == key(first));
        Self { keys, orders, rows }
    }

    fn key(&self, (batch, row): RowIndex) -> K::Key<'_> {
        self.keys[batch].key(row)
    }

    fn order(&self, (batch, row): RowIndex) -> Order {
        self.orders[batch].get(row)
    }
}

fn merge_by<K: Keys>(
    kind: Kind,
    stored: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    read: &[RecordBatch],
    out: &mut impl MergeOutput,
) -> Result<()> {
    let latest = Latest::<K>::new(kind, read);
    let states = read
        .iter()
        .map(|rows| rows::state(kind, rows))
        .collect::<Result<Vec<_>, _>>()?;
    let cleans = read
        .iter()
        .map(|rows| rows::clean(kind, rows))
        .collect::<Result<Vec<_>, _>>()?;
    let cleans: Vec<&RecordBatch> = cleans.iter().collect();
    let mut rows = Batches::new(BatchCoalescer::new(rows::state_schema(kind), BATCH_ROWS));
    let mut pending = latest.rows.iter().copied().peekable();
    // Rows of this run that are not older than the stored row of their key.
    let mut changed: Vec<RowIndex> = Vec::with_capacity(latest.rows.len());
    for batch in stored {
        let batch = batch?;
        let (keys, orders) = (K::of(&batch), Orders::of(kind, &batch));
        let mut merged = Vec::with_capacity(batch.num_rows());
        let unchanged = changed.len();
        for row in 0..batch.num_rows() {
            let mut replaced = false;
            while let Some(&index) = pending.peek() {
                let ordering = latest.key(index).cmp(&keys.key(row));
                // A record that is read again replaces its row: it is cleaned by the current rules.
                let wins = ordering == Ordering::Less || latest.order(index) >= orders.get(row);
                if ordering == Ordering::Greater {
                    break;
                }
                pending.next();
                if wins {
                    merged.push((index.0 + 1, index.1));
                    changed.push(index);
                }
                if ordering == Ordering::Equal {
                    replaced = wins;
                    break;
                }
            }
            if !replaced {
                merged.push((0, row));
            }
        }
        if changed.len() == unchanged {
            rows.push(batch, |batch| out.state_batch(batch))?;
        } else {
            let sources: Vec<&RecordBatch> = std::iter::once(&batch).chain(&states).collect();
            rows.push(interleave_record_batch(&sources, &merged)?, |batch| {
                out.state_batch(batch)
            })?;
        }
    }
    let rest: Vec<RowIndex> = pending.collect();
    let states: Vec<&RecordBatch> = states.iter().collect();
    for indices in rest.chunks(BATCH_ROWS) {
        rows.push(interleave_record_batch(&states, indices)?, |batch| {
            out.state_batch(batch)
        })?;
    }
    rows.finish(|batch| out.state_batch(batch))?;
    changed.extend(rest);
    for indices in changed.chunks(BATCH_ROWS) {
        out.changed_batch(interleave_record_batch(&cleans, indices)?)?;
    }
    Ok(())
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
    use pinpipe_core::{Pin, Record, User};

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
        merge(kind, stored.iter().cloned().map(Ok), read, &mut out).unwrap();
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
