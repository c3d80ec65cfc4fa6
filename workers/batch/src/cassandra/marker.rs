//! The marker in the keyspace: which pipeline owns it, and which run was loaded into it last.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use chrono::DateTime;

use super::CassandraSink;
use crate::{cassandra::table::quoted, failure::Permanent, sink::Marker};

/// The marker's table, which has one row.
pub const TABLE: &str = "pinpipe_marker";
/// The key of the row.
const ID: &str = "batch";

impl CassandraSink {
    fn marker_path(&self) -> String {
        format!("{}.{}", quoted(&self.keyspace), quoted(TABLE))
    }

    /// Creates the marker's table.
    fn create_marker(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (id text PRIMARY KEY, pipeline text, state text, \
             run_micros bigint)",
            self.marker_path()
        )
    }

    /// Claims the keyspace, whose tables are `existing`, for a pipeline. Returns the marker of the
    /// last run.
    pub(super) async fn claim_keyspace(
        &self,
        existing: &HashSet<String>,
        pipeline: &str,
    ) -> Result<Option<Marker>> {
        if !existing.contains(TABLE) {
            self.create_table(TABLE, &self.create_marker()).await?;
        }
        if self.read_marker().await?.is_none() {
            // A light-weight transaction: of two pipelines that begin at once, one gets it.
            let path = self.marker_path();
            let claim = self
                .prepare_statement(&format!(
                    "INSERT INTO {path} (id, pipeline) VALUES (?, ?) IF NOT EXISTS"
                ))
                .await?;
            self.execute(&claim, &(ID, pipeline))
                .await
                .with_context(|| format!("can't claim the keyspace {}", self.keyspace))?;
        }
        let (owner, marker) = self
            .read_marker()
            .await?
            .with_context(|| format!("the row of {} was deleted meanwhile", self.marker_path()))?;
        ensure!(
            owner == pipeline,
            Permanent(format!(
                "the keyspace {} belongs to the batch of the pipeline {owner}, and the two would \
                 delete each other's rows: add a sink with another name and keyspace, and remove \
                 this one. If {owner} is gone for good, drop the table {}; this run then replaces \
                 all rows",
                self.keyspace,
                self.marker_path()
            ))
        );
        Ok(marker)
    }

    pub(super) async fn read_marker(&self) -> Result<Option<(String, Option<Marker>)>> {
        let select = format!(
            "SELECT pipeline, state, run_micros FROM {} WHERE id = ?",
            self.marker_path()
        );
        let statement = self.prepare_statement(&select).await?;
        let found = self.execute(&statement, &(ID,)).await?.into_rows_result()?;
        let row = found.maybe_first_row::<(Option<String>, Option<String>, Option<i64>)>()?;
        let Some((Some(pipeline), state, micros)) = row else {
            return Ok(None);
        };
        let marker = state.zip(micros).and_then(|(state_id, micros)| {
            Some(Marker {
                state_id,
                run_time: DateTime::from_timestamp_micros(micros)?,
            })
        });
        Ok(Some((pipeline, marker)))
    }

    /// Deletes the marker, with its own timestamp: of equal ones the deletion wins, and the marker
    /// of any later run is newer.
    pub(super) async fn delete_marker(&self, marker: &Marker) -> Result<()> {
        let mut delete = self
            .prepare_statement(&format!(
                "DELETE state, run_micros FROM {} WHERE id = ?",
                self.marker_path()
            ))
            .await?;
        delete.set_timestamp(Some(marker.run_time.timestamp_micros()));
        self.execute(&delete, &(ID,))
            .await
            .context("can't delete the marker of an earlier run")?;
        Ok(())
    }

    /// Replaces the marker, with the run's time as its timestamp like all that the run writes.
    pub(super) async fn write_marker(&self, marker: &Marker) -> Result<()> {
        let micros = marker.run_time.timestamp_micros();
        let mut update = self
            .prepare_statement(&format!(
                "UPDATE {} SET state = ?, run_micros = ? WHERE id = ?",
                self.marker_path()
            ))
            .await?;
        update.set_timestamp(Some(micros));
        self.execute(&update, &(&marker.state_id, micros, ID))
            .await
            .context("can't write the marker of this run")?;
        Ok(())
    }
}
