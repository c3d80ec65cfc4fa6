//! The eight questions, asked of the clean tables in memory.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use arrow::{
    array::RecordBatch,
    compute::{cast, concat_batches},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{datasource::MemTable, prelude::SessionContext};
use pinpipe_core::{
    Kind,
    questions::{ColumnType, QUESTIONS, Question},
};

use crate::columns;

/// A question and its answer's rows, in the order of their key.
#[derive(Debug)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// The rows.
    pub rows: RecordBatch,
}

/// Asks all questions. `tables` holds the latest row of each key.
pub async fn ask(tables: &BTreeMap<Kind, Vec<RecordBatch>>) -> Result<Vec<Answer>> {
    let session = SessionContext::new();
    for kind in Kind::ALL {
        let batches = tables.get(&kind).cloned().unwrap_or_default();
        let table = MemTable::try_new(columns::schema(kind), vec![batches])?;
        session.register_table(kind.as_str(), Arc::new(table))?;
    }
    let mut answers = Vec::with_capacity(QUESTIONS.len());
    for question in QUESTIONS {
        let rows = answer(&session, &question).await.with_context(|| format!("the question {}", question.name))?;
        tracing::info!(question = question.name, rows = rows.num_rows(), "answered");
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
        let column = rows.column_by_name(field.name()).with_context(|| format!("no column {}", field.name()))?;
        Ok(cast(column, field.data_type())?)
    });
    Ok(RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_>>()?)?)
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
    Arc::new(Schema::new(question.columns.iter().map(field).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
