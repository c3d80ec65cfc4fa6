//! Errors of a whole request: status and a JSON body that says what to do, in the form that the
//! client expects.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{form::Form, split::BrokenArray};

/// Why a request was refused. None of its records was sent to the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No route with this path.
    #[error(
        "no such path: POST records to /pin, /geo or /user, or to /topics/{{topic}} in the form of \
         the Kafka REST proxy, or PUT them to /streams/{{stream}}/record in that of Kinesis"
    )]
    NotFound,
    /// No topic or stream has this name.
    #[error(
        "there is no topic or stream `{0}`: use one of those that GET /topics names, or tell the \
         pipeline's owner to add the name to spec.ingest.aliases of the PinterestPipeline"
    )]
    UnknownName(String),
    /// The pipeline's topic isn't there.
    #[error(
        "the topic {0} does not exist in Kafka, or not yet: try again later; if this lasts for \
         minutes, tell the pipeline's owner to check the conditions of the PinterestPipeline"
    )]
    TopicMissing(String),
    /// The topic has no such partition.
    #[error("the topic has no such partition: leave /partitions/… out of the path")]
    UnknownPartition,
    /// No route with this method.
    #[error("use {allow} with this path")]
    MethodNotAllowed {
        /// The methods of the path.
        allow: &'static str,
    },
    /// Unsupported `Content-Type`.
    #[error("the Content-Type is `{seen}`: send JSON as {wanted}")]
    UnsupportedMediaType {
        /// What the request says.
        seen: String,
        /// What this path takes.
        wanted: &'static str,
    },
    /// Unsupported `Content-Encoding`.
    #[error(
        "the Content-Encoding `{0}` is not supported: send the body with gzip or zstd, or \
         uncompressed"
    )]
    UnsupportedEncoding(String),
    /// The body isn't what the `Content-Encoding` says.
    #[error("the body can't be decompressed as its Content-Encoding says: {0}")]
    BrokenEncoding(String),
    /// The body is too large.
    #[error(
        "the request's body is over {limit} bytes, decompressed: send fewer records in a request"
    )]
    BodyTooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// Too many records.
    #[error("the request has over {limit} records: send fewer records in a request")]
    TooManyRecords {
        /// The allowed number of records.
        limit: usize,
    },
    /// The body arrived too slowly, or the connection broke.
    #[error("the request's body did not arrive: {0}; send it again")]
    BodyLost(String),
    /// The body is empty.
    #[error("the request has no body: send records as JSON")]
    Empty,
    /// The body is an array whose records can't be told apart.
    #[error("{0}; none of its records was accepted")]
    BrokenArray(BrokenArray),
    /// The body, which holds the records, is not JSON.
    #[error("{0}; none of its records was accepted")]
    NotJson(String),
    /// The body is JSON, but holds no records in the place where they should be.
    #[error("{0}")]
    WrongShape(String),
    /// The memory budget is exhausted.
    #[error(
        "too many bytes are on their way to the broker: send the same request again after \
         {RETRY_AFTER} s"
    )]
    Busy,
    /// The request has no bearer token.
    #[error("the request has no bearer token: send the header Authorization: Bearer <token>")]
    NoToken,
    /// No client has the request's bearer token.
    #[error("the bearer token is unknown: check that it is one of this service's, and current")]
    UnknownToken,
    /// The client sends too many requests. With the seconds until it may send another one.
    #[error(
        "the client sends more requests a second than are allowed: send the same request again \
         after {0} s, or more records in a request"
    )]
    OverRate(u64),
    /// No broker describes its topics.
    #[error("no broker answers: send the same request again after {RETRY_AFTER} s")]
    BrokerUnavailable,
}

/// How long a client should wait before it retries, seconds.
pub const RETRY_AFTER: u16 = 1;

