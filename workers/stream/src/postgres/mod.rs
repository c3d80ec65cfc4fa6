//! The PostgreSQL sink: live tables, and the positions in a table beside them.
//!
//! A batch is one transaction: lock the position's row and see that it is the expected one; COPY
//! into a temporary table; INSERT … ON CONFLICT … WHERE later, or DO NOTHING where rows are
//! appended; move the position. Whoever finds another position has been overtaken and rolls back.

mod connect;
pub mod rows;
mod sql;
mod table;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::anyhow;
use bytes::Bytes;
use futures::SinkExt;
use pinpipe_config::WriteMode;
use pinpipe_core::Kind;
use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{CopyInSink, Transaction, error::SqlState, types::ToSql};

use self::{connect::Connection, rows::Rows, sql::Sql};
use crate::{
    protocol,
    sink::{Batch, First, Halt, Limits, Position, Sink, SinkError, Source, Topic},
};

/// How long a record may wait for others before its batch is stored.
const ALLOWED_LATENCY: Duration = Duration::from_millis(500);
/// A batch's records, bytes: past some thousands, more records a transaction gain nothing and cost
/// memory.
const MAX_RECORDS: usize = 10_000;
const MAX_BYTES: usize = 8 << 20;
/// How long anything may take before the connection is given up.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Held until the transaction's end while tables are created: `CREATE … IF NOT EXISTS` alone fails
/// when two workers do it at once.
const CREATION_LOCK: &str = "SELECT pg_advisory_xact_lock(31641120444870757)";

/// The sink.
#[derive(Debug)]
pub struct Postgres {
    config: pinpipe_config::Postgres,
    /// Whose positions: the consumer group, which holds namespace, pipeline and sink.
    owner: String,
    sql: Sql,
    /// One connection per kind: batches of one kind meet in the same rows, of different kinds
    /// never.
    connections: [Mutex<Option<Connection>>; 3],
}

impl Postgres {
    /// A sink that connects when it is first needed.
    #[must_use]
    pub fn new(config: pinpipe_config::Postgres, owner: String) -> Self {
        let sql = Sql::new(&config.schema, config.write_mode);
        Self {
            config,
            owner,
            sql,
            connections: Default::default(),
        }
    }

    /// Runs `work` on the kind's connection. It goes back only when all went well: after an error,
    /// a time-out or a cancellation nobody knows what state it is in.
    async fn with<T>(
        &self,
        kind: Kind,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut slot = self.connections[kind as usize].lock().await;
        let all = async {
            let mut connection = match slot.take() {
                Some(connection) if !connection.client.is_closed() => connection,
                _ => self.connect(kind).await?,
            };
            let done = work(&mut connection).await;
            if done.is_ok() {
                *slot = Some(connection);
            }
            done
        };
        timeout(TIMEOUT, all)
            .await
            .unwrap_or_else(|_| Err(anyhow!("PostgreSQL did not answer within {TIMEOUT:?}").into()))
    }

    async fn store(
        &self,
        connection: &mut Connection,
        source: &Source,
        rows: &Rows,
        from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        let topic = &source.topic;
        let transaction = connection.client.transaction().await.map_err(failed)?;
        let row = transaction
            .query_opt(
                &connection.lock,
                &[&self.owner, &topic.name, &source.partition],
            )
            .await
            .map_err(failed)?;
        let Some(row) = row else {
            return Err(SinkError::Moved);
        };
        Halt::unless_same(source, row.get(0), row.get(1))?;
        if !protocol::is_due(row.get(2), from, to)? {
            return Ok(to);
        }
        if rows.records() > 0 {
            let copy: CopyInSink<Bytes> = transaction
                .copy_in(&connection.copy)
                .await
                .map_err(failed)?;
            futures::pin_mut!(copy);
            copy.send(rows.copy_data()).await.map_err(failed)?;
            copy.finish().await.map_err(failed)?;
            match self.sql.mode() {
                WriteMode::Upsert => {
                    transaction
                        .execute(&connection.insert, &[])
                        .await
                        .map_err(failed)?;
                }
                WriteMode::Append => {
                    let added = transaction
                        .execute(&connection.insert, &[&topic.name])
                        .await
                        .map_err(failed)?;
                    if added < rows.records() as u64 {
                        self.check_repeats(&transaction, topic).await?;
                    }
                }
            }
        }
        transaction
            .execute(
                &connection.move_position,
                &[&self.owner, &topic.name, &source.partition, &to],
            )
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(to)
    }

    /// Some rows of an appended batch are there already: that is as it should be when their
    /// partition is read again, but not when they are of another topic, whose offsets were the
    /// same.
    async fn check_repeats(
        &self,
        transaction: &Transaction<'_>,
        topic: &Topic,
    ) -> Result<(), SinkError> {
        let kind = topic.kind;
        let row = transaction
            .query_one(&self.sql.collides(kind), &[&topic.name])
            .await
            .map_err(failed)?;
        if !row.get::<_, bool>(0) {
            return Ok(());
        }
        let (table, name) = (self.sql.live(kind), topic.name.replace('\'', "''"));
        Err(Halt::TableUnsuitable(format!(
            "{table} holds records of an earlier topic {} at the same partitions and offsets: give them another name, with UPDATE \
             {table} SET _topic = '{name} (earlier)' WHERE _topic = '{name}' AND _time < …, or rename the table",
            topic.name
        ))
        .into())
    }

