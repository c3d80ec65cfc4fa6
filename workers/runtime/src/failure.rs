//! What a failed request to a sink or a store means for the work behind it.

/// The three ways to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server can't answer now: repeat the request, with [backoff](crate::backoff).
    Unavailable,
    /// The server will never store this record: set it aside and go on with the others.
    Refused,
    /// No repetition helps, whatever the record: a person has to change something.
    Halt,
}

/// The class of an object store's answer by its HTTP status; `None` if there was no answer.
#[must_use]
pub const fn of_http_status(status: Option<u16>) -> Class {
    match status {
        // 408 and 429 ask for a repetition. 409: another write of the key was in progress. 412 is
        // the answer to a condition, which the caller expects.
        None | Some(408 | 409 | 412 | 429 | 500 | 502..) => Class::Unavailable,
        Some(_) => Class::Halt,
    }
}

/// Codes and classes of PostgreSQL's errors; two characters name the class. The first entry that a
/// code begins with decides, and a person must correct what any other code reports:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const SQLSTATES: [(&str, Class); 17] = [
    // Another client of the same pooler uses the name of a prepared statement.
    ("42P05", Class::Unavailable),
    // A value doesn't fit its type, or a text the database's encoding.
    ("22", Class::Refused),
    // An index entry or a row is too large.
    ("54000", Class::Refused),
    // A foreign key, a unique key, a CHECK, an exclusion constraint, a trigger's RAISE.
    ("23503", Class::Refused),
    ("23505", Class::Refused),
    ("23514", Class::Refused),
    ("23P01", Class::Refused),
    ("P0001", Class::Refused),
    // Connection; transaction state, such as a standby's read-only one; conflicts with other
    // transactions.
    ("08", Class::Unavailable),
    ("25", Class::Unavailable),
    ("40", Class::Unavailable),
    // Resources; locks and objects in use; an operator's intervention; the system.
    ("53", Class::Unavailable),
    ("55", Class::Unavailable),
    ("57", Class::Unavailable),
    ("58", Class::Unavailable),
    // User, password or database of the URL are refused: a renewed Secret ends it.
    ("28", Class::Unavailable),
    ("3D", Class::Unavailable),
];

/// The class of an error that PostgreSQL reports with this SQLSTATE.
#[must_use]
pub fn of_sqlstate(code: &str) -> Class {
    SQLSTATES
        .iter()
        .find(|(start, _)| code.starts_with(start))
        .map_or(Class::Halt, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_may_change_by_themselves_are_outages() {
        for status in [408, 409, 412, 429, 500, 502, 503, 504, 507] {
            assert_eq!(of_http_status(Some(status)), Class::Unavailable, "{status}");
        }
        for status in [301, 400, 401, 403, 404, 405, 411, 413, 416, 501] {
            assert_eq!(of_http_status(Some(status)), Class::Halt, "{status}");
        }
        assert_eq!(of_http_status(None), Class::Unavailable);
    }

    #[test]
    fn every_sqlstate_has_one_class() {
        use Class::{Halt, Refused, Unavailable};
        for (code, expected) in [
            ("22001", Refused),     // string data right truncation
            ("22003", Refused),     // numeric value out of range
            ("22008", Refused),     // datetime field overflow
            ("22021", Refused),     // character not in repertoire
            ("22P05", Refused),     // untranslatable character
            ("54000", Refused),     // index row size exceeds btree maximum
            ("23503", Refused),     // foreign key violation
            ("23505", Refused),     // unique violation
            ("23514", Refused),     // check violation
            ("23P01", Refused),     // exclusion violation
            ("P0001", Refused),     // raise exception
            ("08006", Unavailable), // connection failure
            ("08P01", Unavailable), // protocol violation, a pooler's answer
            ("25006", Unavailable), // read-only transaction: a standby
            ("25P03", Unavailable), // idle in transaction timeout
            ("40001", Unavailable), // serialization failure
            ("40P01", Unavailable), // deadlock
            ("42P05", Unavailable), // duplicate prepared statement
            ("53100", Unavailable), // disk full
            ("53300", Unavailable), // too many connections
            ("55P03", Unavailable), // lock not available
            ("57P01", Unavailable), // admin shutdown
            ("57P03", Unavailable), // cannot connect now
            ("58030", Unavailable), // I/O error
            ("28000", Unavailable), // no pg_hba.conf entry
            ("28P01", Unavailable), // wrong password
            ("3D000", Unavailable), // no such database
            ("23000", Halt),        // integrity constraint violation, unspecified
            ("23502", Halt),        // not-null violation: a column of the user's
            ("42501", Halt),        // insufficient privilege
            ("42P01", Halt),        // undefined table
            ("42703", Halt),        // undefined column
            ("3F000", Halt),        // invalid schema name
            ("54001", Halt),        // statement too complex
            ("0A000", Halt),        // feature not supported
            ("26000", Halt),        // invalid SQL statement name
            ("P0002", Halt),        // no data found, in a trigger
            ("XX000", Halt),        // internal error
            ("XX001", Halt),        // data corrupted
        ] {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
    }
}
