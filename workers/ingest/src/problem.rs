//! Errors of a whole request: status and a JSON body that says what to do.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::split::BrokenArray;

/// Why a request was refused. None of its records was sent to the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No route with this path.
    #[error("no such path: POST records to /pin, /geo or /user")]
    NotFound,
    /// No route with this method.
    #[error("records are sent with POST")]
    MethodNotAllowed,
    /// Unsupported `Content-Type`.
    #[error(
        "the Content-Type is `{0}`: send JSON (one object, an array, or objects one after the \
         other) as application/json"
    )]
    UnsupportedMediaType(String),
    /// Unsupported `Content-Encoding`.
    #[error("the Content-Encoding `{0}` is not supported: send the body uncompressed")]
    UnsupportedEncoding(String),
    /// The body is too large.
    #[error("the request's body is over {limit} bytes: send fewer records in a request")]
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
    #[error(
        "the request has no body: send one JSON object, an array of objects, or objects one after \
         the other"
    )]
    Empty,
    /// The body is an array whose records can't be told apart.
    #[error("{0}; none of its records was accepted")]
    BrokenArray(BrokenArray),
    /// The memory budget is exhausted.
    #[error(
        "too many bytes are on their way to the broker: send the same request again after \
         {RETRY_AFTER} s"
    )]
    Busy,
}

/// How long a client should wait before it retries, seconds.
pub const RETRY_AFTER: u16 = 1;

impl Problem {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType(_) | Self::UnsupportedEncoding(_) => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::BodyTooLarge { .. } | Self::TooManyRecords { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::BodyLost(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Empty | Self::BrokenArray(_) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The error code in the response and in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::UnsupportedMediaType(_) => "unsupported-media-type",
            Self::UnsupportedEncoding(_) => "unsupported-encoding",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::TooManyRecords { .. } => "too-many-records",
            Self::BodyLost(_) => "body-lost",
            Self::Empty => "empty",
            Self::BrokenArray(_) => "not-json",
            Self::Busy => "busy",
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: &'static str,
            message: String,
        }
        let mut response = (
            self.status(),
            Json(Body {
                error: self.name(),
                message: self.to_string(),
            }),
        )
            .into_response();
        match self {
            Self::Busy => {
                _ = response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
            }
            Self::MethodNotAllowed => {
                _ = response
                    .headers_mut()
                    .insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            Self::UnsupportedEncoding(_) => {
                response.headers_mut().insert(
                    header::ACCEPT_ENCODING,
                    HeaderValue::from_static("identity"),
                );
            }
            _ => {}
        }
        response
    }
}
