//! Live tables in PostgreSQL.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use crate::{Kind, cluster};

/// The clean columns of a row in the contract's order; timestamps are microseconds since the epoch.
pub type Row = Vec<Value>;

/// Connects to the server of the development stack, with UTC as the session's time zone.
pub async fn connect() -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(cluster::POSTGRES, NoTls)
        .await
        .context("PostgreSQL")?;
    tokio::spawn(connection);
    client.batch_execute("SET TIME ZONE 'UTC'").await?;
    Ok(client)
}

/// A live table by key.
pub async fn live_table(schema: &str, kind: Kind) -> Result<BTreeMap<String, Row>> {
    let rows = rows(schema, kind).await?;
    Ok(rows.into_iter().map(|(_, row)| (key(&row), row)).collect())
}

/// A live table of write mode `Append` by partition and offset.
pub async fn appended(schema: &str, kind: Kind) -> Result<BTreeMap<(i32, i64), Row>> {
    Ok(rows(schema, kind).await?.into_iter().collect())
}

/// The rows of a live table, each with the partition and offset of its record.
async fn rows(schema: &str, kind: Kind) -> Result<Vec<((i32, i64), Row)>> {
    let columns: Vec<String> = kind
        .columns()
        .iter()
        .map(|column| match *column {
            // As a number, independently of how PostgreSQL formats timestamps.
            "timestamp" | "date_joined" => {
                format!("(extract(epoch FROM \"{column}\") * 1000000)::bigint")
            }
            "downloaded" => "downloaded::int".to_owned(),
            column => format!("\"{column}\""),
        })
        .collect();
    let sql = format!(
        "SELECT json_build_array({})::text, _partition, _offset FROM {schema}.{}",
        columns.join(", "),
        kind.live_table()
    );
    let rows = connect().await?.query(&sql, &[]).await?;
    rows.iter()
        .map(|found| {
            let mut row: Row = serde_json::from_str(found.try_get(0)?)?;
            row.iter_mut().for_each(coordinates_as_floats);
            Ok(((found.try_get(1)?, found.try_get(2)?), row))
        })
        .collect()
}

/// PostgreSQL writes the float -158.0 as `-158` in JSON.
fn coordinates_as_floats(value: &mut Value) {
    for number in value.as_array_mut().into_iter().flatten() {
        *number = number.as_f64().into();
    }
}

/// The key of a row as text.
#[must_use]
pub fn key(row: &[Value]) -> String {
    match row.first() {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// The number of rows in a live table.
pub async fn count(schema: &str, kind: Kind) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM {schema}.{}", kind.live_table());
    Ok(connect().await?.query_one(&sql, &[]).await?.try_get(0)?)
}

/// The rows of a query, each as a JSON object.
pub async fn objects(sql: &str) -> Result<Vec<Value>> {
    let rows = connect()
        .await?
        .query(&format!("SELECT row_to_json(q)::text FROM ({sql}) q"), &[])
        .await?;
    rows.iter()
        .map(|row| Ok(serde_json::from_str(row.try_get(0)?)?))
        .collect()
}

/// Drops a test's schema.
pub async fn drop_schema(schema: &str) -> Result<()> {
    Ok(connect()
        .await?
        .batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE"))
        .await?)
}
