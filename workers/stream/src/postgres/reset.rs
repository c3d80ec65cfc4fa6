//! Resets of the PostgreSQL sink: the positions and the record of the reset in one transaction.

use std::collections::BTreeMap;

use tokio_postgres::{Client, error::SqlState, types::Type};

use super::{
    Postgres,
    connect::{CREATE_LOCK, Connection, Parameter},
    failure::{Failed, failed},
    sql::BEGIN,
};
use crate::{
    log::Position,
    sink::{Halt, SinkError, Topic},
};

impl Postgres {
    pub(super) async fn was_reset(
        &self,
        connection: &Connection,
        topic: &Topic,
        id: &str,
    ) -> Result<bool, SinkError> {
        if !connection.has_table(&self.sql.resets()).await? {
            return Ok(false);
        }
        let parameters: [Parameter<'_>; 3] = [
            (&self.owner, Type::TEXT),
            (&topic.name, Type::TEXT),
            (&id, Type::TEXT),
        ];
        let row = connection
            .client
            .query_typed_one(&self.sql.was_reset(), &parameters)
            .await
            .map_err(failed)?;
        Ok(row.get(0))
    }

    pub(super) async fn reset_positions(
        &self,
        connection: &Connection,
        topic: &Topic,
        id: &str,
        to: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        let exists = connection.has_table(&self.sql.resets()).await?;
        let reset = connection.transaction(BEGIN, async |client| {
            if !exists {
                self.create_resets(client).await?;
            }
            let noted = client
                .execute_typed(
                    &self.sql.note_reset(),
                    &[
                        (&self.owner, Type::TEXT),
                        (&topic.name, Type::TEXT),
                        (&id, Type::TEXT),
                    ],
                )
                .await?;
            // Another worker came first.
            if noted > 0 {
                self.set_positions(client, topic, id, to).await?;
            }
            Ok(())
        });
        reset.await.map_err(Failed::into_error)
    }

    async fn create_resets(&self, client: &Client) -> Result<(), Failed> {
        client.batch_execute(CREATE_LOCK).await?;
        let statement = self.sql.create_resets();
        client
            .batch_execute(&statement)
            .await
            .map_err(|error| match error.code() {
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                    Failed::Sink(SinkError::Halt(Halt::ResetImpossible(format!(
                        "the URL's user may not create the table of resets. Let the schema's owner \
                         run: {statement}, and grant SELECT and INSERT on it"
                    ))))
                }
                _ => error.into(),
            })
    }

    async fn set_positions(
        &self,
        client: &Client,
        topic: &Topic,
        id: &str,
        to: &BTreeMap<i32, Position>,
    ) -> Result<(), Failed> {
        let partitions: Vec<i32> = to.keys().copied().collect();
        let locked = client
            .query_typed(
                &self.sql.lock_positions(),
                &[
                    (&self.owner, Type::TEXT),
                    (&topic.name, Type::TEXT),
                    (&partitions, Type::INT4_ARRAY),
                ],
            )
            .await?;
        let before: BTreeMap<i32, i64> =
            locked.iter().map(|row| (row.get(0), row.get(3))).collect();
        for (partition, next) in to {
            tracing::warn!(
                topic = topic.name,
                partition,
                from = ?before.get(partition),
                to = %next,
                reset = id,
                "position reset"
            );
            let next = next.next_offset();
            client
                .execute_typed(
                    &self.sql.reset_position(),
                    &self.position_parameters(topic, partition, &next),
                )
                .await?;
        }
        Ok(())
    }

    /// The parameters of statements that store one position.
    pub(super) fn position_parameters<'a>(
        &'a self,
        topic: &'a Topic,
        partition: &'a i32,
        next: &'a i64,
    ) -> [Parameter<'a>; 6] {
        [
            (&self.owner, Type::TEXT),
            (&topic.name, Type::TEXT),
            (partition, Type::INT4),
            (&topic.cluster_id, Type::TEXT),
            (&topic.id, Type::TEXT),
            (next, Type::INT8),
        ]
    }
}
