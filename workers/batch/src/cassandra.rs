//! The Cassandra sink: keyspace and tables made where absent, rows written with the run's time as
//! their timestamp.
//!
//! So a run that is repeated writes the same cells, and one that comes late, after another has
//! taken its place, changes nothing. A row is always written whole, nulls included. A request takes
//! a few rows that are neighbours in the ring, so that nearly always one replica has them all, in
//! an unlogged batch below the sizes at which Cassandra warns: fewer requests, no coordination.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::Cassandra;
use pinpipe_runtime::config::secret_file;
use scylla::{
    client::{
        execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder,
    },
    errors::{DbError, ExecutionError, PrepareError, RequestAttemptError},
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::{CqlValue, Row},
};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::{
    cells::{self, Cell},
    retry::{Hopeless, PATIENCE, patiently},
    table::{Table, quoted},
};

/// Batches of rows written at once, each by a task of its own.
const WRITERS: usize = 4;
/// Requests of one writer under way.
const REQUESTS: usize = 32;
/// Rows of one request: Cassandra warns of more partitions in an unlogged batch
/// (`unlogged_batch_across_partitions_warn_threshold`).
const REQUEST_ROWS: usize = 10;
/// Bytes of one request's values: Cassandra warns of 5 KiB (`batch_size_warn_threshold`), and
/// counts what it adds to each value too.
const REQUEST_BYTES: usize = 3 << 10;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a schema change may take until every node has it.
const AGREEMENT_TIMEOUT: Duration = Duration::from_mins(1);
/// How often the log says how far writing is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A Cassandra cluster with its keyspace.
#[derive(Clone)]
pub struct Serving {
    session: Arc<Session>,
    keyspace: String,
    /// Whether the last request of some writer failed: so that the log says it once, not once per
    /// row.
    away: Arc<AtomicBool>,
}

impl Serving {
    /// Connects, waiting for a cluster that is away, and makes the keyspace where it is absent.
    pub async fn connect(config: &Cassandra) -> Result<Self> {
        let session = patiently(PATIENCE, "connecting to Cassandra", || connect(config))
            .await
            .with_context(|| {
                format!(
                    "Cassandra at {}: is it up, and are its credentials right?",
                    config.contact_points.join(", ")
                )
            })?;
        let serving = Self {
            session: Arc::new(session),
            keyspace: config.keyspace.clone(),
            away: Arc::new(AtomicBool::new(false)),
        };
        serving.make_keyspace(config.replication_factor).await?;
        Ok(serving)
    }

    /// The keyspace's name.
    pub fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// Asked first, so that a keyspace made by someone else needs no right to make one.
    async fn make_keyspace(&self, replication_factor: u32) -> Result<()> {
        let asked = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        if !self.names(asked).await?.is_empty() {
            return Ok(());
        }
        info!(
            keyspace = self.keyspace,
            replication_factor, "making the keyspace"
        );
        self.change_schema(&format!(
            "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': {replication_factor}}}",
            quoted(&self.keyspace)
        ))
        .await
        .with_context(|| format!("the keyspace {} can't be made", self.keyspace))
    }

    /// Makes those of `tables` that are absent.
    pub async fn make_tables(&self, tables: &[&Table]) -> Result<()> {
        let there = self
            .names("SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?")
            .await?;
        for table in tables.iter().filter(|table| !there.contains(&table.name)) {
            self.change_schema(&table.create())
                .await
                .with_context(|| format!("the table {} can't be made", table.name))?;
            info!(table = table.name, "table made");
        }
        Ok(())
    }

    /// What `question` finds of our keyspace.
    async fn names(&self, question: &str) -> Result<HashSet<String>> {
        let statement = self.prepare(question).await?;
        let rows = self
            .execute(&statement, &(&self.keyspace,))
            .await?
            .into_rows_result()?;
        let names = rows.rows::<(String,)>()?.map(|row| Ok(row?.0));
        names.collect()
    }

