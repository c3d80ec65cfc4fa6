//! What a failed request to the object store means. Pure.

use anyhow::anyhow;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::sink::{Halt, SinkError};

/// What to do about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The store can't be used for the time being: try again.
    Unavailable,
    /// The store refuses the credentials: try again with those of the Secret, since a renewed one
    /// ends it.
    AccessRefused,
    /// A person must decide.
    Halt,
}

/// Error codes that mean another thing than their status,
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
const CODES: [(&str, Failure); 9] = [
    ("ExpiredToken", Failure::AccessRefused),
    ("InvalidToken", Failure::AccessRefused),
    ("TokenRefreshRequired", Failure::AccessRefused),
    // The body didn't arrive whole, or not in time.
    ("RequestTimeout", Failure::Unavailable),
    ("IncompleteBody", Failure::Unavailable),
    ("BadDigest", Failure::Unavailable),
    ("XAmzContentChecksumMismatch", Failure::Unavailable),
    // A multipart upload was aborted by a lifecycle rule, or completed by a request without reply.
    ("NoSuchUpload", Failure::Unavailable),
    ("NotImplemented", Failure::Halt),
];

impl Failure {
    /// The meaning of a response's status and error code; without a response the store can't be
    /// reached.
    pub fn of(status: Option<u16>, code: Option<&str>) -> Self {
        if let Some((_, failure)) = CODES.iter().find(|(known, _)| Some(*known) == code) {
            return *failure;
        }
        match status {
            Some(401 | 403) => Self::AccessRefused,
            // Too slow; a concurrent request; a condition; too many requests.
            Some(408 | 409 | 412 | 429) => Self::Unavailable,
            Some(300..=499 | 501) => Self::Halt,
            _ => Self::Unavailable,
        }
    }
}

/// A failed request.
#[derive(Debug)]
pub struct RequestError {
    /// The response's status.
    pub status: Option<u16>,
    failure: Failure,
    error: anyhow::Error,
}

impl<E> From<SdkError<E>> for RequestError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        let status = error
            .raw_response()
            .map(|response| response.status().as_u16());
        let answer = match (error.code(), error.message()) {
            (Some(code), Some(message)) => anyhow!("{message} ({code})"),
            (Some(only), None) | (None, Some(only)) => anyhow!("{only}"),
            (None, None) => match status {
                // Responses to HEAD requests have no body.
                Some(status) => anyhow!("HTTP status {status}"),
                None => anyhow!("{}", DisplayErrorContext(&error)),
            },
        };
        Self {
            failure: Failure::of(status, error.code()),
            status,
            error: answer,
        }
    }
}

impl RequestError {
    /// A response that lacks what the request asks for.
    pub const fn unusable(error: anyhow::Error) -> Self {
        Self {
            status: None,
            failure: Failure::Unavailable,
            error,
        }
    }

    /// Whether the store may refuse the checksum of what is written rather than the request.
    pub fn may_refuse_checksum(&self) -> bool {
        matches!(self.status, Some(400 | 501)) && self.failure == Failure::Halt
    }

    /// The sink's error, which names what was to be done.
    pub fn into_error(self, what: &str) -> SinkError {
        match self.failure {
            Failure::Unavailable => self.error.context(what.to_owned()).into(),
            Failure::AccessRefused => self.error.context(AccessRefused(what.to_owned())).into(),
            Failure::Halt => Halt::StoreUnsuitable(format!(
                "{what}: the store answers: {:#}. Correct the bucket or the spec.archive.s3 \
                 section; the archive then goes on by itself",
                self.error
            ))
            .into(),
        }
    }
}

/// The store refuses the credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}: the store refuses the credentials of the Secret, or what they may do")]
pub struct AccessRefused(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_request_may_be_repeated_without_its_checksum() {
        for (status, code, expected) in [
            (400, Some("InvalidArgument"), true),
            (400, None, true),
            (501, Some("NotImplemented"), true),
            (400, Some("RequestTimeout"), false),
            (400, Some("BadDigest"), false),
            (400, Some("ExpiredToken"), false),
            (403, Some("AccessDenied"), false),
            (404, Some("NoSuchBucket"), false),
            (503, Some("SlowDown"), false),
        ] {
            let error = RequestError {
                status: Some(status),
                failure: Failure::of(Some(status), code),
                error: anyhow!("no"),
            };
            assert_eq!(error.may_refuse_checksum(), expected, "{status} {code:?}");
        }
    }

    #[test]
    fn every_answer_has_one_meaning() {
        use Failure::{AccessRefused, Halt, Unavailable};
        for (status, code, expected) in [
            (None, None, Unavailable),
            (Some(400), Some("InvalidArgument"), Halt),
            (Some(400), Some("InvalidRequest"), Halt),
            (Some(400), Some("ExpiredToken"), AccessRefused),
            (Some(400), Some("RequestTimeout"), Unavailable),
            (Some(400), Some("BadDigest"), Unavailable),
            (Some(301), Some("PermanentRedirect"), Halt),
            (Some(401), None, AccessRefused),
            (Some(403), Some("AccessDenied"), AccessRefused),
            (Some(403), None, AccessRefused),
            (Some(404), Some("NoSuchBucket"), Halt),
            (Some(404), Some("NoSuchUpload"), Unavailable),
            (Some(405), Some("MethodNotAllowed"), Halt),
            (Some(408), None, Unavailable),
            (Some(409), Some("ConditionalRequestConflict"), Unavailable),
            (Some(412), Some("PreconditionFailed"), Unavailable),
            (Some(413), None, Halt),
            (Some(429), Some("TooManyRequests"), Unavailable),
            (Some(500), Some("InternalError"), Unavailable),
            (Some(501), Some("NotImplemented"), Halt),
            (Some(503), Some("SlowDown"), Unavailable),
            (Some(507), Some("XMinioStorageFull"), Unavailable),
        ] {
            assert_eq!(Failure::of(status, code), expected, "{status:?} {code:?}");
        }
    }
}
