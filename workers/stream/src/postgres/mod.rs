//! The PostgreSQL sink: live tables, and the positions in a table beside them.
//!
//! A group of batches is one transaction with the positions behind them ([`commit`]). A worker that
//! finds another position stores nothing for that partition: another one has committed meanwhile.

mod commit;
mod connect;
mod encode;
mod failure;
mod replay;
mod reset;
pub mod rows;
pub mod sql;
mod table;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::anyhow;
use pinpipe_core::Kind;
use pinpipe_runtime::postgres::Settings;
use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{Client, types::Type};

pub use self::replay::Replayed;
use self::{
    commit::position,
    connect::{CREATE_LOCK, Connection, Parameter},
    failure::{Failed, failed},
    rows::Rows,
    sql::{BEGIN, Sql},
};
use crate::{
    log::Position,
    sink::{
        Answer, Grouping, InitialPosition, Limits, Part, Sink, SinkError, Source, StoredPosition,
        Topic,
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
/// The sink.
#[derive(Debug)]
pub struct Postgres {
    config: pinpipe_config::Postgres,
    /// The consumer group, whose name contains namespace, pipeline and sink. Positions are stored
    /// under it.
    owner: String,
    sql: Sql,
    /// What was last read of the Secrets and could be used.
    settings: std::sync::Mutex<Option<Settings>>,
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
            settings: std::sync::Mutex::default(),
            connections: Default::default(),
        }
    }

    /// Runs `work` on the kind's connection. The connection is kept only after success: after an
    /// error, a timeout or a cancellation its state is unknown.
    async fn with<T>(
        &self,
        kind: Kind,
        work: impl AsyncFnOnce(&Connection) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut slot = self.connections[kind as usize].lock().await;
        let call = async {
            let connection = match slot.take() {
                Some(connection) if !connection.client.is_closed() => connection,
                _ => self.connect(kind).await?,
            };
            match work(&connection).await {
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
            let server = self.settings()?.server;
            Err(anyhow!("{server} did not answer within {TIMEOUT:?}").into())
        })
    }

    async fn read_positions(
        &self,
        client: &Client,
        topic: &Topic,
    ) -> Result<BTreeMap<i32, StoredPosition>, tokio_postgres::Error> {
        let parameters: [Parameter<'_>; 2] = [(&self.owner, Type::TEXT), (&topic.name, Type::TEXT)];
        let rows = client
            .query_typed(&self.sql.read_positions(), &parameters)
            .await?;
        Ok(rows.iter().map(position).collect())
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

    async fn renew(&self) -> anyhow::Result<()> {
        self.read()?;
        for connection in &self.connections {
            *connection.lock().await = None;
        }
        Ok(())
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
            self.read_positions(&connection.client, topic)
                .await
                .map_err(failed)
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
            let stored = connection.transaction(BEGIN, async |client| {
                // Workers take turns: only the first stores the initial positions it computed.
                client.batch_execute(CREATE_LOCK).await?;
                if self.read_positions(client, topic).await?.len() != known.len() {
                    return Ok(());
                }
                for (partition, next) in initial {
                    let next = next.next_offset();
                    client
                        .execute_typed(
                            &self.sql.insert_position(),
                            &self.position_parameters(topic, partition, &next),
                        )
                        .await?;
                }
                Ok(())
            });
            stored.await.map_err(Failed::into_error)
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
        let answers = self.with(topic.kind, async |connection| {
            self.store(connection, topic, group).await
        });
        let answers = answers.await?;
        if answers
            .iter()
            .any(|answer| matches!(answer, Answer::Halt(_)))
        {
            // The next connection checks the table, which somebody corrects meanwhile.
            *self.connections[topic.kind as usize].lock().await = None;
        }
        Ok(answers)
    }
}
