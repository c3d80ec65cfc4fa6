//! Later wins: of all rows with one key, the latest by [`Order`], whole.
//!
//! Sorting row numbers, not rows, gives the result its order for nothing: by key, so that every run over the same records
//! writes the same rows in the same order.

use arrow::{
    array::{AsArray, Int64Array, RecordBatch, StringArray},
    compute::interleave_record_batch,
    datatypes::Int64Type,
    error::ArrowError,
};
use pinpipe_core::{Kind, Order, columns};

use crate::columns::schema;

/// Rows a batch of the result has at most: what one query step or one write to a sink works on.
const BATCH_ROWS: usize = 8192;

/// Rows of a clean table and where in the log each came from.
#[derive(Debug)]
pub struct Chunk {
    /// The rows.
    pub batch: RecordBatch,
    /// One per row.
    pub orders: Vec<Order>,
}

/// A row: the chunk's number and the row's in it.
type Place = (usize, usize);

/// The latest row of each key, in the order of the keys. At least one batch, so that the table has its schema.
pub fn latest(kind: Kind, chunks: &[Chunk]) -> Result<Vec<RecordBatch>, ArrowError> {
    let places = match kind {
        Kind::Pin => {
            let keys: Vec<&StringArray> =
                chunks.iter().map(|chunk| key_column(kind, chunk).as_string::<i32>()).collect();
            winners(chunks, |(chunk, row)| keys[chunk].value(row))
        }
        Kind::Geo | Kind::User => {
            let keys: Vec<&Int64Array> =
                chunks.iter().map(|chunk| key_column(kind, chunk).as_primitive::<Int64Type>()).collect();
            winners(chunks, |(chunk, row)| keys[chunk].value(row))
        }
    };
    if places.is_empty() {
        return Ok(vec![RecordBatch::new_empty(schema(kind))]);
    }
    let batches: Vec<&RecordBatch> = chunks.iter().map(|chunk| &chunk.batch).collect();
    places.chunks(BATCH_ROWS).map(|places| interleave_record_batch(&batches, places)).collect()
}

fn key_column(kind: Kind, chunk: &Chunk) -> &dyn arrow::array::Array {
    let position = columns::columns(kind).iter().position(|name| *name == columns::key(kind)).unwrap_or_default();
    chunk.batch.column(position).as_ref()
}

fn winners<K: Ord>(chunks: &[Chunk], key: impl Fn(Place) -> K) -> Vec<Place> {
    let order = |(chunk, row): Place| chunks[chunk].orders[row];
    let mut places: Vec<Place> = chunks
        .iter()
        .enumerate()
        .flat_map(|(number, chunk)| (0..chunk.batch.num_rows()).map(move |row| (number, row)))
        .collect();
    places.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)).then_with(|| order(b).cmp(&order(a))));
    places.dedup_by(|&mut later, &mut first| key(later) == key(first));
    places
}

#[cfg(test)]
mod tests {
    use pinpipe_core::{Pin, Record, User};

    use super::*;
    use crate::{
        cells::{self, Cell},
        columns::TableBuilder,
    };

    fn users(rows: &[(i64, Option<&'static str>, Order)]) -> Chunk {
        let mut table = TableBuilder::new(Kind::User);
        for (ind, name, _) in rows {
            let user = User { ind: *ind, user_name: name.map(Into::into), age: None, date_joined: None };
            table.push(&Record::User(user));
        }
        Chunk { batch: table.finish().unwrap(), orders: rows.iter().map(|(_, _, order)| *order).collect() }
    }

    fn at(time: i64, partition: i32, offset: i64) -> Order {
        Order { time, partition, offset }
    }

    fn names(chunks: &[Chunk]) -> Vec<(i64, Option<String>)> {
        let mut names = Vec::new();
        for batch in latest(Kind::User, chunks).unwrap() {
            for row in 0..batch.num_rows() {
                match cells::row(&batch, row).unwrap()[..] {
                    [Cell::BigInt(ind), Cell::Text(name), ..] => names.push((ind, Some(name.to_owned()))),
                    [Cell::BigInt(ind), Cell::Null, ..] => names.push((ind, None)),
                    ref other => panic!("{other:?}"),
                }
            }
        }
        names
    }

    #[test]
    fn the_latest_row_wins_whole_wherever_it_stands() {
        let a =
            users(&[(2, Some("late"), at(9, 0, 1)), (1, Some("first"), at(1, 0, 0)), (3, Some("only"), at(5, 2, 7))]);
        let b = users(&[(1, None, at(1, 1, 0)), (2, Some("early"), at(3, 1, 50))]);
        let expected = [(1, None), (2, Some("late".to_owned())), (3, Some("only".to_owned()))];
        assert_eq!(names(&[a, b]), expected, "nulls included, by time before partition before offset");
    }

    #[test]
    fn the_order_of_reading_changes_nothing() {
        let rows =
            |n: i64| users(&[(1, Some("x"), at(n, 0, 0)), (2, Some("y"), at(-n, 0, 0)), (n + 10, None, at(n, 0, 1))]);
        let (forth, back) = ([rows(0), rows(1), rows(2)], [rows(2), rows(1), rows(0)]);
        assert_eq!(names(&forth), names(&back));
    }

    #[test]
    fn nothing_read_is_an_empty_table() {
        for kind in Kind::ALL {
            let batches = latest(kind, &[]).unwrap();
            assert_eq!((batches.len(), batches[0].num_rows()), (1, 0));
            assert_eq!(batches[0].schema(), schema(kind));
        }
    }

    #[test]
    fn pins_are_told_apart_by_text_and_cut_into_batches() {
        let count = BATCH_ROWS + 1;
        let mut table = TableBuilder::new(Kind::Pin);
        for i in 0..2 * count {
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
        let orders = (0..2 * count).map(|i| at(0, 0, i64::try_from(i).unwrap())).collect();
        let batches = latest(Kind::Pin, &[Chunk { batch: table.finish().unwrap(), orders }]).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [BATCH_ROWS, 1]);
        assert_eq!(cells::row(&batches[1], 0).unwrap()[1], Cell::BigInt(i64::try_from(2 * count - 1).unwrap()));
    }
}
