//! The PostgreSQL sink: live tables, and the positions in a table beside them.
//!
//! A batch is one transaction: lock the position's row and see that it is the expected one; COPY into a temporary table; INSERT …
//! ON CONFLICT … WHERE later; move the position. Whoever finds another position has been overtaken and rolls back.

pub mod rows;
mod sql;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures::SinkExt;
use pinpipe_core::Kind;
use pinpipe_runtime::config::secret_file;
use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{Client, CopyInSink, NoTls, Statement, error::SqlState};

use self::{rows::Rows, sql::Sql};
use crate::{
    protocol,
    sink::{Batch, First, Halt, Limits, Position, Sink, SinkError, Source, Topic},
};

/// How long a record may wait for others before its batch is stored.
const ALLOWED_LATENCY: Duration = Duration::from_millis(500);
/// A batch's records, bytes: past some thousands, more records a transaction gain nothing and cost memory.
const MAX_RECORDS: usize = 10_000;
const MAX_BYTES: usize = 8 << 20;
/// How long anything may take before the connection is given up.
const TIMEOUT: Duration = Duration::from_mins(1);
/// A worker that is stopped in mid-transaction must not keep the position's row from its successor.
const SESSION: &str =
    "SET lock_timeout = '20s'; SET idle_in_transaction_session_timeout = '20s'; SET client_min_messages = warning";
/// Held while tables are created: `CREATE … IF NOT EXISTS` alone fails when two workers do it at once.
const CREATION_LOCK: i64 = 0x0070_696e_7069_7065;

/// The sink.
#[derive(Debug)]
pub struct Postgres {
    config: pinpipe_config::Postgres,
    /// Whose positions: the consumer group, which holds namespace, pipeline and sink.
    owner: String,
    sql: Sql,
    /// One connection per kind: batches of one kind meet in the same rows, of different kinds never.
    connections: [Mutex<Option<Connection>>; 3],
}

#[derive(Debug)]
struct Connection {
    client: Client,
    copy: Statement,
    upsert: Statement,
    lock: Statement,
    move_position: Statement,
}

impl Postgres {
    /// A sink that connects when it is first needed.
    #[must_use]
    pub fn new(config: pinpipe_config::Postgres, owner: String) -> Self {
        let sql = Sql::new(&config.schema);
        Self { config, owner, sql, connections: Default::default() }
    }

    /// Runs `work` on the kind's connection. It goes back only when all went well: after an error, a time-out or a cancellation
    /// nobody knows what state it is in.
    async fn with<T>(
        &self,
        kind: Kind,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut slot = self.connections[kind as usize].lock().await;
        let all = async {
            let mut connection = match slot.take() {
                Some(connection) if !connection.client.is_closed() => connection,
                _ => self.connect(kind).await?,
            };
            let done = work(&mut connection).await;
            if done.is_ok() {
                *slot = Some(connection);
            }
            done
        };
        timeout(TIMEOUT, all)
            .await
            .unwrap_or_else(|_| Err(anyhow!("PostgreSQL did not answer within {TIMEOUT:?}").into()))
    }