    /// The driver waits until all nodes have the change.
    async fn change_schema(&self, cql: &str) -> Result<()> {
        patiently(PATIENCE, "changing Cassandra's schema", || async {
            self.session.query_unpaged(cql, ()).await.map_err(explain)?;
            Ok(())
        })
        .await
    }

    async fn prepare(&self, cql: &str) -> Result<PreparedStatement> {
        let mut statement = patiently(PATIENCE, "preparing a statement", || async {
            self.session
                .prepare(cql)
                .await
                .map_err(|error| explain(error.into()))
        })
        .await
        .with_context(|| format!("preparing {cql}: a table of this name may have other columns"))?;
        // Reads, and writes with a timestamp of ours: the driver may send them again.
        statement.set_is_idempotent(true);
        Ok(statement)
    }

    /// One statement, sent again while the cluster is away.
    async fn execute(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<QueryResult> {
        self.send(|| self.session.execute_unpaged(statement, values))
            .await
    }

    /// One request, sent again while the cluster is away.
    async fn send<F>(&self, request: impl Fn() -> F) -> Result<QueryResult>
    where
        F: Future<Output = Result<QueryResult, ExecutionError>>,
    {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match request().await {
                Ok(result) => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        info!("Cassandra answers again");
                    }
                    return Ok(result);
                }
                Err(error) => explain(error),
            };
            if error.is::<Hopeless>() || begun.elapsed() > PATIENCE {
                return Err(error);
            }
            if !self.away.swap(true, Ordering::Relaxed) {
                warn!(
                    error = format!("{error:#}"),
                    "Cassandra does not take requests, trying again"
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Writes `total` rows with `run_time` as their timestamp; gives their number.
    pub async fn write(
        &self,
        table: &Table,
        total: u64,
        mut rows: impl Iterator<Item = Result<RecordBatch>> + Send,
        run_time: DateTime<Utc>,
    ) -> Result<u64> {
        let insert = Arc::new(Inserts::new(self.prepare(&table.insert()).await?, run_time));
        let mut writers = JoinSet::new();
        let mut start = |writers: &mut JoinSet<_>| -> Result<()> {
            if let Some(batch) = rows.next().transpose()? {
                let (serving, insert) = (self.clone(), Arc::clone(&insert));
                writers.spawn(async move { serving.write_batch(&insert, &batch).await });
            }
            Ok(())
        };
        for _ in 0..WRITERS {
            start(&mut writers)?;
        }
        let (mut written, mut told) = (0, Instant::now());
        while let Some(writer) = writers.join_next().await {
            written += writer?.with_context(|| format!("writing to {}", table.name))?;
            start(&mut writers)?;
            if told.elapsed() >= TELL_EVERY {
                info!(table = table.name, rows = written, of = total, "writing");
                told = Instant::now();
            }
        }
        Ok(written)
    }

    async fn write_batch(&self, inserts: &Inserts, batch: &RecordBatch) -> Result<u64> {
        let requests = stream::iter(inserts.requests(batch)?).map(Ok);
        requests
            .try_for_each_concurrent(REQUESTS, |rows| async move {
                self.send(|| self.session.batch(inserts.of(rows.len()), &rows))
                    .await
                    .map(drop)
            })
            .await?;
        Ok(batch.num_rows() as u64)
    }

    /// Deletes the rows of an answer's table that this run, which has written its own before, did
    /// not write. The deletion is older than the run's rows by one microsecond, so it can't touch
    /// them.
    pub async fn delete_vanished(&self, table: &Table, run_time: DateTime<Utc>) -> Result<usize> {
        let run_micros = run_time.timestamp_micros();
        let written = self.prepare(&table.written()).await?;
        let mut delete = self.prepare(&table.delete()).await?;
        delete.set_timestamp(Some(run_micros - 1));
        let vanished = patiently(PATIENCE, "reading an answer's keys", || {
            self.written_before(&written, run_micros)
        })
        .await?;
        for key in &vanished {
            self.execute(&delete, key)
                .await
                .with_context(|| format!("deleting a row of {}", table.name))?;
        }
        Ok(vanished.len())
    }

    /// Keys of the rows written before `micros`; `written` gives the key's columns and a time.
    async fn written_before(
        &self,
        written: &PreparedStatement,
        micros: i64,
    ) -> Result<Vec<Vec<Option<CqlValue>>>> {
        let mut rows = self
            .session
            .execute_iter(written.clone(), ())
            .await?
            .rows_stream::<Row>()?;
        let mut keys = Vec::new();
        while let Some(Row { mut columns }) = rows.try_next().await? {
            // A row without a time has no value left: it is none of this run's.
            let time = columns.pop().flatten().and_then(|time| time.as_bigint());
            if time.is_none_or(|time| time < micros) {
                keys.push(columns);
            }
        }
        Ok(keys)
    }
}

/// Inserts into one table, by the number of rows a request has.
struct Inserts {
    one: PreparedStatement,
    batches: Vec<Batch>,
}

/// The rows of one request.
type Rows<'a> = Vec<Vec<Cell<'a>>>;

impl Inserts {
    fn new(one: PreparedStatement, run_time: DateTime<Utc>) -> Self {
        let batch = |rows| {
            let statements = vec![BatchStatement::from(one.clone()); rows];
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
            batch.set_timestamp(Some(run_time.timestamp_micros()));
            batch.set_is_idempotent(true);
            batch
        };
        Self {
            batches: (0..=REQUEST_ROWS).map(batch).collect(),
            one,
        }
    }

    /// The request for so many rows.
    fn of(&self, rows: usize) -> &Batch {
        &self.batches[rows]
    }

    /// Cuts rows into requests, in the order of the ring.
    fn requests<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Rows<'a>>> {
        let mut rows = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let cells = cells::row(batch, row)?;
            rows.push((
                self.one.calculate_token(&cells)?.map(|token| token.value()),
                cells,
            ));
        }
        rows.sort_unstable_by_key(|(token, _)| *token);
        Ok(cut(rows.into_iter().map(|(_, cells)| cells)))
    }
}

