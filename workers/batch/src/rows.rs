//! Clean rows with their records' order, which decides which of two rows is the later one.
//!
//! There are two schemas besides the clean one. *State* rows have the record's order after the
//! clean columns. Rows *read* in this run also have the record's own position in the log, which
//! differs from its order if the record was re-driven.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef},
    error::ArrowError,
};
use pinpipe_core::{Kind, Order};

use crate::columns;

const ORDER: [&str; 3] = ["_time", "_partition", "_offset"];
const POSITION: [&str; 3] = ["_read_time", "_read_partition", "_read_offset"];

/// Clean rows with the order and position of their records.
#[derive(Debug)]
pub struct Chunk {
    /// The clean rows.
    pub batch: RecordBatch,
    /// Order of each row's record, which decides which row is the later one.
    pub orders: Vec<Order>,
    /// Position in the log of each row's record, which decides between equal orders.
    pub positions: Vec<Order>,
}

fn schema_with(kind: Kind, names: &[[&str; 3]]) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = columns::schema(kind).fields().iter().cloned().collect();
    let types = [DataType::Int64, DataType::Int32, DataType::Int64];
    for (name, data_type) in names.iter().flat_map(|names| names.iter().zip(&types)) {
        fields.push(Arc::new(Field::new(*name, data_type.clone(), false)));
    }
    Arc::new(Schema::new(fields))
}

/// The columns by which rows read in this run are ordered, the most important one first.
pub fn order_names() -> impl Iterator<Item = &'static str> {
    ORDER.into_iter().chain(POSITION)
}

/// The schema of state rows.
pub fn state_schema(kind: Kind) -> SchemaRef {
    schema_with(kind, &[ORDER])
}

/// The schema of rows read in this run.
pub fn read_schema(kind: Kind) -> SchemaRef {
    schema_with(kind, &[ORDER, POSITION])
}

fn order_columns(orders: &[Order]) -> [ArrayRef; 3] {
    [
        Arc::new(Int64Array::from_iter_values(
            orders.iter().map(|order| order.time),
        )),
        Arc::new(Int32Array::from_iter_values(
            orders.iter().map(|order| order.partition),
        )),
        Arc::new(Int64Array::from_iter_values(
            orders.iter().map(|order| order.offset),
        )),
    ]
}

impl Chunk {
    /// The rows in [`read_schema`].
    pub fn to_rows(&self, kind: Kind) -> Result<RecordBatch, ArrowError> {
        let mut arrays = self.batch.columns().to_vec();
        arrays.extend(order_columns(&self.orders));
        arrays.extend(order_columns(&self.positions));
        RecordBatch::try_new(read_schema(kind), arrays)
    }
}

/// The latest row of each key of `rows`, in [`read_schema`], in their order.
pub fn latest_per_key(kind: Kind, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let kept = match kind {
        Kind::Pin => latest_rows(kind, &rows, rows.column(0).as_string::<i32>().iter()),
        Kind::Geo | Kind::User => latest_rows(
            kind,
            &rows,
            rows.column(0).as_primitive::<Int64Type>().iter(),
        ),
    };
    if kept.len() == rows.num_rows() {
        return Ok(rows);
    }
    take_record_batch(&rows, &UInt32Array::from(kept))
}

fn latest_rows<K: Eq + Hash>(
    kind: Kind,
    rows: &RecordBatch,
    keys: impl ExactSizeIterator<Item = K>,
) -> Vec<u32> {
    let (orders, positions) = (Orders::of(kind, rows), Orders::positions(kind, rows));
    let order = |row: u32| {
        let row = row as usize;
        (orders.get(row), positions.get(row))
    };
    let mut latest: HashMap<K, u32> = HashMap::with_capacity(keys.len());
    for (row, key) in (0..).zip(keys) {
        latest
            .entry(key)
            .and_modify(|kept| {
                if order(row) >= order(*kept) {
                    *kept = row;
                }
            })
            .or_insert(row);
    }
    let mut kept: Vec<u32> = latest.into_values().collect();
    kept.sort_unstable();
    kept
}

/// Only the columns of [`state_schema`] of `rows`.
pub fn state(kind: Kind, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = state_schema(kind);
    let columns = rows.columns()[..schema.fields().len()].to_vec();
    RecordBatch::try_new(schema, columns)
}

/// Where the record of a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The record's order.
    pub order: Order,
    /// The record's position in the log; `None` for state rows, which don't have it.
    pub position: Option<Order>,
}

/// Where the record of row `row` came from; `columns` is the number of clean columns. `None` if the
/// rows have no others.
pub fn origin(rows: &RecordBatch, columns: usize, row: usize) -> Option<Origin> {
    let order_at = |first: usize| {
        let found = first + ORDER.len() <= rows.num_columns();
        found.then(|| Orders::at(rows, first).get(row))
    };
    Some(Origin {
        order: order_at(columns)?,
        position: order_at(columns + ORDER.len()),
    })
}

/// The three columns of an [`Order`].
pub struct Orders<'a> {
    times: &'a Int64Array,
    partitions: &'a Int32Array,
    offsets: &'a Int64Array,
}

impl<'a> Orders<'a> {
    /// The orders of state rows or of rows read.
    pub fn of(kind: Kind, rows: &'a RecordBatch) -> Self {
        Self::at(rows, columns::schema(kind).fields().len())
    }

    /// The positions of rows read.
    pub fn positions(kind: Kind, rows: &'a RecordBatch) -> Self {
        Self::at(rows, columns::schema(kind).fields().len() + ORDER.len())
    }

    fn at(rows: &'a RecordBatch, first: usize) -> Self {
        Self {
            times: rows.column(first).as_primitive::<Int64Type>(),
            partitions: rows.column(first + 1).as_primitive::<Int32Type>(),
            offsets: rows.column(first + 2).as_primitive::<Int64Type>(),
        }
    }

    /// The order of a row.
    pub fn get(&self, row: usize) -> Order {
        Order {
            time: self.times.value(row),
            partition: self.partitions.value(row),
            offset: self.offsets.value(row),
        }
    }
}
