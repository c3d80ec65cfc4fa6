//! What a failed request to the object store means for the archive. Pure.

use pinpipe_runtime::{
    documents::Unreadable, failure::Class, raw_zone::MetadataError, s3::RequestError,
};

use crate::sink::{Halt, SecretRefused, SinkError};

/// What to do about an error that doesn't say it.
const CORRECT_KEYS: &str = ". Correct the keys in the Secret of \
                            spec.archive.s3.credentialsSecretRef, or what the store permits them";
const CORRECT_SECTION: &str = ". Correct the bucket or the spec.archive.s3 section";

impl From<RequestError> for SinkError {
    fn from(error: RequestError) -> Self {
        let advice = |missing| if error.is_advice() { "" } else { missing };
        match error.class {
            Class::Unavailable => Self::Unavailable(error.into()),
            Class::AccessDenied => {
                let denied = format!("{error}{}", advice(CORRECT_KEYS));
                Self::Unavailable(SecretRefused::AccessDenied(denied).into())
            }
            Class::Refused | Class::Halt => Halt::StoreUnsuitable(format!(
                "{error}{}; the archive then goes on by itself",
                advice(CORRECT_SECTION)
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
