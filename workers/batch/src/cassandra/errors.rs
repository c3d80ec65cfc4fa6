//! Which of the driver's errors are permanent, and what they tell the user.

use anyhow::anyhow;
use pinpipe_config::Cassandra;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use crate::failure::Permanent;

/// Start of an authentication error's message if the server couldn't read its roles, by Cassandra's
/// `PasswordAuthenticator.queryHashedPassword`.
const ROLES_UNAVAILABLE: &str = "Unable to perform authentication";

/// The error of a session that can't be opened. Refused credentials are permanent.
pub fn connect_error(config: &Cassandra, error: NewSessionError) -> anyhow::Error {
    let servers = config.contact_points.join(", ");
    match setup_error(&error).and_then(refused_credentials) {
        Some(reason) => Permanent(format!("Cassandra at {servers} {reason}")).into(),
        None => anyhow!(error).context(format!("can't connect to Cassandra at {servers}")),
    }
}

fn setup_error(error: &NewSessionError) -> Option<&ConnectionSetupRequestErrorKind> {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
            ConnectionPoolError::Broken {
                last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
            },
        )) => Some(setup.get_error()),
        _ => None,
    }
}

/// What the server wants if it refuses to authenticate the connection.
fn refused_credentials(error: &ConnectionSetupRequestErrorKind) -> Option<String> {
    match error {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, message)
            if !message.starts_with(ROLES_UNAVAILABLE) =>
        {
            Some(format!(
                "refuses the user name and password in the Secret of \
                 cassandra.credentialsSecretRef: {message}"
            ))
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => {
            Some("requires a user name and password: set cassandra.credentialsSecretRef".to_owned())
        }
        _ => None,
    }
}

/// The error of a request that failed. Statements and values that the server refuses are permanent.
pub fn request_error(error: ExecutionError) -> anyhow::Error {
    let permanent = match &error {
        ExecutionError::BadQuery(_) => true,
        ExecutionError::LastAttemptError(attempt)
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: attempt,
            ..
        }) => is_permanent(attempt),
        _ => false,
    };
    if permanent {
        Permanent(error.to_string()).into()
    } else {
        anyhow!(error)
    }
}

fn is_permanent(attempt: &RequestAttemptError) -> bool {
    match attempt {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => true,
        RequestAttemptError::DbError(error, _) => matches!(
            error,
            DbError::SyntaxError
                | DbError::Invalid
                | DbError::ConfigError
                | DbError::Unauthorized
                | DbError::AuthenticationError
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_credentials_that_the_server_refuses_are_permanent() {
        let refused = |error, message: &str| {
            refused_credentials(&ConnectionSetupRequestErrorKind::DbError(
                error,
                message.to_owned(),
            ))
        };
        let sentence = "Provided username pins and/or password are incorrect";
        let reason = refused(DbError::AuthenticationError, sentence).unwrap();
        assert!(
            reason.contains(sentence) && reason.contains("credentialsSecretRef"),
            "{reason}"
        );
        let roles_unavailable =
            "Unable to perform authentication: Cannot achieve consistency level QUORUM";
        for (error, message) in [
            (DbError::AuthenticationError, roles_unavailable),
            (DbError::IsBootstrapping, "the node is starting"),
            (DbError::Overloaded, "too many requests"),
        ] {
            assert_eq!(refused(error, message), None, "{message}");
        }
    }

    #[test]
    fn statements_that_the_server_refuses_are_permanent() {
        let error = |error, message: &str| {
            request_error(ExecutionError::LastAttemptError(
                RequestAttemptError::DbError(error, message.to_owned()),
            ))
        };
        let invalid = error(DbError::Invalid, "Undefined column name latitude");
        assert!(invalid.is::<Permanent>());
        assert!(
            invalid
                .to_string()
                .contains("Undefined column name latitude")
        );
        assert!(!error(DbError::Overloaded, "too many requests").is::<Permanent>());
    }
}
