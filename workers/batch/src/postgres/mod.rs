//! The PostgreSQL sink. A load is one transaction, in which the marker's row is locked from the
//! beginning: all of the run is stored together with its marker, or nothing is.
//!
//! It may lead to a pooler that gives every transaction another session, so nothing outlasts a
//! transaction.

mod connect;
mod errors;
mod find;
mod marker;
mod reader;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use pinpipe_config::BatchPostgres;
use pinpipe_runtime::failure::Refusal;
use tokio::sync::Mutex;
use tokio_postgres::{
    Client,
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};
use tracing::{info, warn};

use self::{connect::connect, errors::failed, table::Table};
pub use self::{
    find::find,
    reader::{Parameter, Reader},
};
use crate::{
    cells::{self, Cell},
    failure::Permanent,
    refused::Refused,
    retry::{RETRY_TIMEOUT, retry},
    rows,
    sink::{Marker, Rows, Sink, SinkTable, Written, key_text},
};

/// Begins a transaction. The timeouts release its locks when the worker dies in its middle. What
/// the user's constraints check at the end is checked by each statement, which can be undone.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '20s'; \
    SET LOCAL idle_in_transaction_session_timeout = '2min'; SET LOCAL statement_timeout = 0; \
    SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; \
    SET LOCAL tcp_keepalives_count = 3; SET LOCAL client_min_messages = warning; \
    SET CONSTRAINTS ALL IMMEDIATE";
/// Interval of progress log lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// A schema of a PostgreSQL database.
pub struct PostgresSink {
    config: BatchPostgres,
    /// The connection with the open transaction of a load. Gone after an error, which ends the
    /// transaction.
    load: Mutex<Option<Client>>,
}

impl PostgresSink {
    /// A sink that connects when it is first needed.
    pub fn new(config: BatchPostgres) -> Self {
        Self {
            config,
            load: Mutex::default(),
        }
    }

    /// Connects, and claims the schema in a transaction of its own. Returns the connection.
    async fn claim_schema(&self, pipeline: &str, tables: &[SinkTable]) -> Result<Client> {
        let client = connect(&self.config).await?;
        begin(&client).await?;
        marker::claim(&client, &self.config, pipeline, tables).await?;
        commit(&client).await?;
        Ok(client)
    }

    /// Writes all rows to a table.
    async fn write_table(
        &self,
        client: &Client,
        table: &SinkTable,
        total: u64,
        mut rows: Rows<'_>,
        run_time: DateTime<Utc>,
    ) -> Result<Written> {
        let statements = Table::new(&self.config.schema, table)?;
        let create = statements.create_stage();
        client.batch_execute(&create).await.map_err(failed)?;
        let key = table.key.iter().map(|name| table.schema.index_of(name));
        let load = TableLoad {
            client,
            name: table.name,
            columns: (0..table.schema.fields().len()).collect(),
            key: key.collect::<Result<_, _>>()?,
            statements,
            run_time: run_time.into(),
        };
        let (mut all, mut last_logged) = (Written::default(), Instant::now());
        while let Some(batch) = rows.try_next().await? {
            load.write_batch(batch, &mut all).await?;
            if last_logged.elapsed() >= LOG_EVERY {
                info!(table = table.name, rows = all.rows, of = total, "writing");
                last_logged = Instant::now();
            }
        }
        Ok(all)
    }
}

async fn begin(client: &Client) -> Result<()> {
    client.batch_execute(BEGIN).await.map_err(failed)
}

async fn commit(client: &Client) -> Result<()> {
    client.batch_execute("COMMIT").await.map_err(failed)
}

/// The load of one table.
struct TableLoad<'a> {
    client: &'a Client,
    name: &'static str,
    statements: Table,
    /// Indices of the table's columns in the rows.
    columns: Vec<usize>,
    /// Indices of the key's columns.
    key: Vec<usize>,
    run_time: SystemTime,
}