/// How a problem is shown in each form.
struct Shown {
    status: u16,
    /// The `error` of our own form.
    name: &'static str,
    /// The `error_code` of the REST proxy.
    code: u16,
    /// The HTTP status, and the exception, of Kinesis.
    kinesis: (u16, &'static str),
}

impl Problem {
    fn shown(&self) -> Shown {
        let shown = |status, name, code, kinesis| Shown {
            status,
            name,
            code,
            kinesis,
        };
        let operation = "UnknownOperationException";
        let media_type = "UnsupportedMediaTypeException";
        let too_large = "RequestEntityTooLargeException";
        let serialization = (400, "SerializationException");
        match self {
            Self::NotFound => shown(404, "not-found", 404, (404, operation)),
            Self::UnknownName(_) | Self::TopicMissing(_) => shown(
                404,
                "unknown-topic",
                40401,
                (400, "ResourceNotFoundException"),
            ),
            Self::UnknownPartition => shown(
                404,
                "unknown-partition",
                40402,
                (400, "ResourceNotFoundException"),
            ),
            Self::MethodNotAllowed { .. } => {
                shown(405, "method-not-allowed", 405, (405, operation))
            }
            Self::UnsupportedMediaType { .. } => {
                shown(415, "unsupported-media-type", 415, (415, media_type))
            }
            Self::UnsupportedEncoding(_) => {
                shown(415, "unsupported-encoding", 415, (415, media_type))
            }
            Self::BodyTooLarge { .. } => shown(413, "body-too-large", 413, (413, too_large)),
            Self::TooManyRecords { .. } => shown(413, "too-many-records", 413, (413, too_large)),
            Self::BodyLost(_) => shown(408, "body-lost", 408, (408, "RequestTimeoutException")),
            Self::BrokenEncoding(_) => shown(400, "broken-encoding", 400, serialization),
            Self::Empty => shown(400, "empty", 400, serialization),
            Self::BrokenArray(_) | Self::NotJson(_) => shown(400, "not-json", 400, serialization),
            Self::WrongShape(_) => shown(422, "wrong-shape", 422, (400, "ValidationException")),
            Self::Busy => {
                let exception = "ProvisionedThroughputExceededException";
                shown(429, "busy", 42901, (429, exception))
            }
            Self::NoToken => {
                let exception = "MissingAuthenticationTokenException";
                shown(401, "unauthorized", 40101, (401, exception))
            }
            Self::UnknownToken => {
                let exception = "UnrecognizedClientException";
                shown(401, "unauthorized", 40101, (401, exception))
            }
            Self::OverRate(_) => {
                let exception = "ProvisionedThroughputExceededException";
                shown(429, "rate-limited", 42901, (429, exception))
            }
            Self::BrokerUnavailable => shown(
                503,
                "broker-unavailable",
                50302,
                (503, "ServiceUnavailable"),
            ),
        }
    }

    /// The response to a client that expects this form.
    #[must_use]
    pub fn response(&self, form: Form) -> Response {
        let message = self.to_string();
        let shown = self.shown();
        let (status, body) = match form {
            Form::Records => (
                shown.status,
                json!({"error": shown.name, "message": message}),
            ),
            Form::RestProxy => (
                shown.status,
                json!({"error_code": shown.code, "message": message}),
            ),
            Form::Streams => {
                let (status, exception) = shown.kinesis;
                (status, json!({"__type": exception, "message": message}))
            }
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let header = match self {
            Self::Busy | Self::BrokerUnavailable => {
                Some((header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER)))
            }
            Self::OverRate(seconds) => Some((header::RETRY_AFTER, HeaderValue::from(*seconds))),
            Self::NoToken => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::UnknownToken => Some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer error=\"invalid_token\""),
            )),
            Self::MethodNotAllowed { allow } => {
                Some((header::ALLOW, HeaderValue::from_static(allow)))
            }
            Self::UnsupportedEncoding(_) => Some((
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("gzip, zstd"),
            )),
            _ => None,
        };
        response.headers_mut().extend(header);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_its_own_status() {
        let unknown = Problem::UnknownName("a".to_owned());
        let shape = Problem::WrongShape(String::new());
        for (problem, statuses) in [
            (Problem::NotFound, [404, 404, 404]),
            (unknown, [404, 404, 400]),
            (shape, [422, 422, 400]),
            (Problem::Busy, [429, 429, 429]),
            (Problem::Empty, [400, 400, 400]),
        ] {
            let forms = [Form::Records, Form::RestProxy, Form::Streams];
            let found = forms.map(|form| problem.response(form).status().as_u16());
            assert_eq!(found, statuses, "{problem:?}");
        }
    }
}
