//! Reads what a schema has, and changes nothing.

use anyhow::{Context as _, Result};
use pinpipe_config::BatchPostgres;
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use super::{
    connect::connect,
    errors::failed,
    marker,
    table::{TABLE_EXISTS, quoted},
};
use crate::sink::Lookup;

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

/// The rows of a table of clean rows whose column `key` has one of `keys`, and the schema's marker.
pub async fn find(
    config: &BatchPostgres,
    table: &str,
    key: &str,
    keys: Parameter<'_>,
) -> Result<Lookup> {
    let reader = Reader::open(config).await?;
    let path = format!("{}.{}", quoted(&config.schema), quoted(table));
    let mut lookup = Lookup::default();
    if reader.has(&marker::path(config)).await? {
        lookup.marker = marker::read(&reader, config).await?;
    }
    if !reader.has(&path).await? {
        return Ok(lookup);
    }
    lookup.has_table = true;
    let select = format!(
        "SELECT row_to_json(found)::text FROM {path} AS found WHERE {} = ANY ($1)",
        quoted(key)
    );
    let rows = reader.rows(&select, &[keys]).await;
    let rows = rows.with_context(|| format!("reading {path}"))?;
    lookup.rows = rows.iter().map(|row| row.get(0)).collect();
    Ok(lookup)
}