    async fn connect(&self, kind: Kind) -> anyhow::Result<Connection> {
        let file = self.config.url_file.display();
        let url = secret_file(&self.config.url_file)?;
        // The parser's error quotes no part of the URL, which holds the password.
        let mut config: tokio_postgres::Config = url.parse().with_context(|| {
            format!(
                "the Secret's URL in {file} can't be read: postgresql://user:password@host:port/database is expected"
            )
        })?;
        config
            .application_name(&self.owner)
            .connect_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(30));
        let (client, driver) = config.connect(NoTls).await.map_err(|error| refusal(error, &file.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        self.prepare(client, kind).await.with_context(|| {
            format!(
                "the tables in schema {} can't be prepared: does the URL's user own the schema or may it create in it?",
                self.config.schema
            )
        })
    }

    async fn prepare(&self, mut client: Client, kind: Kind) -> anyhow::Result<Connection> {
        client.batch_execute(SESSION).await?;
        self.create_tables(&mut client).await?;
        client.batch_execute(&self.sql.create_stage(kind)).await?;
        let copy = client.prepare(&Sql::copy(kind)).await?;
        let upsert = client.prepare(&self.sql.upsert(kind)).await?;
        let lock = client.prepare(&self.sql.lock_position()).await?;
        let move_position = client.prepare(&self.sql.move_position()).await?;
        Ok(Connection { client, copy, upsert, lock, move_position })
    }

    /// Creates what is absent, and touches nothing else: a user that may only write needs no right to create.
    async fn create_tables(&self, client: &mut Client) -> anyhow::Result<()> {
        let tables = self.sql.tables();
        let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        let present = "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name";
        let count: i64 = client.query_one(present, &[&names]).await?.get(0);
        if usize::try_from(count) == Ok(tables.len()) {
            return Ok(());
        }
        let transaction = client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&CREATION_LOCK]).await?;
        let schemas = transaction.query("SELECT FROM pg_namespace WHERE nspname = $1", &[&self.config.schema]).await?;
        if schemas.is_empty() {
            transaction.batch_execute(&self.sql.create_schema()).await?;
        }
        for (_, statement) in &tables {
            transaction.batch_execute(statement).await?;
        }
        transaction.commit().await?;
        tracing::info!(schema = self.config.schema, "tables created");
        Ok(())
    }

    async fn store(
        &self,
        connection: &mut Connection,
        source: &Source,
        rows: &Rows,
        from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let topic = &source.topic;
        let transaction = connection.client.transaction().await.map_err(failed)?;
        let row = transaction
            .query_opt(&connection.lock, &[&self.owner, &topic.name, &source.partition])
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Err(SinkError::Moved) };
        Halt::unless_same(source, row.get(0), row.get(1))?;
        if !protocol::is_due(row.get(2), from, to)? {
            return Ok(to);
        }
        if rows.records() > 0 {
            let copy: CopyInSink<Bytes> = transaction.copy_in(&connection.copy).await.map_err(failed)?;
            futures::pin_mut!(copy);
            copy.send(rows.copy_data()).await.map_err(failed)?;
            copy.finish().await.map_err(failed)?;
            transaction.execute(&connection.upsert, &[]).await.map_err(failed)?;
        }
        transaction
            .execute(&connection.move_position, &[&self.owner, &topic.name, &source.partition, &to])
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(to)
    }
}

impl Sink for Postgres {
    type Batch = Rows;

    fn limits(&self) -> Limits {
        Limits { records: MAX_RECORDS, bytes: MAX_BYTES, age: ALLOWED_LATENCY }
    }

    fn first(&self) -> First {
        First::Remembered(self.config.start_from)
    }

    fn batch(&self, source: &Source) -> Rows {
        Rows::new(source.topic.kind)
    }

    async fn positions(&self, topic: &Arc<Topic>, _: &[i32]) -> Result<BTreeMap<i32, Position>, SinkError> {
        self.with(topic.kind, async |connection| {
            let statement = self.sql.read_positions();
            let rows = connection.client.query(&statement, &[&self.owner, &topic.name]).await.map_err(failed)?;
            let position = |row: &tokio_postgres::Row| {
                (row.get(0), Position { cluster_id: row.get(1), topic_id: row.get(2), next: row.get(3) })
            };
            Ok(rows.iter().map(position).collect())
        })
        .await
    }

    async fn remember(&self, topic: &Arc<Topic>, first: &BTreeMap<i32, i64>) -> Result<(), SinkError> {
        self.with(topic.kind, async |connection| {
            let transaction = connection.client.transaction().await.map_err(failed)?;
            for (partition, next) in first {
                transaction
                    .execute(
                        &self.sql.remember(),
                        &[&self.owner, &topic.name, partition, &topic.cluster_id, &topic.id, next],
                    )
                    .await
                    .map_err(failed)?;
            }
            transaction.commit().await.map_err(failed)
        })
        .await
    }

    async fn commit(&self, source: &Source, rows: &Rows, from: i64, to: i64) -> Result<i64, SinkError> {
        self.with(rows.kind(), async |connection| self.store(connection, source, rows, from, to).await).await
    }
}

/// A statement's failure, with what the server says about it.
fn failed(error: tokio_postgres::Error) -> SinkError {
    SinkError::Away(match error.as_db_error() {
        Some(said) => anyhow!("PostgreSQL: {} ({})", said.message(), said.code().code()),
        None => anyhow::Error::new(error).context("PostgreSQL"),
    })
}

/// A refused connection, as the sentence that helps.
fn refusal(error: tokio_postgres::Error, file: &str) -> anyhow::Error {
    match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            anyhow!("PostgreSQL refuses the user or the password: correct the URL in the Secret (mounted at {file})")
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            anyhow!("PostgreSQL has no such database: create it, or correct the URL in the Secret (mounted at {file})")
        }
        _ => anyhow::Error::new(error)
            .context(format!("PostgreSQL can't be reached by the URL in the Secret (mounted at {file})")),
    }
}
