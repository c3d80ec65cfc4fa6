//! The PostgreSQL sink: live tables, and the positions in a table beside them.
//!
//! A batch is one transaction: lock the position's row and compare it with the expected position;
//! COPY into a temporary table; INSERT … ON CONFLICT … WHERE later, or DO NOTHING where rows are
//! appended; move the position. A worker that finds another position rolls back: another worker has
//! committed meanwhile.

mod connect;
pub mod rows;
mod server;
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
    log::Position,
    protocol,
    sink::{
        Answer, Batch, Grouping, Halt, InitialPosition, Limits, Part, Sink, SinkError, Source,
        StoredPosition, Topic,
    },
};

/// How long a record may wait for others before its batch is stored.
const ALLOWED_LATENCY: Duration = Duration::from_millis(500);
/// The most records in a batch: more than some thousand in a transaction cost memory and gain
/// nothing.
const MAX_RECORDS: usize = 10_000;
/// The size of a batch, bytes.
const MAX_BYTES: usize = 8 << 20;
/// How long one call may take before its connection is dropped.
const TIMEOUT: Duration = Duration::from_mins(1);
/// A lock held while tables are created, until the transaction ends: `CREATE … IF NOT EXISTS` alone
/// fails when two workers run it at once.
const CREATE_LOCK: &str = "SELECT pg_advisory_xact_lock(31641120444870757)";

/// The sink.
#[derive(Debug)]
pub struct Postgres {
    config: pinpipe_config::Postgres,
    /// The consumer group, whose name contains namespace, pipeline and sink. Positions are stored
    /// under it.
    owner: String,
    sql: Sql,
    /// One connection per kind: only batches of the same kind write to the same rows.
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

    /// Runs `work` on the kind's connection. The connection is kept only after success: after an
    /// error, a timeout or a cancellation its state is unknown.
    async fn with<T>(
        &self,
        kind: Kind,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut slot = self.connections[kind as usize].lock().await;
        let call = async {
            let mut connection = match slot.take() {
                Some(connection) if !connection.client.is_closed() => connection,
                _ => self.connect(kind).await?,
            };
            match work(&mut connection).await {
                Ok(done) => {
                    *slot = Some(connection);
                    Ok(done)
                }
                Err(SinkError::Unavailable(error)) => {
                    Err(error.context(connection.server.to_string()).into())
                }
                Err(error) => Err(error),
            }
        };
        timeout(TIMEOUT, call).await.unwrap_or_else(|_| {
            let (_, server) = server::read(&self.config)?;
            Err(anyhow!("{server} did not answer within {TIMEOUT:?}").into())
        })
    }

    async fn store(
        &self,
        connection: &mut Connection,
        source: &Source,
        rows: &Rows,
        from: Position,
        to: Position,
    ) -> Result<Answer, SinkError> {
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
            return Ok(Answer::Moved);
        };
        Halt::check_identity(source, row.get(0), row.get(1))?;
        if let Some(answer) = protocol::settled(Position::offset(row.get(2)), from, to) {
            return Ok(answer);
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
                &[
                    &self.owner,
                    &topic.name,
                    &source.partition,
                    &to.next_offset(),
                ],
            )
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Answer::Stored(to))
    }

    /// Checks the rows of an appended batch that exist already. They are expected when a partition
    /// is read again, but must not belong to an earlier topic of the same name.
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
            "{table} holds records of an earlier topic {} at the same partitions and offsets: give \
             them another name, with UPDATE {table} SET _topic = '{name} (earlier)' WHERE _topic = \
             '{name}' AND _time < …, or rename the table",
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
        to: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        let exists = connection.has_table(&self.sql.resets()).await?;
        let transaction = connection.client.transaction().await.map_err(failed)?;
        if !exists {
            transaction
                .execute(CREATE_LOCK, &[])
                .await
                .map_err(failed)?;
            let statement = self.sql.create_resets();
            let created = transaction.batch_execute(&statement).await;
            created.map_err(|error| match error.code() {
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                    Halt::ResetImpossible(format!(
                        "the URL's user may not create the table of resets. Let the schema's owner \
                         run: {statement}, and grant SELECT and INSERT on it"
                    ))
                    .into()
                }
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
            let key: [&(dyn ToSql + Sync); 3] = [&self.owner, &topic.name, partition];
            let old = transaction
                .query_opt(&self.sql.lock_position(), &key)
                .await
                .map_err(failed)?;
            let from: Option<i64> = old.map(|row| row.get(2));
            tracing::warn!(
                topic = topic.name,
                partition,
                ?from,
                to = %next,
                reset = id,
                "position reset"
            );
            let position: [&(dyn ToSql + Sync); 6] = [
                &self.owner,
                &topic.name,
                partition,
                &topic.cluster_id,
                &topic.id,
                &next.next_offset(),
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
            grouping: Grouping::Topic,
        }
    }

    fn initial_position(&self) -> InitialPosition {
        InitialPosition::Stored(self.config.start_from)
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
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
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
                    StoredPosition {
                        cluster_id: row.get(1),
                        topic_id: row.get(2),
                        next: Position::offset(row.get(3)),
                    },
                )
            };
            Ok(rows.iter().map(position).collect())
        })
        .await
    }

    async fn store_initial_positions(
        &self,
        topic: &Arc<Topic>,
        known: &BTreeMap<i32, StoredPosition>,
        initial: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        self.with(topic.kind, async |connection| {
            let transaction = connection.client.transaction().await.map_err(failed)?;
            // Workers take turns: only the first stores the initial positions it computed.
            transaction
                .execute(CREATE_LOCK, &[])
                .await
                .map_err(failed)?;
            let stored = transaction
                .query(&self.sql.read_positions(), &[&self.owner, &topic.name])
                .await
                .map_err(failed)?;
            if stored.len() != known.len() {
                return Ok(());
            }
            for (partition, next) in initial {
                transaction
                    .execute(
                        &self.sql.insert_position(),
                        &[
                            &self.owner,
                            &topic.name,
                            partition,
                            &topic.cluster_id,
                            &topic.id,
                            &next.next_offset(),
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
        to: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        self.with(topic.kind, async |connection| {
            self.reset_positions(connection, topic, id, to).await
        })
        .await
    }

    async fn commit(
        &self,
        topic: &Arc<Topic>,
        group: &[Part<'_, Rows>],
    ) -> Result<Vec<Answer>, SinkError> {
        let mut answers = Vec::with_capacity(group.len());
        for part in group {
            let source = Source {
                topic: topic.clone(),
                partition: part.partition,
            };
            let stored = self
                .with(topic.kind, async |connection| {
                    self.store(connection, &source, part.batch, part.from, part.to)
                        .await
                })
                .await;
            answers.push(match stored {
                Err(SinkError::Halt(halt)) => Answer::Halt(halt),
                stored => stored?,
            });
        }
        Ok(answers)
    }
}

/// A statement's failure, with the server's own sentence. The caller adds the server.
fn failed(error: tokio_postgres::Error) -> SinkError {
    SinkError::Unavailable(match error.as_db_error() {
        Some(answer) => anyhow!(server::sentence(answer)),
        None => error.into(),
    })
}
