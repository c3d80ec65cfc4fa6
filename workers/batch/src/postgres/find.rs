//! Looks up rows of a table of clean rows.

use anyhow::{Context as _, Result};
use pinpipe_config::BatchPostgres;

use super::{
    marker,
    reader::{Parameter, Reader},
    table::quoted,
};
use crate::sink::Lookup;

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
