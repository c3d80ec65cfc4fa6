//! What a failed request to a sink or a store means for the work behind it.

/// The ways to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server can't answer now: repeat the request, with [backoff](crate::backoff).
    Unavailable,
    /// The server refuses the credentials, what they may do, or the database they are for: a
    /// renewed Secret ends it, or a change on the server. A worker that goes on for ever repeats
    /// the request, with the credentials that the Secret then has; a run that is started again
    /// ends, unless the credentials [have expired](has_expired).
    AccessDenied,
    /// The server will never store this record: set it aside and go on with the others.
    Refused,
    /// No repetition helps, whatever the record: a person has to change something.
    Halt,
}

/// Why a store will never take a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{sentence} ({code})")]
pub struct Refusal {
    /// The store's code of the error, such as a SQLSTATE.
    pub code: String,
    /// The store's own sentence, at most 1024 bytes.
    pub sentence: String,
}

/// The longest sentence of a refusal, bytes. A trigger may say anything, such as the whole record,
/// and the sentence is kept and becomes a header of the dead letter.
const MAX_SENTENCE: usize = 1024;

impl Refusal {
    /// A refusal by the store's code and sentence, whose end is cut off if it is too long.
    #[must_use]
    pub fn new(code: &str, sentence: &str) -> Self {
        let sentence = if sentence.len() > MAX_SENTENCE {
            let end = sentence.floor_char_boundary(MAX_SENTENCE - '…'.len_utf8());
            format!("{}…", &sentence[..end])
        } else {
            sentence.to_owned()
        };
        Self {
            code: code.to_owned(),
            sentence,
        }
    }
}

/// Error codes of object stores that mean another thing than their status:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
const S3_CODES: [(&str, Class); 10] = [
    ("ExpiredToken", Class::AccessDenied),
    ("InvalidToken", Class::AccessDenied),
    ("TokenRefreshRequired", Class::AccessDenied),
    // The body didn't arrive whole, or not in time.
    ("RequestTimeout", Class::Unavailable),
    ("IncompleteBody", Class::Unavailable),
    ("BadDigest", Class::Unavailable),
    ("XAmzContentChecksumMismatch", Class::Unavailable),
    // A clock is wrong, here or there.
    ("RequestTimeTooSkewed", Class::Unavailable),
    // A multipart upload was aborted by a lifecycle rule, or completed by a request without reply.
    ("NoSuchUpload", Class::Unavailable),
    ("NotImplemented", Class::Halt),
];

/// The class of an object store's answer by its HTTP status and error code. Without a status there
/// was no answer; answers to HEAD requests have no code.
#[must_use]
pub fn of_s3(status: Option<u16>, code: Option<&str>) -> Class {
    if let Some((_, class)) = S3_CODES.iter().find(|(known, _)| Some(*known) == code) {
        return *class;
    }
    match status {
        Some(401 | 403) => Class::AccessDenied,
        // 408 and 429 ask for a repetition. 409: another write of the key was in progress. 412 is
        // the answer to a condition, which the caller expects.
        Some(408 | 409 | 412 | 429) => Class::Unavailable,
        Some(300..=499 | 501) => Class::Halt,
        _ => Class::Unavailable,
    }
}