fn cut<'a>(rows: impl Iterator<Item = Vec<Cell<'a>>>) -> Vec<Rows<'a>> {
    let (mut requests, mut request, mut bytes) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let row_bytes: usize = row.iter().map(Cell::bytes).sum();
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

async fn connect(config: &Cassandra) -> Result<Session> {
    let profile = ExecutionProfile::builder()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .connection_timeout(Duration::from_secs(5))
        .schema_agreement_timeout(AGREEMENT_TIMEOUT)
        .default_execution_profile_handle(profile.into_handle());
    if let Some(folder) = &config.credentials_dir {
        builder = builder.user(
            secret_file(&folder.join("username"))?,
            secret_file(&folder.join("password"))?,
        );
    }
    builder.build().await.map_err(|error| anyhow!(error))
}

/// Tells errors that stay from those of a cluster that is away or busy.
fn explain(error: ExecutionError) -> anyhow::Error {
    let stays = match &error {
        ExecutionError::BadQuery(_) => true,
        ExecutionError::LastAttemptError(attempt)
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: attempt,
            ..
        }) => refused(attempt),
        _ => false,
    };
    if stays {
        Hopeless(error.to_string()).into()
    } else {
        anyhow!(error)
    }
}

fn refused(attempt: &RequestAttemptError) -> bool {
    match attempt {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => true,
        RequestAttemptError::DbError(error, _) => matches!(
            error,
            DbError::SyntaxError
                | DbError::Invalid
                | DbError::ConfigError
                | DbError::Unauthorized
                | DbError::AuthenticationError
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_below_what_cassandra_warns_of() {
        let text = "x".repeat(10_000);
        let row = |bytes| vec![Cell::BigInt(1), Cell::Text(&text[..bytes])];
        let sizes = |rows: &[usize]| {
            cut(rows.iter().map(|bytes| row(*bytes)))
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
            "a row that is larger goes alone"
        );
    }
}
