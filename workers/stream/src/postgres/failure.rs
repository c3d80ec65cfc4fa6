//! What a failure that PostgreSQL reports means. Pure.
//!
//! The codes are those of
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>: two characters name the class.

use anyhow::anyhow;
use tokio_postgres::error::{DbError, SqlState};

use crate::sink::{Answer, Halt, Refusal, SinkError};

/// What to do about a failed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The data can't be stored, now or later: a record of the batch is to be set aside.
    Refused,
    /// The server can't be used for the time being: try again.
    Unavailable,
    /// The server refuses user, password or database of the URL: try again, since a renewed Secret
    /// ends it.
    AccessRefused,
    /// A person must decide.
    Halt,
}

/// Codes and classes. The first entry that a code begins with decides.
const FAILURES: [(&str, Failure); 17] = [
    // Another client of the same pooler uses the name of a prepared statement.
    ("42P05", Failure::Unavailable),
    // A value doesn't fit its type, or a text the database's encoding.
    ("22", Failure::Refused),
    // An index entry or a row is too large.
    ("54000", Failure::Refused),
    // A foreign key, a unique key, a CHECK, an exclusion constraint, a trigger's RAISE.
    ("23503", Failure::Refused),
    ("23505", Failure::Refused),
    ("23514", Failure::Refused),
    ("23P01", Failure::Refused),
    ("P0001", Failure::Refused),
    // Connection; transaction state, such as a standby's read-only one; conflicts with other
    // transactions.
    ("08", Failure::Unavailable),
    ("25", Failure::Unavailable),
    ("40", Failure::Unavailable),
    // Resources; locks and objects in use; an operator's intervention; the system.
    ("53", Failure::Unavailable),
    ("55", Failure::Unavailable),
    ("57", Failure::Unavailable),
    ("58", Failure::Unavailable),
    ("28", Failure::AccessRefused),
    ("3D", Failure::AccessRefused),
];

impl Failure {
    /// The meaning of an SQLSTATE.
    pub fn of(code: &SqlState) -> Self {
        FAILURES
            .iter()
            .find(|(prefix, _)| code.code().starts_with(prefix))
            .map_or(Self::Halt, |(_, failure)| *failure)
    }
}

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
    match Failure::of(code) {
        Failure::Refused => Some(Answer::Refused(Refusal::new(code.code(), sentence))),
        // Such as a NOT NULL of the user's, or what a trigger of theirs may not do.
        Failure::Halt => Some(Answer::Halt(unsuitable(sentence, code.code()))),
        Failure::Unavailable | Failure::AccessRefused => None,
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
    match Failure::of(answer.code()) {
        Failure::Unavailable | Failure::AccessRefused => anyhow!(sentence(answer)).into(),
        Failure::Refused | Failure::Halt => {
            unsuitable(answer.message(), answer.code().code()).into()
        }
    }
}

/// Why the sink stops: the server's sentence, and what to do.
pub fn unsuitable(sentence: &str, code: &str) -> Halt {
    Halt::TableUnsuitable(format!(
        "PostgreSQL answers: {sentence} ({code}). Correct the tables, or what the URL's user may \
         do with them; the sink then goes on by itself"
    ))
}

/// The server's own sentence with its SQLSTATE.
pub fn sentence(answer: &DbError) -> String {
    format!("{} ({})", answer.message(), answer.code().code())
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

    #[test]
    fn every_code_has_one_meaning() {
        use Failure::{AccessRefused, Halt, Refused, Unavailable};
        for (code, expected) in [
            ("22001", Refused),       // string data right truncation
            ("22003", Refused),       // numeric value out of range
            ("22008", Refused),       // datetime field overflow
            ("22021", Refused),       // character not in repertoire
            ("22P05", Refused),       // untranslatable character
            ("54000", Refused),       // index row size exceeds btree maximum
            ("23503", Refused),       // foreign key violation
            ("23505", Refused),       // unique violation
            ("23514", Refused),       // check violation
            ("23P01", Refused),       // exclusion violation
            ("P0001", Refused),       // raise exception
            ("08006", Unavailable),   // connection failure
            ("08P01", Unavailable),   // protocol violation, a pooler's answer
            ("25006", Unavailable),   // read-only transaction: a standby
            ("25P03", Unavailable),   // idle in transaction timeout
            ("40001", Unavailable),   // serialization failure
            ("40P01", Unavailable),   // deadlock
            ("42P05", Unavailable),   // duplicate prepared statement
            ("53100", Unavailable),   // disk full
            ("53300", Unavailable),   // too many connections
            ("55P03", Unavailable),   // lock not available
            ("57P01", Unavailable),   // admin shutdown
            ("57P03", Unavailable),   // cannot connect now
            ("58030", Unavailable),   // I/O error
            ("28000", AccessRefused), // no pg_hba.conf entry
            ("28P01", AccessRefused), // wrong password
            ("3D000", AccessRefused), // no such database
            ("23000", Halt),          // integrity constraint violation, unspecified
            ("23502", Halt),          // not-null violation: a column of the user's
            ("42501", Halt),          // insufficient privilege
            ("42P01", Halt),          // undefined table
            ("42703", Halt),          // undefined column
            ("3F000", Halt),          // invalid schema name
            ("54001", Halt),          // statement too complex
            ("0A000", Halt),          // feature not supported
            ("26000", Halt),          // invalid SQL statement name
            ("P0002", Halt),          // no data found, in a trigger
            ("XX000", Halt),          // internal error
            ("XX001", Halt),          // data corrupted
        ] {
            assert_eq!(Failure::of(&SqlState::from_code(code)), expected, "{code}");
        }
    }
}