/// Whether an object store says by this code that credentials were valid, and no longer are. Who
/// issues such credentials renews them, so another attempt may find others in the Secret; a token
/// that is wrong (`InvalidToken`) stays so.
#[must_use]
pub fn has_expired(code: Option<&str>) -> bool {
    matches!(code, Some("ExpiredToken" | "TokenRefreshRequired"))
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
    // User, password or database of the URL are refused.
    ("28", Class::AccessDenied),
    ("3D", Class::AccessDenied),
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
    fn every_answer_of_an_object_store_has_one_class() {
        use Class::{AccessDenied, Halt, Unavailable};
        for (status, code, expected) in [
            (None, None, Unavailable),
            (Some(301), Some("PermanentRedirect"), Halt),
            (Some(400), None, Halt),
            (Some(400), Some("InvalidArgument"), Halt),
            (Some(400), Some("InvalidRequest"), Halt),
            (Some(400), Some("ExpiredToken"), AccessDenied),
            (Some(400), Some("InvalidToken"), AccessDenied),
            (Some(400), Some("TokenRefreshRequired"), AccessDenied),
            (Some(400), Some("RequestTimeout"), Unavailable),
            (Some(400), Some("BadDigest"), Unavailable),
            (Some(401), None, AccessDenied),
            (Some(403), None, AccessDenied),
            (Some(403), Some("AccessDenied"), AccessDenied),
            (Some(403), Some("InvalidAccessKeyId"), AccessDenied),
            (Some(403), Some("RequestTimeTooSkewed"), Unavailable),
            (Some(404), Some("NoSuchBucket"), Halt),
            (Some(404), Some("NoSuchUpload"), Unavailable),
            (Some(405), Some("MethodNotAllowed"), Halt),
            (Some(408), None, Unavailable),
            (Some(409), Some("ConditionalRequestConflict"), Unavailable),
            (Some(412), Some("PreconditionFailed"), Unavailable),
            (Some(413), None, Halt),
            (Some(416), Some("InvalidRange"), Halt),
            (Some(429), Some("TooManyRequests"), Unavailable),
            (Some(500), Some("InternalError"), Unavailable),
            (Some(501), Some("NotImplemented"), Halt),
            (Some(502), None, Unavailable),
            (Some(503), Some("SlowDown"), Unavailable),
            (Some(507), Some("XMinioStorageFull"), Unavailable),
        ] {
            assert_eq!(of_s3(status, code), expected, "{status:?} {code:?}");
        }
    }

    #[test]
    fn every_sqlstate_has_one_class() {
        use Class::{AccessDenied, Halt, Refused, Unavailable};
        for (code, expected) in [
            ("22001", Refused),      // string data right truncation
            ("22003", Refused),      // numeric value out of range
            ("22008", Refused),      // datetime field overflow
            ("22021", Refused),      // character not in repertoire
            ("22P05", Refused),      // untranslatable character
            ("54000", Refused),      // index row size exceeds btree maximum
            ("23503", Refused),      // foreign key violation
            ("23505", Refused),      // unique violation
            ("23514", Refused),      // check violation
            ("23P01", Refused),      // exclusion violation
            ("P0001", Refused),      // raise exception
            ("08006", Unavailable),  // connection failure
            ("08P01", Unavailable),  // protocol violation, a pooler's answer
            ("25006", Unavailable),  // read-only transaction: a standby
            ("25P03", Unavailable),  // idle in transaction timeout
            ("40001", Unavailable),  // serialization failure
            ("40P01", Unavailable),  // deadlock
            ("42P05", Unavailable),  // duplicate prepared statement
            ("53100", Unavailable),  // disk full
            ("53300", Unavailable),  // too many connections
            ("55P03", Unavailable),  // lock not available
            ("57P01", Unavailable),  // admin shutdown
            ("57P03", Unavailable),  // cannot connect now
            ("58030", Unavailable),  // I/O error
            ("28000", AccessDenied), // no pg_hba.conf entry
            ("28P01", AccessDenied), // wrong password
            ("3D000", AccessDenied), // no such database
            ("23000", Halt),         // integrity constraint violation, unspecified
            ("23502", Halt),         // not-null violation: a column of the user's
            ("42501", Halt),         // insufficient privilege
            ("42P01", Halt),         // undefined table
            ("42703", Halt),         // undefined column
            ("3F000", Halt),         // invalid schema name
            ("54001", Halt),         // statement too complex
            ("0A000", Halt),         // feature not supported
            ("26000", Halt),         // invalid SQL statement name
            ("P0002", Halt),         // no data found, in a trigger
            ("XX000", Halt),         // internal error
            ("XX001", Halt),         // data corrupted
        ] {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
    }

    #[test]
    fn a_refusal_s_sentence_is_cut_between_two_characters() {
        for (sentence, length) in [("x", 1), ("é", 2), (&"x".repeat(1024), 1024)] {
            assert_eq!(Refusal::new("P0001", sentence).sentence.len(), length);
        }
        let cut = Refusal::new("P0001", &format!("x{}", "é".repeat(1024))).sentence;
        assert_eq!(cut, format!("x{}…", "é".repeat(510)));
    }
}
