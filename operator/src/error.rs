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
    /// Whether an authorizer refuses the request, as [`is_forbidden`] tells.
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

/// Whether an authorizer, such as RBAC, refuses a request. Quotas, admission webhooks and
/// namespaces that are being deleted refuse with the same code, but not in this sentence. Source:
/// `forbiddenMessage` in k8s.io/apiserver, `responsewriters/errors.go`.
#[must_use]
pub fn is_forbidden(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let (_, who) = status
        .message
        .split_once("is forbidden: User \"")
        .unwrap_or_default();
    status.code == 403 && who.contains("\" cannot ")
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Answers of the API server → whether an authorizer refused the request.
    #[test]
    fn only_an_authorizer_forbids() {
        let user = "User \"system:serviceaccount:pinpipe-system:pinpipe\"";
        let list = format!(
            "deployments.apps is forbidden: {user} cannot list resource \"deployments\" in API \
             group \"apps\" in the namespace \"data\""
        );
        let by_webhook = format!("{list}: the policy service denies it");
        for (code, reason, message, expected) in [
            (403, "Forbidden", list.as_str(), true),
            (403, "Forbidden", &by_webhook, true),
            (
                403,
                "Forbidden",
                "pods \"a\" is forbidden: exceeded quota: q",
                false,
            ),
            (
                403,
                "Forbidden",
                "admission webhook \"w\" denied the request: no",
                false,
            ),
            (
                403,
                "",
                "admission webhook \"w\" denied the request: no",
                false,
            ),
            (
                403,
                "Forbidden",
                "configmaps \"a\" is forbidden: unable to create new content in namespace data \
                 because it is being terminated",
                false,
            ),
            (404, "NotFound", &list, false),
        ] {
            let status = json!({"status": "Failure", "code": code, "reason": reason,
                "message": message});
            let error = kube::Error::Api(serde_json::from_value(status).unwrap());
            assert_eq!(is_forbidden(&error), expected, "{code} {message}");
        }
    }
}
