//! What the server's errors mean for a run, and what they tell the user.

use anyhow::anyhow;
use pinpipe_runtime::{
    failure::{Class, Refusal, of_sqlstate},
    postgres::sentence,
};
use tokio_postgres::Error;

use crate::{failure::Permanent, sink::Interrupted};

/// The error of a statement: [`Refusal`] if the server refuses the rows, [`Permanent`] if it
/// refuses the statement, [`Interrupted`] if it can't answer now.
pub fn failed(error: Error) -> anyhow::Error {
    let Some(answer) = error.as_db_error() else {
        return Interrupted(anyhow!(error)).into();
    };
    match of_sqlstate(answer.code().code()) {
        Class::Unavailable => Interrupted(anyhow!(sentence(answer))).into(),
        Class::Refused => Refusal::new(answer.code().code(), answer.message()).into(),
        Class::AccessDenied | Class::Halt => Permanent(format!(
            "PostgreSQL answers: {}. Correct the table, or what the URL's user may do with it, or \
             drop the table: the next run creates and fills it",
            sentence(answer)
        ))
        .into(),
    }
}
