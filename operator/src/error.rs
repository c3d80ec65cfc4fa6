//! Why a reconcile failed.

use std::time::Duration;

use pinpipe_lease::LeaseError;

/// Why a reconcile failed. It is retried with backoff.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request or is unavailable.
    #[error("{action}: {source}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// The definition lacks a field that the operator writes.
    #[error("writing the status: {message}; {remedy}")]
    OldDefinition {
        /// The API server's answer.
        message: String,
        /// What to do, in a sentence.
        remedy: String,
    },
    /// The reconcile took too long.
    #[error("the reconcile took longer than {0:?}")]
    Timeout(Duration),
    /// Another replica may hold the Lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl Error {
    /// Whether RBAC, or another authorizer, refuses the request.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_forbidden(source))
    }

    /// Value of the metric's label: `api`, `timeout` or `lease`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Api { .. } | Self::OldDefinition { .. } => "api",
            Self::Timeout(_) => "timeout",
            Self::Lease(_) => "lease",
        }
    }
}

/// Whether the API server forbids a request.
#[must_use]
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// Names what was tried when the API server failed.
pub trait Trying<T> {
    /// Turns the API server's error into [`Error::Api`].
    fn trying(self, action: &'static str) -> Result<T, Error>;
}

impl<T> Trying<T> for kube::Result<T> {
    fn trying(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Api {
            action,
            source: Box::new(source),
        })
    }
}
