//! Writing rows, each refused one set aside, and deleting rows of earlier runs.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Result;
use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_runtime::failure::Refusal;
use scylla::{statement::prepared::PreparedStatement, value::Row};
use tracing::warn;

use super::{
    CassandraSink,
    inserts::{self, Inserts},
};
use crate::{refused::Refused, sink::Written};

/// Concurrent requests of one writer.
const REQUESTS: usize = 32;

impl CassandraSink {
    pub(super) async fn write_batch(
        &self,
        table: &str,
        inserts: &Inserts,
        batch: &RecordBatch,
    ) -> Result<Written> {
        let all = Mutex::new(Written::default());
        let requests = stream::iter(inserts.requests(batch)?).map(Ok);
        requests
            .try_for_each_concurrent(REQUESTS, |rows| async {
                let written = self.write_rows(table, inserts, batch, rows).await?;
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                anyhow::Ok(all.add(written)?)
            })
            .await?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes the rows of one request. If the server refuses it, writes each row by itself and sets
    /// aside those that are refused.
    async fn write_rows(
        &self,
        table: &str,
        inserts: &Inserts,
        batch: &RecordBatch,
        rows: inserts::Rows<'_>,
    ) -> Result<Written> {
        let mut written = Written::default();
        let Some(refusal) = self.write_request(inserts, &rows).await? else {
            written.rows = rows.len() as u64;
            return Ok(written);
        };
        let alone = rows.len() == 1;
        for row in rows {
            let (key, number) = (inserts.key(&row), row.number);
            let refusal = if alone {
                Some(refusal.clone())
            } else {
                self.write_request(inserts, &vec![row]).await?
            };
            match refusal {
                None => written.rows += 1,
                Some(reason) => {
                    warn!(table, key, %reason, "the server refuses a row");
                    written.refused.push(Refused {
                        table: table.to_owned(),
                        key,
                        reason,
                        origin: inserts.origin(batch, number),
                    });
                }
            }
        }
        Ok(written)
    }

    /// Sends one request. Returns why the server refuses its rows, if it does.
    async fn write_request(
        &self,
        inserts: &Inserts,
        rows: &inserts::Rows<'_>,
    ) -> Result<Option<Refusal>> {
        let sent = self
            .send(|| self.session.batch(inserts.batch(rows.len()), rows))
            .await;
        match sent {
            Ok(_) => Ok(None),
            Err(error) => error.downcast::<Refusal>().map(Some),
        }
    }

    /// Deletes the rows that `select` finds to be older than `micros`, and adds their number to
    /// `deleted`.
    pub(super) async fn delete_found(
        &self,
        keys: usize,
        select: &PreparedStatement,
        delete: &PreparedStatement,
        micros: i64,
        deleted: &AtomicU64,
    ) -> Result<()> {
        let rows = self
            .session
            .execute_iter(select.clone(), ())
            .await?
            .rows_stream::<Row>()?;
        rows.map_err(anyhow::Error::from)
            .try_for_each_concurrent(REQUESTS, |Row { columns: mut key }| async move {
                let written = key
                    .split_off(keys)
                    .into_iter()
                    .find_map(|time| time.and_then(|time| time.as_bigint()));
                // Rows are written whole: one value tells for all. Without a value nothing does,
                // and the deletion, which is older than this run's rows, decides.
                if written.is_some_and(|written| written >= micros) {
                    return Ok(());
                }
                self.execute(delete, &key).await?;
                if written.is_some() {
                    deleted.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
            .await
    }
}
