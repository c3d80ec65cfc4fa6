//! JSON documents in the object store.

use aws_sdk_s3::{Client, operation::get_object::GetObjectError};
use serde::de::DeserializeOwned;

use crate::s3::RequestError;

/// A document whose content is not what its key says.
#[derive(Debug, thiserror::Error)]
#[error("s3://{bucket}/{key} is not the expected JSON document: {error}")]
pub struct Unreadable {
    bucket: String,
    key: String,
    error: serde_json::Error,
}

impl Unreadable {
    /// The error of a document that isn't JSON, or not of the expected shape.
    #[must_use]
    pub fn new(bucket: &str, key: &str, error: serde_json::Error) -> Self {
        Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            error,
        }
    }
}

/// Reads a document; `None` if there is no object with this key. The error is [`RequestError`],
/// [`Unreadable`], or that of a response that was cut off.
pub async fn get<T: DeserializeOwned>(
    client: &Client,
    bucket: &str,
    key: &str,
) -> anyhow::Result<Option<T>> {
    let object = match client.get_object().bucket(bucket).key(key).send().await {
        Ok(object) => object,
        Err(error)
            if error
                .as_service_error()
                .is_some_and(GetObjectError::is_no_such_key) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(RequestError::new(bucket, key, "can't be read", &error).into()),
    };
    let body = object.body.collect().await.map_err(|error| {
        anyhow::Error::new(error).context(format!("can't read all of s3://{bucket}/{key}"))
    })?;
    let document = serde_json::from_slice(&body.into_bytes())
        .map_err(|error| Unreadable::new(bucket, key, error))?;
    Ok(Some(document))
}

/// Writes a document's text, replacing an existing one.
pub async fn put(
    client: &Client,
    bucket: &str,
    key: &str,
    text: Vec<u8>,
) -> Result<(), RequestError> {
    let put = client
        .put_object()
        .bucket(bucket)
        .key(key)
        .content_type("application/json");
    put.body(text.into())
        .send()
        .await
        .map_err(|error| RequestError::new(bucket, key, "can't be written", &error))?;
    Ok(())
}
