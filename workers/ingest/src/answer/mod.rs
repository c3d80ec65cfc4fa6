//! The response to a request: one result per record, in the form that the client expects.

mod records;
mod rest_proxy;
mod streams;

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
    envelope::NoRecord,
    form::REST_PROXY_TYPE,
    problem::RETRY_AFTER,
    producer::{Delivery, Unconfirmed},
    route::Call,
};

pub use streams::shard;

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
        /// What the client probably did.
        detail: Option<String>,
    },
    /// The request has no record in this place.
    NoRecord(NoRecord),
    /// The broker refuses the record.
    Broker(RDKafkaErrorCode),
}

impl Refusal {
    /// The error code in responses and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Record { rejection, .. } => rejection.reason(),
            Self::NoRecord(reason) => reason.name(),
            Self::Broker(_) => "refused-by-broker",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::Record { rejection, .. } => rejection.field(),
            Self::NoRecord(_) | Self::Broker(_) => None,
        }
    }

    fn message(&self) -> Cow<'_, str> {
        match self {
            Self::Record { rejection, detail } => match detail {
                Some(detail) => Cow::Borrowed(detail),
                None => Cow::Owned(rejection.to_string()),
            },
            Self::NoRecord(reason) => Cow::Owned(reason.to_string()),
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

    /// The response to this call. It holds `share` until the client has received it.
    /// `wants_plain_json` chooses between the types of the REST proxy.
    #[must_use]
    pub fn response(self, call: Call, wants_plain_json: bool, share: Option<Share>) -> Response {
        match call {
            Call::Records => respond(self.status(), JSON, &self.body(), share),
            Call::Topic => {
                let content_type = if wants_plain_json {
                    JSON
                } else {
                    REST_PROXY_TYPE
                };
                respond(StatusCode::OK, content_type, &self.offsets(), share)
            }
            Call::PutRecord => {
                let (status, body) = self.put_record();
                respond(status, JSON, &body, share)
            }
            Call::PutRecords => respond(StatusCode::OK, JSON, &self.put_records(), share),
        }
    }
}

/// The `Content-Type` of most responses.
const JSON: &str = "application/json";

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

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: &impl Serialize,
    share: Option<Share>,
) -> Response {
    let json = match serde_json::to_vec(body) {
        Ok(json) => json,
        Err(error) => {
            tracing::error!(%error, "a response can't be written as JSON");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let json = Bytes::from_owner(Charged {
        json,
        _share: share,
    });
    let content_type = [(header::CONTENT_TYPE, content_type)];
    let mut response = (status, content_type, json).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
