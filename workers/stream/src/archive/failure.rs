//! What a failed request to the object store means for the archive. Pure.

use pinpipe_runtime::{
    documents::Unreadable, failure::Class, raw_zone::MetadataError, s3::RequestError,
};

use crate::sink::{Halt, SecretRefused, SinkError};

impl From<RequestError> for SinkError {
    fn from(error: RequestError) -> Self {
        match error.class {
            Class::Unavailable => Self::Unavailable(error.into()),
            Class::AccessDenied => {
                let denied = SecretRefused::AccessDenied(format!(
                    "{error}. Correct the keys in the Secret of \
                     spec.archive.s3.credentialsSecretRef, or what the store permits them"
                ));
                Self::Unavailable(denied.into())
            }
            Class::Refused | Class::Halt => Halt::StoreUnsuitable(format!(
                "{error}. Correct the bucket or the spec.archive.s3 section; the archive then \
                 goes on by itself"
            ))
            .into(),
        }
    }
}

/// The error of a document or of an object's metadata.
pub fn unread(error: anyhow::Error) -> SinkError {
    if error.is::<Unreadable>() || error.is::<MetadataError>() {
        let what_to_do = "Move it out of the archive's prefix to go on";
        return Halt::PositionUnreadable(format!("{error:#}. {what_to_do}")).into();
    }
    match error.downcast::<RequestError>() {
        Ok(error) => error.into(),
        Err(error) => SinkError::Unavailable(error),
    }
}
