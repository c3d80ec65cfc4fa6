//! The marker in the schema: which pipeline owns it, and which run was loaded into it last.

use std::{collections::HashSet, time::SystemTime};

use anyhow::{Context as _, Result, ensure};
use pinpipe_config::BatchPostgres;
use tokio_postgres::{Client, Row, types::Type};
use tracing::info;

use super::{
    errors::failed,
    reader::Reader,
    table::{Table, quoted},
};
use crate::{
    failure::Permanent,
    sink::{Marker, SinkTable, is_marker_valid},
};

/// The marker's table, which has one row.
const TABLE: &str = "pinpipe_marker";
/// Held while tables are created: `CREATE SCHEMA IF NOT EXISTS` alone fails when two run at once.
const CREATE_LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('pinpipe-batch'))";

/// The marker's table, quoted.
pub fn path(config: &BatchPostgres) -> String {
    format!("{}.{TABLE}", quoted(&config.schema))
}

/// Claims the schema for a pipeline and creates those of `tables` that don't exist. The marker is
/// deleted if one is missing. The caller's transaction makes that one step.
pub async fn claim(
    client: &Client,
    config: &BatchPostgres,
    pipeline: &str,
    tables: &[SinkTable],
) -> Result<()> {
    client.batch_execute(CREATE_LOCK).await.map_err(failed)?;
    let existing = create_tables(client, config, tables)
        .await
        .with_context(|| format!("creating the tables in the schema {}", config.schema))?;
    let path = path(config);
    let insert =
        format!("INSERT INTO {path} (id, pipeline) VALUES (true, $1) ON CONFLICT (id) DO NOTHING");
    client
        .execute_typed(&insert, &[(&pipeline, Type::TEXT)])
        .await
        .map_err(failed)?;
    let select = format!("SELECT pipeline FROM {path}");
    let owner: String = client
        .query_typed_one(&select, &[])
        .await
        .map_err(failed)?
        .get(0);
    ensure!(
        owner == pipeline,
        Permanent(format!(
            "the schema {} belongs to the batch of the pipeline {owner}, and the two would delete \
             each other's rows: name another postgres.schema. If {owner} is gone for good, drop \
             the table {path}; this run then replaces all rows",
            config.schema
        ))
    );
    if !is_marker_valid(&existing, tables) {
        let void = format!("UPDATE {path} SET state = NULL, run_time = NULL");
        client.batch_execute(&void).await.map_err(failed)?;
    }
    Ok(())
}

/// Creates what is missing: where nothing is, a user without the right to create is enough. Returns
/// the names of the tables that there were.
async fn create_tables(
    client: &Client,
    config: &BatchPostgres,
    tables: &[SinkTable],
) -> Result<HashSet<String>> {
    let schema: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 1] =
        [(&config.schema, Type::TEXT)];
    let found = "SELECT FROM pg_namespace WHERE nspname = $1";
    let found = client.query_typed(found, &schema).await.map_err(failed)?;
    if found.is_empty() {
        let create = format!("CREATE SCHEMA {}", quoted(&config.schema));
        client.batch_execute(&create).await.map_err(failed)?;
        info!(schema = config.schema, "schema created");
    }
    let existing = "SELECT tablename::text FROM pg_tables WHERE schemaname = $1";
    let existing = client
        .query_typed(existing, &schema)
        .await
        .map_err(failed)?;
    let existing: HashSet<String> = existing.iter().map(|row| row.get(0)).collect();
    if !existing.contains(TABLE) {
        // The key lets it have one row only.
        let create = format!(
            "CREATE TABLE {} (id boolean PRIMARY KEY CHECK (id), pipeline text NOT NULL, \
             state text, run_time timestamp with time zone)",
            path(config)
        );
        client.batch_execute(&create).await.map_err(failed)?;
    }
    for table in tables {
        if !existing.contains(table.name) {
            let create = Table::new(&config.schema, table)?.create();
            client.batch_execute(&create).await.map_err(failed)?;
            info!(table = table.name, "table created");
        }
    }
    Ok(existing)
}

/// Locks the marker until the transaction ends, and reads it.
pub async fn lock(client: &Client, config: &BatchPostgres) -> Result<Option<Marker>> {
    let select = format!("{} FOR UPDATE", select(config));
    let row = client.query_typed_one(&select, &[]).await.map_err(failed)?;
    Ok(of(&row))
}

/// Reads the marker.
pub async fn read(reader: &Reader, config: &BatchPostgres) -> Result<Option<Marker>> {
    let rows = reader.rows(&select(config), &[]).await?;
    Ok(rows.first().and_then(of))
}

fn select(config: &BatchPostgres) -> String {
    format!("SELECT state, run_time FROM {}", path(config))
}

fn of(row: &Row) -> Option<Marker> {
    let (state, run_time): (Option<String>, Option<SystemTime>) = (row.get(0), row.get(1));
    state.zip(run_time).map(|(state_id, run_time)| Marker {
        state_id,
        run_time: run_time.into(),
    })
}

/// Replaces the marker.
pub async fn replace(client: &Client, config: &BatchPostgres, marker: &Marker) -> Result<()> {
    let update = format!("UPDATE {} SET state = $1, run_time = $2", path(config));
    let run_time = SystemTime::from(marker.run_time);
    client
        .execute_typed(
            &update,
            &[
                (&marker.state_id, Type::TEXT),
                (&run_time, Type::TIMESTAMPTZ),
            ],
        )
        .await
        .map_err(failed)?;
    Ok(())
}
