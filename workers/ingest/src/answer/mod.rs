//! The response to a request: one result per record.

use std::borrow::Cow;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use pinpipe_core::Rejection;
use rdkafka::types::RDKafkaErrorCode;
use serde::Serialize;

use crate::{
    budget::Share,
    problem::RETRY_AFTER,
    producer::{Delivery, Unconfirmed},
    syntax,
};

/// The result for one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has stored the record.
    Accepted {
        /// The partition.
        partition: i32,
        /// The offset in the partition.
        offset: i64,
    },
    /// The record can't be accepted. Sending it again won't help.
    Refused(Refusal),
    /// The record is not known to be stored. The client must send it again.
    Unconfirmed(Unconfirmed),
}

/// Why a record can't be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The record is rejected by the cleaning rules.
    Record {
        /// The reason.
        rejection: Rejection,
        /// Where and why it is not JSON, if that is the reason.
        detail: Option<String>,
    },
    /// The broker refuses the record.
    Broker(RDKafkaErrorCode),
}

impl Refusal {
    /// The refusal of a rejected record.
    #[must_use]
    pub fn record(rejection: Rejection, record: &[u8]) -> Self {
        let is_not_json = rejection == Rejection::NotJson;
        Self::Record {
            rejection,
            detail: is_not_json.then(|| syntax::describe(record)).flatten(),
        }
    }

    /// The error code in responses and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Record { rejection, .. } => rejection.reason(),
            Self::Broker(_) => "refused-by-broker",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::Record { rejection, .. } => rejection.field(),
            Self::Broker(_) => None,
        }
    }

    fn message(&self) -> Cow<'_, str> {
        match self {
            Self::Record { rejection, detail } => match detail {
                Some(detail) => Cow::Borrowed(detail),
                None => Cow::Owned(rejection.to_string()),
            },
            Self::Broker(code) => Cow::Owned(format!(
                "the broker refuses the record ({code}): don't send it again, and tell the \
                 pipeline's owner to check the conditions of the PinterestPipeline and the topic's \
                 max.message.bytes"
            )),
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

/// The response to a request whose records could be told apart: one outcome per record, in request
/// order.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The topic of the request's kind.
    pub topic: &'a str,
    /// The outcome of each record.
    pub outcomes: Vec<Outcome>,
}

/// Numbers of records by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stored records.
    pub accepted: u64,
    /// Refused records.
    pub rejected: u64,
    /// Records to be sent again.
    pub unconfirmed: u64,
}

impl Answer<'_> {
    /// Counts the records by outcome.
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

    /// The HTTP status: 503 if a record has to be sent again; else 202 if a record was accepted or
    /// the request was `[]`; else 400 if all records are not JSON, 413 if all are too large, or
    /// 422.
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
                    ..
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
}

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

/// A body with the share of the budget that covers it, which is held until it was sent.
struct Charged {
    json: Vec<u8>,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

impl Answer<'_> {
    /// The response. It holds `share` until the client has received it.
    pub fn response(self, share: Option<Share>) -> Response {
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
        let json = match serde_json::to_vec(&body) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(%error, "a response can't be written as JSON");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        };
        drop(body);
        drop(self.outcomes);
        let json = Bytes::from_owner(Charged {
            json,
            _share: share,
        });
        let content_type = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (status, content_type, json).into_response();
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
    fn the_status_depends_on_all_outcomes() {
        let stored = Outcome::Accepted {
            partition: 0,
            offset: 7,
        };
        let again = Outcome::Unconfirmed(Unconfirmed::Timeout);
        let refused = |rejection| Outcome::Refused(Refusal::record(rejection, b"{"));
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

    #[test]
    fn messages_say_what_the_client_and_the_owner_can_do() {
        let refused = Refusal::Broker(RDKafkaErrorCode::MessageSizeTooLarge);
        let broker = refused.message();
        let topic = Unconfirmed::TopicMissing.to_string().into();
        for message in [&broker, &topic] {
            assert!(
                message.contains("owner") && message.contains("conditions"),
                "{message}"
            );
        }
        assert!(broker.contains("don't send it again"), "{broker}");
        let not_json = Refusal::record(Rejection::NotJson, br#"{"ind": }"#);
        assert_eq!(not_json.name(), "not-json");
        let message = not_json.message();
        assert!(message.contains("line 1, column 9"), "{message}");
    }
}
