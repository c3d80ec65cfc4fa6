//! Batch tables and answers in Cassandra.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use chrono::NaiveDateTime;
use futures::TryStreamExt;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    errors::TranslationError,
    policies::address_translator::{AddressTranslator, UntranslatedPeer},
};
use serde_json::{Value, json};

use crate::{Kind, cluster, postgres::Row};

/// Replaces the address that the node advertises, which only pods reach, by the port on this host.
struct HostPort(SocketAddr);

#[async_trait]
impl AddressTranslator for HostPort {
    async fn translate_address(
        &self,
        _: &UntranslatedPeer,
    ) -> Result<SocketAddr, TranslationError> {
        Ok(self.0)
    }
}

async fn connect() -> Result<Session> {
    let address = cluster::CASSANDRA
        .parse()
        .context("the address of Cassandra")?;
    let session = SessionBuilder::new()
        .known_node_addr(address)
        .address_translator(Arc::new(HostPort(address)));
    session.build().await.context("Cassandra")
}

/// The rows of a table, each as a JSON object.
pub async fn objects(keyspace: &str, table: &str) -> Result<Vec<Value>> {
    let rows = connect()
        .await?
        .query_iter(format!("SELECT JSON * FROM {keyspace}.{table}"), &[])
        .await?;
    let mut rows = rows.rows_stream::<(String,)>()?;
    let mut objects = Vec::new();
    while let Some((row,)) = rows.try_next().await? {
        objects.push(serde_json::from_str(&row)?);
    }
    Ok(objects)
}

/// A batch table by key. A row has the clean columns in the contract's order; timestamps are
/// milliseconds since the epoch. An error if the table has other columns.
pub async fn batch_table(keyspace: &str, kind: Kind) -> Result<BTreeMap<String, Row>> {
    let table = kind.batch_table();
    let mut rows = BTreeMap::new();
    for object in objects(keyspace, table).await? {
        let Value::Object(mut columns) = object else {
            continue;
        };
        let row: Row = kind
            .columns()
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let value = columns
                    .remove(*name)
                    .with_context(|| format!("{table} has no column {name}"))?;
                if kind.time_column() == Some(n) {
                    milliseconds(&value)
                } else {
                    Ok(value)
                }
            })
            .collect::<Result<_>>()?;
        ensure!(
            columns.is_empty(),
            "{table} has other columns, too: {columns:?}"
        );
        rows.insert(crate::postgres::key(&row), row);
    }
    Ok(rows)
}

fn milliseconds(value: &Value) -> Result<Value> {
    let Some(text) = value.as_str() else {
        return Ok(value.clone());
    };
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.fZ")
        .with_context(|| format!("{text} is not a timestamp of Cassandra"))?;
    Ok(json!(time.and_utc().timestamp_millis()))
}

/// The number of rows in a table.
pub async fn count(keyspace: &str, table: &str) -> Result<u64> {
    let rows = connect()
        .await?
        .query_unpaged(format!("SELECT count(*) FROM {keyspace}.{table}"), &[])
        .await?;
    let (count,) = rows.into_rows_result()?.single_row::<(i64,)>()?;
    Ok(u64::try_from(count)?)
}

/// Drops a test's keyspace.
pub async fn drop_keyspace(keyspace: &str) -> Result<()> {
    connect()
        .await?
        .query_unpaged(format!("DROP KEYSPACE IF EXISTS {keyspace}"), &[])
        .await?;
    Ok(())
}
