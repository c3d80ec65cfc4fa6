//! A connection to PostgreSQL that is ready for batches of one kind: tables created and checked.
//!
//! It may lead to a pooler that gives every transaction another session. So nothing is set for a
//! session, and no statement is prepared beyond its transaction.

use std::{sync::PoisonError, time::Duration};

use anyhow::anyhow;
use pinpipe_core::Kind;
use pinpipe_runtime::postgres::{self, Failure, Server, Settings, Source};
use tokio_postgres::{
    Client,
    error::SqlState,
    types::{ToSql, Type},
};

use super::{
    Postgres,
    failure::failed,
    sql::BEGIN,
    table::{Found, fit},
};
use crate::sink::{Halt, SecretRefused, SinkError};

/// A lock held while tables are created, until the transaction ends: `CREATE … IF NOT EXISTS` alone
/// fails when two workers run it at once.
pub const CREATE_LOCK: &str = "SELECT pg_advisory_xact_lock(31641120444870757)";
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

/// A parameter of a statement with its type, so that the statement needs no preparation.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The server, for messages.
    pub server: Server,
}

impl Connection {
    /// Runs `work` between `begin` and COMMIT, or ROLLBACK where it fails.
    pub async fn transaction<T, E: From<tokio_postgres::Error>>(
        &self,
        begin: &str,
        work: impl AsyncFnOnce(&Client) -> Result<T, E>,
    ) -> Result<T, E> {
        let done = match self.client.batch_execute(begin).await {
            Ok(()) => work(&self.client).await,
            Err(error) => Err(error.into()),
        };
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        // After a failure the first error counts.
        match (self.client.batch_execute(end).await, done) {
            (Err(error), Ok(_)) => Err(error.into()),
            (_, done) => done,
        }
    }

    /// Whether a table of that quoted name exists.
    pub async fn has_table(&self, name: &str) -> Result<bool, SinkError> {
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        let row = self
            .client
            .query_typed_one(exists, &[(&name, Type::TEXT)])
            .await
            .map_err(failed)?;
        Ok(row.get(0))
    }
}

impl Postgres {
    /// Reads the URL and the certificates.
    pub(super) fn read(&self) -> anyhow::Result<Settings> {
        postgres::read(&Source {
            url_file: &self.config.url_file,
            secret: self.config.secret.as_deref(),
            tls: self.config.tls.as_ref(),
        })
    }

    /// The settings of the Secrets as they are, or as they were when they could last be used.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let mut known = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read() {
            Ok(read) => Ok(known.insert(read).clone()),
            Err(error) => known.clone().ok_or(error),
        }
    }

    pub(super) async fn connect(&self, kind: Kind) -> Result<Connection, SinkError> {
        let mut settings = self.settings()?;
        settings
            .config
            .application_name(&self.owner)
            .connect_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(30));
        let connected = settings.connect().await;
        let (client, server) = connected.map_err(|error| {
            let message = error.to_string();
            match error.kind {
                Failure::Unavailable => anyhow!(message),
                Failure::AccessDenied => anyhow!(SecretRefused::AccessDenied(message)),
                Failure::DatabaseMissing => anyhow!(SecretRefused::DatabaseMissing(message)),
            }
        })?;
        let connection = Connection { client, server };
        self.create_tables(&connection).await?;
        self.fit_table(&connection, kind).await?;
        Ok(connection)
    }

    /// Checks that the kind's live table can hold the rows, and adds missing columns.
    async fn fit_table(&self, connection: &Connection, kind: Kind) -> Result<(), SinkError> {
        let client = &connection.client;
        let table = self.sql.live(kind);
        let name: [Parameter<'_>; 1] = [(&table, Type::TEXT)];
        let found: Vec<Found> = client
            .query_typed(COLUMNS, &name)
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
        let keys = client
            .query_typed(UNIQUE_KEYS, &name)
            .await
            .map_err(failed)?;
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
    async fn create_tables(&self, connection: &Connection) -> Result<(), SinkError> {
        let tables = self.sql.tables();
        let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        let present = "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name";
        let count: i64 = connection
            .client
            .query_typed_one(present, &[(&names, Type::TEXT_ARRAY)])
            .await
            .map_err(failed)?
            .get(0);
        if usize::try_from(count) == Ok(tables.len()) {
            return Ok(());
        }
        let schema = &self.config.schema;
        let created = connection.transaction(BEGIN, async |client| {
            client.batch_execute(CREATE_LOCK).await?;
            let found = "SELECT FROM pg_namespace WHERE nspname = $1";
            let found = client.query_typed(found, &[(schema, Type::TEXT)]).await?;
            if found.is_empty() {
                client.batch_execute(&self.sql.create_schema()).await?;
            }
            for (_, statement) in &tables {
                client.batch_execute(statement).await?;
            }
            Ok(())
        });
        created
            .await
            .map_err(|error: tokio_postgres::Error| match failed(error) {
                SinkError::Halt(Halt::TableUnsuitable(why)) => Halt::TableUnsuitable(format!(
                    "the tables in schema {schema} can't be created: {why}. The URL's user needs \
                     the right to create them"
                ))
                .into(),
                other => other,
            })?;
        tracing::info!(schema, "tables created");
        Ok(())
    }
}
