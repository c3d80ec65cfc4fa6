//! The answers to the eight questions: SQL queries over the joined rows on disk. Memory is bounded;
//! what doesn't fit is spilled to the scratch folder.

use std::{num::NonZeroUsize, path::Path, sync::Arc, thread};

use anyhow::{Context, Result};
use arrow::{
    array::RecordBatch,
    compute::{cast, concat_batches},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::prelude::SessionContext;
use pinpipe_core::{
    Kind,
    questions::{ColumnType, QUESTIONS, Question},
};

use crate::{
    join::{JoinedRows, input_schema, joined_schema},
    merge::BATCH_ROWS,
    query::{self, table},
};

/// Least memory of each concurrent partition of a query: with less, some operators fail instead of
/// spilling.
const PARTITION_BYTES: usize = 48 << 20;

/// A question and the rows of its answer, ordered by key.
#[derive(Debug)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// The rows.
    pub rows: RecordBatch,
}

/// Answers all questions. Queries use up to `budget` bytes of memory and spill the rest to files in
/// `folder`.
pub async fn answer_all(rows: &JoinedRows, folder: &Path, budget: usize) -> Result<Vec<Answer>> {
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let partitions = (budget / PARTITION_BYTES).clamp(1, cpus);
    let session = query::session(folder, budget, partitions, BATCH_ROWS)?;
    session.register_table("facts", table(joined_schema(), vec![rows.joined.clone()])?)?;
    session.register_table(
        Kind::User.as_str(),
        table(input_schema(Kind::User), rows.users.clone())?,
    )?;
    let mut answers = Vec::with_capacity(QUESTIONS.len());
    for question in QUESTIONS {
        let rows = answer(&session, &question)
            .await
            .with_context(|| format!("answering the question {}", question.name))?;
        tracing::info!(
            question = question.name,
            rows = rows.num_rows(),
            "question answered"
        );
        answers.push(Answer { question, rows });
    }
    Ok(answers)
}

async fn answer(session: &SessionContext, question: &Question) -> Result<RecordBatch> {
    let frame = session.sql(question.sql).await?;
    let found: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
    let rows = concat_batches(&found, &frame.collect().await?)?;
    let schema = schema(question);
    let columns = schema.fields().iter().map(|field| {
        let column = rows
            .column_by_name(field.name())
            .with_context(|| format!("the query returns no column {}", field.name()))?;
        Ok(cast(column, field.data_type())?)
    });
    Ok(RecordBatch::try_new(
        Arc::clone(&schema),
        columns.collect::<Result<_>>()?,
    )?)
}

/// The columns of a question's answer.
fn schema(question: &Question) -> SchemaRef {
    let field = |column: &pinpipe_core::questions::Column| {
        let data_type = match column.ty {
            ColumnType::Text => DataType::Utf8,
            ColumnType::BigInt => DataType::Int64,
            ColumnType::Double => DataType::Float64,
            ColumnType::Int => DataType::Int32,
        };
        Field::new(column.name, data_type, false)
    };
    Arc::new(Schema::new(
        question.columns.iter().map(field).collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod sql_tests;
#[cfg(test)]
mod tests;
