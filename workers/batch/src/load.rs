//! Loading a run's rows and answers into the sinks.

use std::collections::BTreeMap;

use anyhow::Result;
use arrow::datatypes::Schema;
use chrono::{DateTime, Utc};
use pinpipe_config::BatchSink;
use pinpipe_core::{Kind, columns::key};
use tracing::info;

use crate::{answers::Answer, cassandra::CassandraSink, columns, scratch::Stream, table::Table};

/// Name of the table with a kind's clean rows.
const fn clean_table(kind: Kind) -> &'static str {
    match kind {
        Kind::Pin => "pinterest_batch",
        Kind::Geo => "geo_batch",
        Kind::User => "user_batch",
    }
}

/// Writes the changed clean rows and all answers to one sink.
pub async fn load(
    sink: &BatchSink,
    run_time: DateTime<Utc>,
    changed: &BTreeMap<Kind, Vec<Stream>>,
    answers: &[Answer],
) -> Result<()> {
    let cassandra = CassandraSink::connect(&sink.cassandra).await?;
    let table = |name: &str, schema: &Schema, key: &[&str]| {
        Table::new(cassandra.keyspace(), name, schema, key)
    };
    let mut clean = Vec::new();
    for kind in Kind::ALL {
        clean.push((
            kind,
            table(clean_table(kind), &columns::schema(kind), &[key(kind)])?,
        ));
    }
    let mut answered = Vec::new();
    for Answer { question, rows } in answers {
        answered.push((table(question.name, &rows.schema(), question.key)?, rows));
    }
    let all: Vec<&Table> = clean
        .iter()
        .map(|(_, table)| table)
        .chain(answered.iter().map(|(table, _)| table))
        .collect();
    cassandra.create_tables(&all).await?;
    for (kind, table) in clean {
        let streams = changed.get(&kind).map_or(&[][..], Vec::as_slice);
        let total = streams.iter().map(|stream| stream.rows).sum();
        let batches = streams.iter().flat_map(Stream::batches);
        let rows = cassandra.write(&table, total, batches, run_time).await?;
        info!(sink = sink.name, table = table.name, rows, "table written");
    }
    for (table, rows) in answered {
        let total = rows.num_rows() as u64;
        let written = cassandra
            .write(&table, total, std::iter::once(Ok(rows.clone())), run_time)
            .await?;
        let deleted = cassandra.delete_stale(&table, run_time).await?;
        info!(
            sink = sink.name,
            table = table.name,
            rows = written,
            deleted,
            "answer written"
        );
    }
    Ok(())
}
