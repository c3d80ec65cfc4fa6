//! Reads what a schema has, and changes nothing.

use anyhow::Result;
use pinpipe_config::BatchPostgres;
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use super::{connect::connect, errors::failed, table::TABLE_EXISTS};

/// Begins the one transaction of a reader, which sees all tables as they are at its first query.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SET LOCAL statement_timeout = '5min'; SET LOCAL client_min_messages = warning";

/// A parameter of a statement, with its type.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection that only reads.
pub struct Reader(Client);

impl Reader {
    /// Connects, once.
    pub async fn open(config: &BatchPostgres) -> Result<Self> {
        let client = connect(config).await?;
        client.batch_execute(BEGIN).await.map_err(failed)?;
        Ok(Self(client))
    }

    /// Whether there is a table of this quoted name.
    pub async fn has(&self, table: &str) -> Result<bool> {
        let found = self.rows(TABLE_EXISTS, &[(&table, Type::TEXT)]).await?;
        Ok(found.first().is_some_and(|row| row.get(0)))
    }

    /// The rows of a query.
    pub async fn rows(&self, select: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let rows = self.0.query_typed(select, parameters).await;
        rows.map_err(failed)
    }
}
