//! A connection to PostgreSQL that is ready for batches of one kind: tables created, statements
//! prepared.

use std::time::Duration;

use pinpipe_core::Kind;
use tokio_postgres::{Client, NoTls, Statement, error::SqlState};

use super::{
    CREATE_LOCK, Postgres, failed,
    server::{self, Server},
    sql::Sql,
    table::{Found, fit},
};
use crate::sink::{Halt, SinkError};

/// The timeouts release the lock on a position's row when a worker dies in mid-transaction.
const SESSION: &str = "SET lock_timeout = '20s'; \
    SET idle_in_transaction_session_timeout = '20s'; \
    SET client_min_messages = warning";
/// A table's columns. Parameter: its quoted name.
const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull, \
    atthasdef OR attidentity <> '' \
    FROM pg_attribute \
    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
/// The columns of each unique key that `ON CONFLICT` can name. Parameter: the table's quoted name.
const UNIQUE_KEYS: &str = "SELECT ARRAY(SELECT attname::text FROM pg_attribute \
    WHERE attrelid = indrelid AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1])) \
    FROM pg_index \
    WHERE indrelid = to_regclass($1) AND indisunique AND indimmediate AND indisvalid \
    AND indpred IS NULL AND indexprs IS NULL";

/// A connection with its prepared statements.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub client: Client,
    /// The server, for messages.
    pub server: Server,
    /// Copies a batch into the staging table.
    pub copy: Statement,
    /// Inserts the staged batch into the live table.
    pub insert: Statement,
    /// Locks and reads a position.
    pub lock: Statement,
    /// Moves a locked position.
    pub move_position: Statement,
}

impl Connection {
    /// Whether a table of that quoted name exists.
    pub async fn has_table(&self, name: &str) -> Result<bool, SinkError> {
        let row = self
            .client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&name])
            .await
            .map_err(failed)?;
        Ok(row.get(0))
    }
}

impl Postgres {
    pub(super) async fn connect(&self, kind: Kind) -> Result<Connection, SinkError> {
        let (mut config, server) = server::read(&self.config)?;
        config
            .application_name(&self.owner)
            .connect_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(30));
        let (client, driver) = config
            .connect(NoTls)
            .await
            .map_err(|error| server.connection_error(error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        let prepared = self.prepare(client, server.clone(), kind).await;
        prepared.map_err(|error| match error {
            SinkError::Unavailable(error) => SinkError::Unavailable(error.context(format!(
                "{server}: can't prepare the tables in schema {}, where the URL's user needs the \
                 right to create them",
                self.config.schema
            ))),
            other => other,
        })
    }

    async fn prepare(
        &self,
        mut client: Client,
        server: Server,
        kind: Kind,
    ) -> Result<Connection, SinkError> {
        client.batch_execute(SESSION).await.map_err(failed)?;
        self.create_tables(&mut client).await.map_err(failed)?;
        self.fit_table(&client, kind).await?;
        client
            .batch_execute(&Sql::create_stage(kind))
            .await
            .map_err(failed)?;
        let copy = client.prepare(&Sql::copy(kind)).await.map_err(failed)?;
        let insert = client
            .prepare(&self.sql.insert(kind))
            .await
            .map_err(failed)?;
        let lock = client
            .prepare(&self.sql.lock_position())
            .await
            .map_err(failed)?;
        let move_position = client
            .prepare(&self.sql.move_position())
            .await
            .map_err(failed)?;
        Ok(Connection {
            client,
            server,
            copy,
            insert,
            lock,
            move_position,
        })
    }

    /// Checks that the kind's live table can hold the rows, and adds missing columns.
    async fn fit_table(&self, client: &Client, kind: Kind) -> Result<(), SinkError> {
        let table = self.sql.live(kind);
        let found: Vec<Found> = client
            .query(COLUMNS, &[&table])
            .await
            .map_err(failed)?
            .iter()
            .map(|row| Found {
                name: row.get(0),
                ty: row.get(1),
                nullable: row.get(2),
                has_default: row.get(3),
            })
            .collect();
        let keys = client.query(UNIQUE_KEYS, &[&table]).await.map_err(failed)?;
        let keys: Vec<Vec<String>> = keys.iter().map(|row| row.get(0)).collect();
        let wanted = self.sql.columns(kind);
        let missing = fit(&table, &wanted, &self.sql.key(kind), &found, &keys)
            .map_err(Halt::TableUnsuitable)?;
        if missing.is_empty() {
            return Ok(());
        }
        let statement = self.sql.add_columns(kind, &missing);
        match client.batch_execute(&statement).await {
            Ok(()) => {
                tracing::info!(table, statement, "columns added");
                Ok(())
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                Err(Halt::TableUnsuitable(format!(
                    "{table} lacks columns, and the URL's user may not add them. Let the table's \
                     owner run: {statement}"
                ))
                .into())
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Creates missing tables. Where all exist, a user without the right to create is enough.
    async fn create_tables(&self, client: &mut Client) -> Result<(), tokio_postgres::Error> {
        let tables = self.sql.tables();
        let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        let present = "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name";
        let count: i64 = client.query_one(present, &[&names]).await?.get(0);
        if usize::try_from(count) == Ok(tables.len()) {
            return Ok(());
        }
        let transaction = client.transaction().await?;
        transaction.execute(CREATE_LOCK, &[]).await?;
        let schemas = transaction
            .query(
                "SELECT FROM pg_namespace WHERE nspname = $1",
                &[&self.config.schema],
            )
            .await?;
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
}
