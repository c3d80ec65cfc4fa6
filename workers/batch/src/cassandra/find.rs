//! Reads what a keyspace has, and changes nothing.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::{Context as _, Result};
use pinpipe_config::Cassandra;

use super::{CassandraSink, connect, marker, table::quoted};
use crate::{cells::Cell, sink::Lookup};

impl CassandraSink {
    /// Connects, once. Creates nothing.
    async fn open_to_read(config: &Cassandra) -> Result<Self> {
        Ok(Self {
            session: Arc::new(connect(config).await?),
            keyspace: config.keyspace.clone(),
            unavailable: Arc::new(AtomicBool::new(false)),
        })
    }
}

/// The rows of a table of clean rows whose column `key` has one of `keys`, and the keyspace's
/// marker.
pub async fn find(config: &Cassandra, table: &str, key: &str, keys: &[Cell<'_>]) -> Result<Lookup> {
    let sink = CassandraSink::open_to_read(config).await?;
    let (existing, mut lookup) = (sink.existing_tables().await?, Lookup::default());
    if existing.contains(marker::TABLE) {
        lookup.marker = sink.read_marker().await?.and_then(|(_, marker)| marker);
    }
    if !existing.contains(table) {
        return Ok(lookup);
    }
    lookup.has_table = true;
    let path = format!("{}.{}", quoted(&config.keyspace), quoted(table));
    let select = format!("SELECT JSON * FROM {path} WHERE {} = ?", quoted(key));
    let statement = sink.prepare_statement(&select).await?;
    for key in keys {
        let found = sink.execute(&statement, &(key,)).await;
        let found = found.with_context(|| format!("reading {path}"))?;
        let rows = found.into_rows_result()?;
        for row in rows.rows::<(String,)>()? {
            lookup.rows.push(row?.0);
        }
    }
    Ok(lookup)
}
