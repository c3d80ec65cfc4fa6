//! What a client is told of each record of its request.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use pinpipe_core::Rejection;
use rdkafka::types::RDKafkaErrorCode;
use serde::Serialize;

use crate::{
    problem::RETRY_AFTER,
    producer::{Delivery, Unconfirmed},
};

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Accepted {
        /// The topic's partition.
        partition: i32,
        /// Its offset there.
        offset: i64,
    },
    /// It can't be taken: sending it again won't help.
    Refused(Refusal),
    /// It is not known to be stored: it has to be sent again.
    Unconfirmed(Unconfirmed),
}

/// Why a record can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By the core's rule: nothing keys it.
    Record(Rejection),
    /// By the broker.
    Broker(RDKafkaErrorCode),
}

impl Refusal {
    /// The name in answers and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Record(rejection) => rejection.reason(),
            Self::Broker(_) => "refused-by-broker",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::Record(rejection) => rejection.field(),
            Self::Broker(_) => None,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Record(rejection) => rejection.to_string(),
            Self::Broker(code) => {
                format!(
                    "the broker does not take the record ({code}): compare the topic's max.message.bytes with spec.ingest.maxRecordBytes"
                )
            }
        }
    }
}

impl From<Delivery> for Outcome {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Stored { partition, offset } => Self::Accepted { partition, offset },
            Delivery::Refused(code) => Self::Refused(Refusal::Broker(code)),
            Delivery::Unconfirmed(reason) => Self::Unconfirmed(reason),
        }
    }
}

/// The answer to a request that was taken apart: one outcome per record, in the request's order.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The topic of the request's kind.
    pub topic: &'a str,
    /// What became of each record.
    pub outcomes: Vec<Outcome>,
}

/// How many records came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stored.
    pub accepted: u64,
    /// Never to be taken.
    pub rejected: u64,
    /// To be sent again.
    pub unconfirmed: u64,
}

impl Answer<'_> {
    /// How many records came out how.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Accepted { .. } => counts.accepted += 1,
                Outcome::Refused(_) => counts.rejected += 1,
                Outcome::Unconfirmed(_) => counts.unconfirmed += 1,
            }
        }
        counts
    }

    /// 503 when something has to be sent again, else 202 when something was taken (or nothing was
    /// sent, as `[]`), else what is wrong with all: 400 not JSON, 413 too large, 422 any other mix.
    #[must_use]
    pub fn status(&self) -> StatusCode {
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
                Refusal::Record(Rejection::NotJson | Rejection::NotUtf8)
            )
        }) {
            StatusCode::BAD_REQUEST
        } else if all(|refusal| matches!(refusal, Refusal::Record(Rejection::TooLarge { .. }))) {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    }

    /// The sentence of an answer that isn't a success.
    fn problem(&self) -> Option<(&'static str, String)> {
        let Counts {
            accepted,
            rejected,
            unconfirmed,
        } = self.counts();
        if unconfirmed > 0 {
            let message = format!(
                "{unconfirmed} of {} records are not known to be stored: send those marked \"retry\" again after {RETRY_AFTER} s, \
                 the {accepted} with an offset are stored",
                self.outcomes.len()
            );
            return Some(("broker-unavailable", message));
        }
        (accepted == 0 && rejected > 0).then(|| {
            let message = format!(
                "none of the {rejected} records was taken: each has its own error; correct them before sending again"
            );
            ("refused", message)
        })
    }
}

/// A record's part of the JSON body.
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
        message: String,
    },
    Unconfirmed {
        error: &'static str,
        message: String,
        retry: bool,
    },
}

/// The JSON body.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    accepted: u64,
    rejected: u64,
    unconfirmed: u64,
    records: Vec<RecordBody<'a>>,
}

impl IntoResponse for Answer<'_> {
    fn into_response(self) -> Response {
        let (error, message) = self.problem().unzip();
        let Counts {
            accepted,
            rejected,
            unconfirmed,
        } = self.counts();
        let status = self.status();
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
        let body = Body {
            error,
            message,
            accepted,
            rejected,
            unconfirmed,
            records,
        };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_to_do() {
        let stored = Outcome::Accepted {
            partition: 0,
            offset: 7,
        };
        let again = Outcome::Unconfirmed(Unconfirmed::Timeout);
        let refused = |rejection| Outcome::Refused(Refusal::Record(rejection));
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
