//! What a failure that PostgreSQL reports means for the sink. Pure.

use anyhow::anyhow;
use pinpipe_runtime::{
    failure::{Class, of_sqlstate},
    postgres::sentence,
};
use tokio_postgres::error::SqlState;

use crate::sink::{Answer, Halt, Refusal, SecretRefused, SinkError};

/// Why a transaction that stores batches failed.
#[derive(Debug)]
pub enum Failed {
    /// The server refuses the rows: the answer for their batch.
    Rows(Answer),
    /// Anything else.
    Sink(SinkError),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        let rows = error
            .as_db_error()
            .and_then(|answer| about_rows(answer.code(), answer.message()));
        rows.map_or_else(|| Self::Sink(failed(error)), Self::Rows)
    }
}

/// The answer for the batches that a failed statement was to store, where the failure may be about
/// the rows of one of them.
fn about_rows(code: &SqlState, sentence: &str) -> Option<Answer> {
    match of_sqlstate(code.code()) {
        Class::Refused => Some(Answer::Refused(Refusal::new(code.code(), sentence))),
        // Such as a NOT NULL of the user's, or what a trigger of theirs may not do.
        Class::Halt => Some(Answer::Halt(unsuitable(sentence, code.code()))),
        Class::Unavailable | Class::AccessDenied => None,
    }
}

impl Failed {
    /// The error of a call that stores no rows.
    pub fn into_error(self) -> SinkError {
        match self {
            Self::Sink(error) => error,
            Self::Rows(Answer::Halt(halt)) => halt.into(),
            Self::Rows(Answer::Refused(Refusal { code, sentence })) => {
                unsuitable(&sentence, &code).into()
            }
            Self::Rows(answer) => anyhow!("{answer:?}").into(),
        }
    }
}

/// The error of a statement that stores no rows, with the server's own sentence. The caller adds
/// the server.
pub fn failed(error: tokio_postgres::Error) -> SinkError {
    let Some(answer) = error.as_db_error() else {
        return SinkError::Unavailable(error.into());
    };
    match of_sqlstate(answer.code().code()) {
        Class::Unavailable => anyhow!(sentence(answer)).into(),
        Class::AccessDenied => {
            SinkError::Unavailable(anyhow!(SecretRefused::AccessDenied(sentence(answer))))
        }
        Class::Refused | Class::Halt => unsuitable(answer.message(), answer.code().code()).into(),
    }
}

/// Why the sink stops: the server's sentence, and what to do.
pub fn unsuitable(sentence: &str, code: &str) -> Halt {
    Halt::TableUnsuitable(format!(
        "PostgreSQL answers: {sentence} ({code}). Correct the tables, or what the URL's user may \
         do with them; the sink then goes on by itself"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_may_be_about_the_rows_of_one_batch() {
        let about = |code| about_rows(&SqlState::from_code(code), "no");
        let refusal = Refusal::new("23514", "no");
        assert_eq!(about("23514"), Some(Answer::Refused(refusal)));
        for code in ["23502", "42501", "P0002"] {
            let halt = unsuitable("no", code);
            assert_eq!(about(code), Some(Answer::Halt(halt)), "{code}");
        }
        for code in ["40001", "08006", "28P01"] {
            assert_eq!(about(code), None, "{code}");
        }
    }
}
