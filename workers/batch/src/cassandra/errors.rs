//! What the driver's errors mean for a run, and what they tell the user.

use anyhow::anyhow;
use pinpipe_config::Cassandra;
use pinpipe_runtime::{
    failure::{Class, Refusal},
    tls::RefusedCertificate,
};
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use crate::failure::Permanent;

/// Start of an authentication error's message if the server couldn't read its roles, by Cassandra's
/// `PasswordAuthenticator.queryHashedPassword`.
const ROLES_UNAVAILABLE: &str = "Unable to perform authentication";

/// The error of a session that can't be opened; `refused` is there if it was to have TLS. Refused
/// credentials and certificates are permanent.
pub fn connect_error(
    config: &Cassandra,
    refused: Option<&RefusedCertificate>,
    error: NewSessionError,
) -> anyhow::Error {
    let servers = config.contact_points.join(", ");
    if let Some(reason) = setup_error(&error).and_then(refused_credentials) {
        return Permanent(format!("Cassandra at {servers} {reason}")).into();
    }
    if let Some(fault) = refused.and_then(RefusedCertificate::fault) {
        let fault = format!("the node's certificate {fault}");
        return Permanent(format!("can't connect to Cassandra at {servers}: {fault}")).into();
    }
    let error = anyhow!(error);
    let context = match tls_fault(refused.is_some(), &format!("{error:#}")) {
        Some(fault) => format!("can't connect to Cassandra at {servers}: {fault}"),
        None => format!("can't connect to Cassandra at {servers}"),
    };
    error.context(context)
}

/// What of TLS may be the cause of a connection that failed with an error of this text.
fn tls_fault(has_tls: bool, error: &str) -> Option<&'static str> {
    let says = |parts: &[&str]| parts.iter().any(|part| error.contains(part));
    if has_tls {
        says(&["wrong version number"])
            .then_some("the node answers without TLS: turn it on there, or remove cassandra.tls")
    } else {
        says(&["EOF", "early eof", "reset by peer", "Broken pipe"])
            .then_some("the node closed the connection: it may require TLS, see cassandra.tls")
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

/// The error of a request that failed: [`Refusal`] if the server refuses the values, [`Permanent`]
/// if it refuses the statement.
pub fn request_error(error: ExecutionError) -> anyhow::Error {
    match class(&error) {
        Class::Unavailable => anyhow!(error),
        Class::Refused => Refusal::new(code(&error), &sentence(&error)).into(),
        Class::AccessDenied | Class::Halt => Permanent(sentence(&error)).into(),
    }
}

fn class(error: &ExecutionError) -> Class {
    match error {
        // Values that the driver can't serialize.
        ExecutionError::BadQuery(_) => Class::Refused,
        ExecutionError::LastAttemptError(attempt) => attempt_class(attempt),
        // The server refuses a statement, whatever the values.
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt, .. }) => {
            match attempt_class(first_attempt) {
                Class::Refused => Class::Halt,
                class => class,
            }
        }
        _ => Class::Unavailable,
    }
}

fn attempt_class(attempt: &RequestAttemptError) -> Class {
    match attempt {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_)
        // Of a prepared statement: `Key length of 70000 is longer than maximum of 65535`.
        | RequestAttemptError::DbError(DbError::Invalid, _) => Class::Refused,
        RequestAttemptError::DbError(
            DbError::SyntaxError
            | DbError::ConfigError
            | DbError::Unauthorized
            | DbError::AlreadyExists { .. }
            | DbError::AuthenticationError,
            _,
        ) => Class::Halt,
        _ => Class::Unavailable,
    }
}

/// The code of a refusal: the protocol's for `Invalid`, if it is the server's and not the driver's.
const fn code(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(..)) => "0x2200",
        _ => "not-serializable",
    }
}

/// What the server said, or the driver if it was not the server.
fn sentence(error: &ExecutionError) -> String {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(_, message))
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(_, message),
            ..
        }) => message.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;

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
    fn a_refused_value_an_outage_and_a_refused_statement_are_told_apart() {
        let attempt =
            |error, message: &str| RequestAttemptError::DbError(error, message.to_owned());
        let executed = |error, message| {
            request_error(ExecutionError::LastAttemptError(attempt(error, message)))
        };
        let sentence = "Key length of 70000 is longer than maximum of 65535";
        let refused = executed(DbError::Invalid, sentence);
        assert_eq!(
            refused.downcast_ref(),
            Some(&Refusal::new("0x2200", sentence))
        );
        assert!(failure::is_permanent(&refused), "it isn't sent again");

        let sentence = "User pins has no MODIFY permission on <table k.t> or any of its parents";
        let halted = executed(DbError::Unauthorized, sentence);
        assert_eq!(halted.downcast_ref::<Permanent>().unwrap().0, sentence);

        let sentence = "Undefined column name latitude";
        let prepared = request_error(ExecutionError::PrepareError(
            PrepareError::AllAttemptsFailed {
                first_attempt: attempt(DbError::Invalid, sentence),
            },
        ));
        assert_eq!(prepared.downcast_ref::<Permanent>().unwrap().0, sentence);

        for (error, message) in [
            (DbError::Overloaded, "too many requests"),
            (DbError::IsBootstrapping, "the node is starting"),
            (DbError::ServerError, "NullPointerException"),
        ] {
            let error = executed(error, message);
            assert!(!failure::is_permanent(&error), "{error:#}");
        }
    }
}