impl TableLoad<'_> {
    /// Writes rows. Those of a part that the server refuses are written in halves, so that only
    /// rows that are refused by themselves are set aside.
    async fn write_batch(&self, batch: RecordBatch, all: &mut Written) -> Result<()> {
        let mut waiting = vec![batch];
        while let Some(part) = waiting.pop() {
            let rows = part.num_rows();
            if rows == 0 {
                continue;
            }
            match self.try_part(&part).await? {
                None => all.add(Written {
                    rows: rows as u64,
                    ..Written::default()
                })?,
                Some(reason) if rows == 1 => {
                    let row = cells::row(&part, 0)?;
                    let key: Vec<&Cell<'_>> = self.key.iter().map(|index| &row[*index]).collect();
                    let key = key_text(&key);
                    warn!(table = self.name, key, %reason, "the server refuses a row");
                    let mut written = Written::default();
                    written.refused.push(Refused {
                        table: self.name.to_owned(),
                        key,
                        reason,
                        origin: rows::origin(&part, self.columns.len(), 0),
                    });
                    all.add(written)?;
                }
                Some(_) => {
                    waiting.push(part.slice(rows / 2, rows - rows / 2));
                    waiting.push(part.slice(0, rows / 2));
                }
            }
        }
        Ok(())
    }

    /// Writes rows, or nothing. Returns why the server refuses one of them, if it does.
    async fn try_part(&self, part: &RecordBatch) -> Result<Option<Refusal>> {
        let run = |statement: String| async move {
            let done = self.client.batch_execute(&statement).await;
            done.map_err(failed)
        };
        run("SAVEPOINT part".to_owned()).await?;
        let refusal = match self.merge(part).await {
            Ok(()) => None,
            Err(error) => Some(error.downcast::<Refusal>()?),
        };
        let end = match refusal {
            None => "RELEASE part",
            Some(_) => "ROLLBACK TO part; RELEASE part",
        };
        run(format!("{end}; {}", self.statements.empty_stage())).await?;
        Ok(refusal)
    }

    async fn merge(&self, part: &RecordBatch) -> Result<()> {
        let part = &part.project(&self.columns)?;
        {
            // COPY needs a statement by name; it is closed before the transaction ends.
            let statement = self.client.prepare(&self.statements.copy()).await;
            let statement = statement.map_err(failed)?;
            let copy = self.client.copy_in(&statement).await;
            let writer = BinaryCopyInWriter::new(copy.map_err(failed)?, &self.statements.types());
            futures::pin_mut!(writer);
            for row in 0..part.num_rows() {
                let row = cells::row(part, row)?;
                writer.as_mut().write_raw(&row).await.map_err(failed)?;
            }
            writer.finish().await.map_err(failed)?;
        }
        let merge = self.statements.merge();
        let run_time = &[(&self.run_time as &(dyn ToSql + Sync), Type::TIMESTAMPTZ)];
        let merged = self.client.execute_typed(&merge, run_time).await;
        merged.map(drop).map_err(failed)
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn is_atomic(&self) -> bool {
        true
    }

    async fn claim(&self, pipeline: &str) -> Result<()> {
        let claim = || self.claim_schema(pipeline, &[]);
        retry(RETRY_TIMEOUT, "claiming PostgreSQL's schema", claim)
            .await
            .map(drop)
    }

    async fn prepare(&self, pipeline: &str, tables: &[SinkTable]) -> Result<Option<Marker>> {
        let mut load = self.load.lock().await;
        *load = None;
        let client = self.claim_schema(pipeline, tables).await?;
        begin(&client).await?;
        let marker = marker::lock(&client, &self.config).await?;
        *load = Some(client);
        Ok(marker)
    }

    async fn write(
        &self,
        table: &SinkTable,
        total: u64,
        rows: Rows<'_>,
        run_time: DateTime<Utc>,
    ) -> Result<Written> {
        let mut load = self.load.lock().await;
        let client = load.take().context(NO_TRANSACTION)?;
        let written = self
            .write_table(&client, table, total, rows, run_time)
            .await
            .with_context(|| format!("writing to the table {}", table.name))?;
        *load = Some(client);
        Ok(written)
    }

    async fn delete_older(&self, table: &SinkTable, run_time: DateTime<Utc>) -> Result<u64> {
        let mut load = self.load.lock().await;
        let client = load.take().context(NO_TRANSACTION)?;
        let delete = Table::new(&self.config.schema, table)?.delete_others();
        let run_time = SystemTime::from(run_time);
        let deleted = client
            .execute_typed(&delete, &[(&run_time, Type::TIMESTAMPTZ)])
            .await
            .map_err(|error| statement_error(failed(error)))
            .with_context(|| format!("deleting rows of the table {}", table.name))?;
        *load = Some(client);
        Ok(deleted)
    }

    async fn keep_open(&self) -> Result<()> {
        let load = self.load.lock().await;
        let client = load.as_ref().context(NO_TRANSACTION)?;
        client.batch_execute("").await.map_err(failed)
    }

    async fn mark(&self, marker: &Marker) -> Result<()> {
        let mut load = self.load.lock().await;
        let client = load.take().context(NO_TRANSACTION)?;
        marker::replace(&client, &self.config, marker)
            .await
            .context("can't write the marker of this run")?;
        commit(&client).await.context("can't commit this run")
    }
}

/// A call between two loads, which the trait's users don't make.
const NO_TRANSACTION: &str = "the load has no transaction: it was not prepared, or has failed";

/// A refusal by a statement that stores no rows, such as a foreign key of the user's that refuses a
/// deletion, is for a person to correct.
fn statement_error(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refusal>() {
        Ok(refusal) => Permanent(refusal.to_string()).into(),
        Err(error) => error,
    }
}
