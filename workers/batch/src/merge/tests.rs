use pinpipe_core::{Order, Record, User};

use super::*;
use crate::{
    cells::{self, Cell},
    columns::TableBuilder,
    rows::Chunk,
    testing,
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
            let key = format!("{:05}", i % count);
            table.push(&Record::Pin(testing::pin(key, i64::try_from(i).unwrap())));
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

#[test]
fn long_rows_are_written_in_batches_of_bounded_size() {
    const ROW: usize = 1 << 20;
    let name: &'static str = "x".repeat(ROW).leak();
    // As a bucket sorted on disk comes: a few rows per batch.
    let read = (0..20).map(|ind| Ok(users(&[(ind, Some(name), at(0, 0, ind))])));
    let mut out = Collected::default();
    merge(Kind::User, std::iter::empty(), read, true, &mut out).unwrap();
    for batches in [&out.rows, &out.changed] {
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows.iter().sum::<usize>(), 20);
        assert!(rows.iter().all(|rows| rows * ROW <= 9 << 20), "{rows:?}");
    }
}
