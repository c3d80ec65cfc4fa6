//! The latest row of each key of rows that are too many for memory, sorted by key.

use std::path::Path;

use anyhow::Result;
use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::Int64Type,
};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use pinpipe_core::{Kind, columns::key};
use tokio::runtime::Handle;

use crate::{merge::BATCH_ROWS, query, rows, spill::Spilled};

/// Bytes of a batch: rows may be large.
const BATCH_BYTES: u64 = 1 << 20;
/// Fewest rows of a batch.
const MIN_BATCH_ROWS: usize = 16;

/// An iterator over sorted batches. Its thread must be allowed to block.
pub struct Sorted {
    handle: Handle,
    rows: SendableRecordBatchStream,
    /// The batch before, whose last key may go on.
    last: Option<RecordBatch>,
}

impl Sorted {
    /// Sorts rows read of one kind with up to `budget` bytes of memory and files in `folder`.
    pub fn new(kind: Kind, spilled: &Spilled, folder: &Path, budget: usize) -> Result<Self> {
        let row_bytes = spilled.bytes / spilled.stream.rows.max(1);
        let batch_rows = usize::try_from(BATCH_BYTES / row_bytes.max(1))?;
        let session = query::session(
            folder,
            budget,
            1,
            batch_rows.clamp(MIN_BATCH_ROWS, BATCH_ROWS),
        )?;
        let table = query::table(rows::read_schema(kind), vec![spilled.stream.clone()])?;
        session.register_table("rows", table)?;
        let latest_first: Vec<String> = rows::order_names()
            .map(|name| format!("{name} DESC"))
            .collect();
        let sql = format!(
            "SELECT * FROM rows ORDER BY {}, {}",
            key(kind),
            latest_first.join(", ")
        );
        let handle = Handle::current();
        let rows = handle.block_on(async { session.sql(&sql).await?.execute_stream().await })?;
        Ok(Self {
            handle,
            rows,
            last: None,
        })
    }
}

impl Iterator for Sorted {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.handle.block_on(self.rows.next())? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error.into())),
        };
        let first = first_of_each_key(self.last.as_ref(), &batch);
        if batch.num_rows() > 0 {
            self.last = Some(batch.clone());
        }
        Some(filter_record_batch(&batch, &first).map_err(Into::into))
    }
}

/// Which rows of a sorted batch don't have the key of the row before.
fn first_of_each_key(last: Option<&RecordBatch>, batch: &RecordBatch) -> BooleanArray {
    let last = last.filter(|last| last.num_rows() > 0);
    let differs = |row: usize| match (row.checked_sub(1), last) {
        (Some(before), _) => !same_key((batch, before), (batch, row)),
        (None, Some(last)) => !same_key((last, last.num_rows() - 1), (batch, row)),
        (None, None) => true,
    };
    (0..batch.num_rows())
        .map(|row| Some(differs(row)))
        .collect()
}

fn same_key(a: (&RecordBatch, usize), b: (&RecordBatch, usize)) -> bool {
    let (left, right) = (a.0.column(0), b.0.column(0));
    match (
        left.as_primitive_opt::<Int64Type>(),
        right.as_primitive_opt::<Int64Type>(),
    ) {
        (Some(left), Some(right)) => left.value(a.1) == right.value(b.1),
        _ => left.as_string::<i32>().value(a.1) == right.as_string::<i32>().value(b.1),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures::stream;
    use pinpipe_core::{Record, User};

    use super::*;
    use crate::columns::TableBuilder;

    #[test]
    fn a_key_goes_on_across_an_empty_batch() {
        let users = |keys: &[i64]| {
            let mut table = TableBuilder::new(Kind::User);
            for ind in keys {
                table.push(&Record::User(User {
                    ind: *ind,
                    user_name: None,
                    age: None,
                    date_joined: None,
                }));
            }
            table.finish().unwrap()
        };
        let batches = [users(&[1, 2]), users(&[]), users(&[2, 3])];
        let schema = batches[0].schema();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let sorted = Sorted {
            handle: runtime.handle().clone(),
            rows: Box::pin(RecordBatchStreamAdapter::new(
                schema,
                stream::iter(batches.map(Ok)),
            )),
            last: None,
        };
        let rows: Vec<usize> = sorted.map(|batch| batch.unwrap().num_rows()).collect();
        assert_eq!(
            rows,
            [2, 0, 1],
            "the row of key 2 that comes later is an older one"
        );
    }
}
