//! A request refused as a whole: its status and a JSON body that says what to do.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Why a request was not taken. Nothing of it was sent to the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No route of this path.
    #[error("there is nothing here: POST records to /pin, /geo or /user")]
    NotFound,
    /// A route, but not for this method.
    #[error("records are sent with POST")]
    MethodNotAllowed,
    /// A body of another type.
    #[error(
        "the Content-Type is {}: send JSON (an object or an array) as application/json, or one object a line as application/x-ndjson",
        .0.as_deref().map_or("missing".to_owned(), |name| format!("`{name}`"))
    )]
    UnsupportedMediaType(Option<String>),
    /// A compressed body.
    #[error("the Content-Encoding `{0}` is not understood: send the body uncompressed")]
    UnsupportedEncoding(String),
    /// Too many bytes.
    #[error("the request's body is over {limit} bytes: send fewer records in a request")]
    BodyTooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// Too many records.
    #[error(
        "the request has {count} records, {limit} are allowed: send fewer records in a request"
    )]
    TooManyRecords {
        /// How many it has.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The body came too slowly, or the connection broke.
    #[error("the request's body did not arrive: {0}; send it again")]
    BodyLost(String),
    /// Nothing in it.
    #[error(
        "the request has no body: send one JSON object, an array of objects, or one object a line"
    )]
    Empty,
    /// An array of which one can't tell where records end.
    #[error(
        "the array can't be read: it isn't closed, or something stands behind it; none of its records was taken"
    )]
    BrokenArray,
    /// The memory for requests is in use.
    #[error(
        "too many records are on their way to the broker: send the same request again after {RETRY_AFTER} s"
    )]
    Busy,
}

/// How long a client should wait before it comes again, seconds.
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
            Self::Empty | Self::BrokenArray => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The name in the body's `error` and in metrics.
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
            Self::BrokenArray => "not-json",
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
                    .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER))
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
