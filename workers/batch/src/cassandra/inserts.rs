//! Insert requests: rows grouped into unlogged batches.
//!
//! Each request takes a few rows that are neighbours on the token ring, so that nearly always one
//! replica has all of them, in an unlogged batch below the sizes at which Cassandra warns. That
//! saves requests and needs no coordination between replicas.

use anyhow::Result;
use arrow::{array::RecordBatch, error::ArrowError};
use chrono::{DateTime, Utc};
use scylla::{
    serialize::{
        SerializationError,
        row::{RowSerializationContext, SerializeRow},
        writers::RowWriter,
    },
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
};

use crate::{
    cells::{self, Cell},
    rows::{self, Origin},
    sink::{SinkTable, key_text},
};

/// Most rows of one request. Cassandra warns about more partitions in an unlogged batch:
/// `unlogged_batch_across_partitions_warn_threshold` is 10.
const REQUEST_ROWS: usize = 10;
/// Most bytes of one request's values. Cassandra warns at `batch_size_warn_threshold`, 5 KiB, which
/// includes its overhead per value.
const REQUEST_BYTES: usize = 3 << 10;

/// Insert statements of one table.
pub struct Inserts {
    one: PreparedStatement,
    /// Number of the table's columns.
    columns: usize,
    /// Indices of the key's columns.
    key: Vec<usize>,
    /// The batch of `n` inserts at index `n`.
    batches: Vec<Batch>,
}

/// A row to be inserted.
pub struct Row<'a> {
    /// Its number in the batch it is of.
    pub number: usize,
    cells: Vec<Cell<'a>>,
}

impl SerializeRow for Row<'_> {
    fn serialize(
        &self,
        context: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        self.cells.serialize(context, writer)
    }

    fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

/// The rows of one request.
pub type Rows<'a> = Vec<Row<'a>>;

impl Inserts {
    /// Inserts with `run_time` as their timestamp.
    pub fn new(
        one: PreparedStatement,
        table: &SinkTable,
        run_time: DateTime<Utc>,
    ) -> Result<Self, ArrowError> {
        let batch = |rows| {
            let statements = vec![BatchStatement::from(one.clone()); rows];
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
            batch.set_timestamp(Some(run_time.timestamp_micros()));
            batch.set_is_idempotent(true);
            batch
        };
        let key = table.key.iter().map(|name| table.schema.index_of(name));
        Ok(Self {
            batches: (0..=REQUEST_ROWS).map(batch).collect(),
            key: key.collect::<Result<_, _>>()?,
            columns: table.schema.fields().len(),
            one,
        })
    }

    /// A row's key, for messages.
    pub fn key(&self, row: &Row<'_>) -> String {
        let key: Vec<&Cell<'_>> = self
            .key
            .iter()
            .filter_map(|index| row.cells.get(*index))
            .collect();
        key_text(&key)
    }

    /// Where the record of a row of `batch` came from.
    pub fn origin(&self, batch: &RecordBatch, number: usize) -> Option<Origin> {
        rows::origin(batch, self.columns, number)
    }

    /// The batch statement for a request of `rows` rows.
    pub fn batch(&self, rows: usize) -> &Batch {
        &self.batches[rows]
    }

    /// Splits rows into requests, in token order.
    pub fn requests<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Rows<'a>>> {
        let mut rows = Vec::with_capacity(batch.num_rows());
        for number in 0..batch.num_rows() {
            let mut cells = cells::row(batch, number)?;
            cells.truncate(self.columns);
            rows.push((
                self.one.calculate_token(&cells)?.map(|token| token.value()),
                Row { number, cells },
            ));
        }
        rows.sort_unstable_by_key(|(token, _)| *token);
        Ok(split(rows.into_iter().map(|(_, row)| row)))
    }
}

fn split<'a>(rows: impl Iterator<Item = Row<'a>>) -> Vec<Rows<'a>> {
    let (mut requests, mut request, mut bytes) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let row_bytes: usize = row.cells.iter().map(Cell::bytes).sum();
        if request.len() == REQUEST_ROWS
            || (bytes + row_bytes > REQUEST_BYTES && !request.is_empty())
        {
            requests.push(std::mem::take(&mut request));
            bytes = 0;
        }
        bytes += row_bytes;
        request.push(row);
    }
    if !request.is_empty() {
        requests.push(request);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_below_the_sizes_cassandra_warns_about() {
        let text = "x".repeat(10_000);
        let row = |bytes| Row {
            number: 0,
            cells: vec![Cell::BigInt(1), Cell::Text(&text[..bytes])],
        };
        let sizes = |rows: &[usize]| {
            split(rows.iter().map(|bytes| row(*bytes)))
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 25]), [10, 10, 5]);
        assert_eq!(
            sizes(&[1200, 1200, 1200, 1200, 1200]),
            [2, 2, 1],
            "by bytes"
        );
        assert_eq!(
            sizes(&[10, 9000, 10]),
            [1, 1, 1],
            "a larger row is sent alone"
        );
    }
}
