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
}
