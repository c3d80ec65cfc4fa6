//! The answer to records as they are: an entry for each, and how many were accepted.

use std::borrow::Cow;

use axum::http::StatusCode;
use pinpipe_core::Rejection;
use serde::Serialize;

use super::{Answer, Counts, Outcome, Refusal};
use crate::problem::RETRY_AFTER;

/// A record's result in the JSON body.
#[derive(Serialize)]
#[serde(untagged)]
enum RecordBody<'a> {
    Accepted {
        topic: &'a str,
        partition: i32,
        offset: i64,
    },
    Refused {
        error: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'static str>,
        message: Cow<'a, str>,
    },
    Unconfirmed {
        error: &'static str,
        message: String,
        retry: bool,
    },
}

/// The JSON body of the response.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    accepted: u64,
    rejected: u64,
    unconfirmed: u64,
    records: Vec<RecordBody<'a>>,
}

impl Answer<'_> {
    /// The HTTP status: 503 if a record has to be sent again; else 202 if a record was accepted or
    /// the request was `[]`; else 400 if all records are not JSON, 413 if all are too large, or
    /// 422.
    #[must_use]
    pub(super) fn status(&self) -> StatusCode {
        let counts = self.counts();
        if counts.unconfirmed > 0 {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if counts.accepted > 0 || self.outcomes.is_empty() {
            return StatusCode::ACCEPTED;
        }
        let all = |wanted: fn(&Refusal) -> bool| {
            self.outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Refused(refusal) if wanted(refusal)))
        };
        if all(|refusal| {
            matches!(
                refusal,
                Refusal::Record {
                    rejection: Rejection::NotJson | Rejection::NotUtf8,
                    ..
                }
            )
        }) {
            StatusCode::BAD_REQUEST
        } else if all(|refusal| {
            matches!(
                refusal,
                Refusal::Record {
                    rejection: Rejection::TooLarge { .. },
                    // Else it is a request of another form.
                    detail: None,
                }
            )
        }) {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    }

    /// The error code and message of a response that is not a success.
    fn problem(&self) -> Option<(&'static str, String)> {
        let Counts {
            accepted,
            rejected,
            unconfirmed,
        } = self.counts();
        if unconfirmed > 0 {
            let message = format!(
                "{unconfirmed} of {} records are not known to be stored: send those marked \
                 \"retry\" again after {RETRY_AFTER} s, the {accepted} with an offset are stored",
                self.outcomes.len()
            );
            return Some(("broker-unavailable", message));
        }
        (accepted == 0 && rejected > 0).then(|| {
            let message = format!(
                "none of the {rejected} records was accepted: each has its own error; correct them \
                 before sending again"
            );
            ("refused", message)
        })
    }

    /// The body.
    pub(super) fn body(&self) -> Body<'_> {
        let (error, message) = self.problem().unzip();
        let Counts {
            accepted,
            rejected,
            unconfirmed,
        } = self.counts();
        let records = self
            .outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Accepted { partition, offset } => RecordBody::Accepted {
                    topic: self.topic,
                    partition: *partition,
                    offset: *offset,
                },
                Outcome::Refused(refusal) => RecordBody::Refused {
                    error: refusal.name(),
                    field: refusal.field(),
                    message: refusal.message(),
                },
                Outcome::Unconfirmed(reason) => RecordBody::Unconfirmed {
                    error: reason.name(),
                    message: reason.to_string(),
                    retry: true,
                },
            })
            .collect();
        Body {
            error,
            message,
            accepted,
            rejected,
            unconfirmed,
            records,
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;
    use crate::producer::Unconfirmed;

    #[test]
    fn the_status_depends_on_all_outcomes() {
        let stored = Outcome::Accepted {
            partition: 0,
            offset: 7,
        };
        let again = Outcome::Unconfirmed(Unconfirmed::Timeout);
        let refused = |rejection| {
            let detail = None;
            Outcome::Refused(Refusal::Record { rejection, detail })
        };
        let no_json = refused(Rejection::NotJson);
        let too_large = refused(Rejection::TooLarge { bytes: 2, limit: 1 });
        let no_key = refused(Rejection::KeyMissing { field: "ind" });
        for (outcomes, status) in [
            (vec![], 202),
            (vec![stored.clone()], 202),
            (vec![stored.clone(), no_json.clone()], 202),
            (vec![stored, no_json.clone(), again.clone()], 503),
            (vec![no_key.clone(), again], 503),
            (vec![no_json.clone(), refused(Rejection::NotUtf8)], 400),
            (vec![no_json.clone(), no_key.clone()], 422),
            (vec![no_key], 422),
            (vec![too_large.clone(), too_large.clone()], 413),
            (vec![too_large, no_json], 422),
            (
                vec![Outcome::Refused(Refusal::Broker(
                    RDKafkaErrorCode::MessageSizeTooLarge,
                ))],
                422,
            ),
        ] {
            let answer = Answer {
                topic: "t",
                outcomes,
            };
            assert_eq!(answer.status(), status, "{answer:?}");
        }
    }
}
