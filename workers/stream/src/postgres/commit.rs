//! The commit of a group of batches, in one transaction.
//!
//! Lock the position rows in order and leave out the batches whose position is another; COPY the
//! others into a temporary table; INSERT … ON CONFLICT … WHERE later, or DO NOTHING where rows are
//! appended; move the positions from their expected values. Where the server refuses the rows of
//! several batches, each is tried by itself.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::SinkExt as _;
use pinpipe_config::WriteMode;
use pinpipe_core::Kind;
use tokio_postgres::{Client, CopyInSink, types::Type};

use super::{
    Postgres,
    connect::Connection,
    failure::{Failed, unsuitable},
    rows::{Rows, copy_data},
    sql::Sql,
};
use crate::{
    log::Position,
    protocol,
    sink::{Answer, Batch as _, Halt, Part, SinkError, Source, StoredPosition, Topic},
};

type Group<'a> = [&'a Part<'a, Rows>];

impl Postgres {
    /// Stores a group; answers for each of its batches, in their order.
    pub(super) async fn store(
        &self,
        connection: &Connection,
        topic: &Arc<Topic>,
        group: &[Part<'_, Rows>],
    ) -> Result<Vec<Answer>, SinkError> {
        let all: Vec<&Part<'_, Rows>> = group.iter().collect();
        match self.try_group(connection, topic, &all).await {
            Err(Failed::Rows(_)) if group.len() > 1 => {}
            stored => return answered(stored, group),
        }
        let mut answers = Vec::with_capacity(group.len());
        for part in group {
            let stored = self.try_group(connection, topic, &[part]).await;
            answers.extend(answered(stored, std::slice::from_ref(part))?);
        }
        Ok(answers)
    }

    async fn try_group(
        &self,
        connection: &Connection,
        topic: &Arc<Topic>,
        group: &Group<'_>,
    ) -> Result<Vec<Answer>, Failed> {
        let begin = Sql::begin(topic.kind);
        connection
            .transaction(&begin, async |client| {
                let positions = self.lock(client, topic, group).await?;
                let mut answers = Vec::with_capacity(group.len());
                let mut due = Vec::with_capacity(group.len());
                for part in group {
                    let answer = settled(topic, part, positions.get(&part.partition));
                    if answer.is_none() {
                        due.push(*part);
                    }
                    answers.push(answer.unwrap_or(Answer::Stored(part.to)));
                }
                self.write(client, topic, &due).await?;
                self.move_positions(client, topic, &due).await?;
                Ok(answers)
            })
            .await
    }

    async fn lock(
        &self,
        client: &Client,
        topic: &Topic,
        group: &Group<'_>,
    ) -> Result<BTreeMap<i32, StoredPosition>, Failed> {
        let partitions: Vec<i32> = group.iter().map(|part| part.partition).collect();
        let rows = client
            .query_typed(
                &self.sql.lock_positions(),
                &[
                    (&self.owner, Type::TEXT),
                    (&topic.name, Type::TEXT),
                    (&partitions, Type::INT4_ARRAY),
                ],
            )
            .await?;
        Ok(rows.iter().map(position).collect())
    }

    /// Writes the rows of all batches into the live table.
    async fn write(&self, client: &Client, topic: &Topic, due: &Group<'_>) -> Result<(), Failed> {
        let batches: Vec<&Rows> = due.iter().map(|part| part.batch).collect();
        let records: usize = batches.iter().map(|batch| batch.records()).sum();
        if records == 0 {
            return Ok(());
        }
        copy(client, topic.kind, &batches).await?;
        let insert = self.sql.insert(topic.kind);
        match self.sql.mode() {
            WriteMode::Upsert => {
                client.execute_typed(&insert, &[]).await?;
            }
            WriteMode::Append => {
                let added = client
                    .execute_typed(&insert, &[(&topic.name, Type::TEXT)])
                    .await?;
                if added < records as u64 {
                    self.check_repeats(client, topic).await?;
                }
            }
        }
        Ok(())
    }

    /// Checks the rows of an appended batch that exist already. They are expected when a partition
    /// is read again, but must not belong to an earlier topic of the same name.
    async fn check_repeats(&self, client: &Client, topic: &Topic) -> Result<(), Failed> {
        let kind = topic.kind;
        let row = client
            .query_typed_one(&self.sql.collides(kind), &[(&topic.name, Type::TEXT)])
            .await?;
        if !row.get::<_, bool>(0) {
            return Ok(());
        }
        let (table, name) = (self.sql.live(kind), topic.name.replace('\'', "''"));
        Err(Failed::Rows(Answer::Halt(Halt::TableUnsuitable(format!(
            "{table} holds records of an earlier topic {} at the same partitions and offsets: give \
             them another name, with UPDATE {table} SET _topic = '{name} (earlier)' WHERE _topic = \
             '{name}' AND _time < …, or rename the table",
            topic.name
        )))))
    }

    async fn move_positions(
        &self,
        client: &Client,
        topic: &Topic,
        due: &Group<'_>,
    ) -> Result<(), Failed> {
        if due.is_empty() {
            return Ok(());
        }
        let partitions: Vec<i32> = due.iter().map(|part| part.partition).collect();
        let offsets = |of: fn(&Part<'_, Rows>) -> Position| -> Vec<i64> {
            due.iter().map(|part| of(part).next_offset()).collect()
        };
        let (before, after) = (offsets(|part| part.from), offsets(|part| part.to));
        let moved = client
            .execute_typed(
                &self.sql.move_positions(),
                &[
                    (&self.owner, Type::TEXT),
                    (&topic.name, Type::TEXT),
                    (&partitions, Type::INT4_ARRAY),
                    (&before, Type::INT8_ARRAY),
                    (&after, Type::INT8_ARRAY),
                ],
            )
            .await?;
        if moved == due.len() as u64 {
            return Ok(());
        }
        Err(Failed::Sink(SinkError::Unavailable(anyhow::anyhow!(
            "{moved} of {} locked positions could be moved",
            due.len()
        ))))
    }
}

/// Copies the rows of batches into the staging table.
pub async fn copy(client: &Client, kind: Kind, batches: &[&Rows]) -> Result<(), Failed> {
    // COPY needs a statement by name; it is closed before the transaction ends.
    let statement = client.prepare(&Sql::copy(kind)).await?;
    let copy: CopyInSink<Bytes> = client.copy_in(&statement).await?;
    futures::pin_mut!(copy);
    for piece in copy_data(batches) {
        copy.feed(piece).await?;
    }
    copy.finish().await?;
    Ok(())
}

/// A row of [`Sql::lock_positions`] or [`Sql::read_positions`].
pub fn position(row: &tokio_postgres::Row) -> (i32, StoredPosition) {
    (
        row.get(0),
        StoredPosition {
            cluster_id: row.get(1),
            topic_id: row.get(2),
            next: Position::offset(row.get(3)),
            noted: false,
        },
    )
}

/// The answer for a batch that is not to be stored.
fn settled(
    topic: &Arc<Topic>,
    part: &Part<'_, Rows>,
    stored: Option<&StoredPosition>,
) -> Option<Answer> {
    let Some(stored) = stored else {
        return Some(Answer::Moved);
    };
    let source = Source {
        topic: topic.clone(),
        partition: part.partition,
    };
    match Halt::check_identity(&source, &stored.cluster_id, &stored.topic_id) {
        Err(halt) => Some(Answer::Halt(halt)),
        Ok(()) => protocol::settled(stored.next, part.from, part.to),
    }
}

/// The answers to a transaction whose failure is about all of its batches.
fn answered(
    stored: Result<Vec<Answer>, Failed>,
    group: &[Part<'_, Rows>],
) -> Result<Vec<Answer>, SinkError> {
    match stored {
        Ok(answers) => Ok(answers),
        // Without rows it isn't a record that the server refuses.
        Err(Failed::Rows(Answer::Refused(refusal)))
            if group.iter().all(|part| part.batch.records() == 0) =>
        {
            let halt = unsuitable(&refusal.sentence, &refusal.code);
            Ok(vec![Answer::Halt(halt); group.len()])
        }
        Err(Failed::Rows(answer)) => Ok(vec![answer; group.len()]),
        Err(Failed::Sink(SinkError::Halt(halt))) => Ok(vec![Answer::Halt(halt); group.len()]),
        Err(Failed::Sink(error)) => Err(error),
    }
}