    async fn was_reset(
        &self,
        connection: &Connection,
        topic: &Topic,
        id: &str,
    ) -> Result<bool, SinkError> {
        if !connection.has_table(&self.sql.resets()).await? {
            return Ok(false);
        }
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.owner, &topic.name, &id];
        let row = connection
            .client
            .query_one(&self.sql.was_reset(), &parameters)
            .await
            .map_err(failed)?;
        Ok(row.get(0))
    }

    async fn reset_positions(
        &self,
        connection: &mut Connection,
        topic: &Topic,
        id: &str,
        to: &BTreeMap<i32, i64>,
    ) -> Result<(), SinkError> {
        let made = connection.has_table(&self.sql.resets()).await?;
        let transaction = connection.client.transaction().await.map_err(failed)?;
        if !made {
            transaction
                .execute(CREATION_LOCK, &[])
                .await
                .map_err(failed)?;
            let statement = self.sql.create_resets();
            transaction.batch_execute(&statement).await.map_err(|error| match error.code() {
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Halt::ResetImpossible(format!(
                    "the URL's user may not make the table in which resets are noted. Let the schema's owner run: {statement}, and grant \
                     SELECT and INSERT on it"
                ))
                .into(),
                _ => failed(error),
            })?;
        }
        let noted = transaction
            .execute(&self.sql.note_reset(), &[&self.owner, &topic.name, &id])
            .await
            .map_err(failed)?;
        // Another worker came first.
        if noted == 0 {
            return Ok(());
        }
        for (partition, next) in to {
            let place: [&(dyn ToSql + Sync); 3] = [&self.owner, &topic.name, partition];
            let old = transaction
                .query_opt(&self.sql.lock_position(), &place)
                .await
                .map_err(failed)?;
            let from: Option<i64> = old.map(|row| row.get(2));
            tracing::warn!(
                topic = topic.name,
                partition,
                ?from,
                to = next,
                reset = id,
                "position reset"
            );
            let position: [&(dyn ToSql + Sync); 6] = [
                &self.owner,
                &topic.name,
                partition,
                &topic.cluster_id,
                &topic.id,
                next,
            ];
            transaction
                .execute(&self.sql.reset_position(), &position)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }
}

impl Sink for Postgres {
    type Batch = Rows;

    fn limits(&self) -> Limits {
        Limits {
            records: MAX_RECORDS,
            bytes: MAX_BYTES,
            age: ALLOWED_LATENCY,
        }
    }

    fn first(&self) -> First {
        First::Remembered(self.config.start_from)
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.with(Kind::Pin, async |_| Ok(())).await
    }

    fn batch(&self, source: &Source) -> Rows {
        Rows::new(source.topic.kind, self.config.write_mode)
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        _: &[i32],
    ) -> Result<BTreeMap<i32, Position>, SinkError> {
        self.with(topic.kind, async |connection| {
            let statement = self.sql.read_positions();
            let rows = connection
                .client
                .query(&statement, &[&self.owner, &topic.name])
                .await
                .map_err(failed)?;
            let position = |row: &tokio_postgres::Row| {
                (
                    row.get(0),
                    Position {
                        cluster_id: row.get(1),
                        topic_id: row.get(2),
                        next: row.get(3),
                    },
                )
            };
            Ok(rows.iter().map(position).collect())
        })
        .await
    }

    async fn remember(
        &self,
        topic: &Arc<Topic>,
        seen: &BTreeMap<i32, Position>,
        first: &BTreeMap<i32, i64>,
    ) -> Result<(), SinkError> {
        self.with(topic.kind, async |connection| {
            let transaction = connection.client.transaction().await.map_err(failed)?;
            // One after the other: of two workers that look at the log at once, the first one's
            // look counts.
            transaction
                .execute(CREATION_LOCK, &[])
                .await
                .map_err(failed)?;
            let stored = transaction
                .query(&self.sql.read_positions(), &[&self.owner, &topic.name])
                .await
                .map_err(failed)?;
            if stored.len() != seen.len() {
                return Ok(());
            }
            for (partition, next) in first {
                transaction
                    .execute(
                        &self.sql.remember(),
                        &[
                            &self.owner,
                            &topic.name,
                            partition,
                            &topic.cluster_id,
                            &topic.id,
                            next,
                        ],
                    )
                    .await
                    .map_err(failed)?;
            }
            transaction.commit().await.map_err(failed)
        })
        .await
    }

    async fn reset_pending(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        partitions: &[i32],
    ) -> Result<Vec<i32>, SinkError> {
        self.with(topic.kind, async |connection| {
            let done = self.was_reset(connection, topic, id).await?;
            Ok(if done {
                Vec::new()
            } else {
                partitions.to_vec()
            })
        })
        .await
    }

    async fn reset(
        &self,
        topic: &Arc<Topic>,
        id: &str,
        to: &BTreeMap<i32, i64>,
    ) -> Result<(), SinkError> {
        self.with(topic.kind, async |connection| {
            self.reset_positions(connection, topic, id, to).await
        })
        .await
    }

    async fn commit(
        &self,
        source: &Source,
        rows: &Rows,
        from: i64,
        to: i64,
    ) -> Result<i64, SinkError> {
        self.with(rows.kind(), async |connection| {
            self.store(connection, source, rows, from, to).await
        })
        .await
    }
}

/// A statement's failure, with what the server says about it.
fn failed(error: tokio_postgres::Error) -> SinkError {
    SinkError::Away(match error.as_db_error() {
        Some(said) => anyhow!("PostgreSQL: {} ({})", said.message(), said.code().code()),
        None => anyhow::Error::new(error).context("PostgreSQL"),
    })
}
