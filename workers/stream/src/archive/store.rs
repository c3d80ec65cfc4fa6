//! The archive's bucket. Objects are created and never replaced, which the store must ensure.

use std::{collections::HashMap, time::Duration};

use anyhow::anyhow;
use aws_sdk_s3::{
    Client,
    error::SdkError,
    operation::create_multipart_upload::CreateMultipartUploadOutput,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::RawZone;
use pinpipe_runtime::{
    documents,
    raw_zone::{self, ObjectMetadata, RawObject, RawPartition},
    s3,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::sink::{Halt, SinkError};

/// Larger objects are uploaded in parts, since a larger single request may time out, bytes.
const MAX_SINGLE_PUT: usize = 64 << 20;
/// The size of a part, bytes; S3 requires at least 5 MiB.
const PART_SIZE: usize = 16 << 20;
/// Parts uploaded concurrently.
const CONCURRENT_PARTS: usize = 4;
/// The delay before a retry while another write of the same key is in flight.
const CONFLICT_DELAY: Duration = Duration::from_millis(200);

/// The bucket.
#[derive(Debug)]
pub struct Store {
    client: Client,
    bucket: String,
    /// The checksum of parts. AWS requires it to be declared with the upload; other servers may not
    /// support it.
    part_checksum: Option<ChecksumAlgorithm>,
}

/// An object to write.
#[derive(Clone, Debug)]
pub struct Object {
    /// The whole body.
    pub body: Bytes,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The `x-amz-meta-…` headers.
    pub metadata: HashMap<String, String>,
}

/// The outcome of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is written.
    Written,
    /// The key exists already: another worker's object, or ours whose reply was lost.
    Taken,
}

/// A failed request, with the reply's status if there was a reply.
struct RequestError {
    status: Option<u16>,
    error: anyhow::Error,
}

impl<E: std::error::Error + Send + Sync + 'static> From<SdkError<E>> for RequestError {
    fn from(error: SdkError<E>) -> Self {
        Self {
            status: error
                .raw_response()
                .map(|response| response.status().as_u16()),
            error: anyhow::Error::new(error),
        }
    }
}

impl Store {
    /// Opens the zone's bucket and creates it when absent. Probes conditional writes first, with an
    /// object that `owner` names.
    pub async fn open(zone: &RawZone, owner: &str) -> Result<Self, SinkError> {
        let client = s3::client(&zone.s3)?;
        s3::ensure_bucket(&client, &zone.s3, &zone.bucket).await?;
        let part_checksum = zone
            .s3
            .endpoint
            .is_none()
            .then_some(ChecksumAlgorithm::Crc32);
        let store = Self {
            client,
            bucket: zone.bucket.clone(),
            part_checksum,
        };
        let key = raw_zone::joined(&zone.prefix, &format!("_index/probe-{owner}"));
        store
            .probe(&key, zone.s3.endpoint.as_deref().unwrap_or("AWS"))
            .await?;
        Ok(store)
    }

    /// The `s3://…` URL of a key, for messages.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Writes one key twice; the store must refuse the second write.
    async fn probe(&self, key: &str, endpoint: &str) -> Result<(), SinkError> {
        let object = Object {
            body: Bytes::from_static(
                b"pinpipe writes this twice, and the store must refuse the second\n",
            ),
            content_type: "text/plain",
            metadata: HashMap::new(),
        };
        let mut written = 0;
        while written < 2 {
            match self.put_single(key, &object).await {
                Ok(()) => written += 1,
                Err(RequestError {
                    status: Some(412), ..
                }) => return Ok(()),
                Err(RequestError {
                    status: Some(409), ..
                }) => tokio::time::sleep(CONFLICT_DELAY).await,
                Err(RequestError {
                    status: Some(501), ..
                }) => break,
                Err(RequestError { error, .. }) => {
                    return Err(error
                        .context(format!("can't write {}", self.url(key)))
                        .into());
                }
            }
        }
        Err(Halt::StoreUnsuitable(format!(
            "the object store {endpoint} does not honour If-None-Match: it wrote {} over what was \
             there. Two workers could replace each other's objects, so nothing is archived. Use a \
             store with conditional writes, or a version of it that has them, in \
             spec.archive.s3.endpoint",
            self.url(key)
        ))
        .into())
    }

    /// The raw objects of a partition, in the log's order.
    pub async fn list(
        &self,
        prefix: &str,
        partition: &RawPartition,
    ) -> anyhow::Result<Vec<RawObject>> {
        raw_zone::list(&self.client, &self.bucket, prefix, partition, 0).await
    }

    /// The metadata of a raw object; none if the object does not exist.
    pub async fn facts(&self, key: &str) -> Result<Option<ObjectMetadata>, SinkError> {
        raw_zone::object_metadata(&self.client, &self.bucket, key)
            .await
            .map_err(|error| {
                if error
                    .chain()
                    .any(<dyn std::error::Error>::is::<raw_zone::MetadataError>)
                {
                    Halt::PositionUnreadable(format!(
                        "{error:#}. Move it out of the archive's prefix to go on"
                    ))
                    .into()
                } else {
                    SinkError::Unavailable(error)
                }
            })
    }

    /// Reads a JSON document; none if the object does not exist.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> anyhow::Result<Option<T>> {
        documents::get(&self.client, &self.bucket, key).await
    }

    /// Writes a JSON document, replacing an existing one.
    pub async fn put_json(&self, key: &str, document: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_vec(document)?;
        Ok(documents::put(&self.client, &self.bucket, key, text).await?)
    }

    /// Writes a raw object unless its key exists.
    pub async fn create(&self, key: &str, object: &Object) -> Result<Put, SinkError> {
        loop {
            let written = if object.body.len() > MAX_SINGLE_PUT {
                self.put_parts(key, object).await
            } else {
                self.put_single(key, object).await
            };
            let Err(failed) = written else {
                return Ok(Put::Written);
            };
            match failed.status {
                Some(412) => return Ok(Put::Taken),
                // Another conditional write of this key is in flight: wait for its outcome.
                Some(409) => tokio::time::sleep(CONFLICT_DELAY).await,
                _ => {}
            }
            // The object may be written although the reply was lost.
            if self.facts(key).await?.is_some() {
                return Ok(Put::Taken);
            }
            if failed.status != Some(409) {
                return Err(failed
                    .error
                    .context(format!("can't write {}", self.url(key)))
                    .into());
            }
        }
    }

    async fn put_single(&self, key: &str, object: &Object) -> Result<(), RequestError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .if_none_match("*");
        put.content_type(object.content_type)
            .set_metadata(Some(object.metadata.clone()))
            .body(ByteStream::from(object.body.clone()))
            .send()
            .await?;
        Ok(())
    }

    /// Uploads in parts. The condition applies to the last request, which makes the object visible.
    async fn put_parts(&self, key: &str, object: &Object) -> Result<(), RequestError> {
        let create = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key);
        let created = create
            .content_type(object.content_type)
            .set_metadata(Some(object.metadata.clone()))
            .set_checksum_algorithm(self.part_checksum.clone())
            .send()
            .await?;
        let mut upload = Upload::new(self, key, &created)?;
        let parts: Vec<CompletedPart> = stream::iter(parts(object.body.len()))
            .map(|(number, part)| upload.send(number, object.body.slice(part)))
            .buffered(CONCURRENT_PARTS)
            .try_collect()
            .await?;
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(&upload.id);
        complete
            .if_none_match("*")
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .send()
            .await?;
        upload.completed = true;
        Ok(())
    }
}

/// The numbers, from 1, and byte ranges of the parts of `length` bytes.
fn parts(length: usize) -> impl Iterator<Item = (i32, std::ops::Range<usize>)> {
    (1..).zip(
        (0..length)
            .step_by(PART_SIZE)
            .map(move |start| start..length.min(start + PART_SIZE)),
    )
}

/// A multipart upload. It is aborted when dropped before completion, after an error or a
/// revocation, so that the store doesn't keep its parts.
struct Upload {
    client: Client,
    bucket: String,
    key: String,
    id: String,
    completed: bool,
}

impl Upload {
    fn new(
        store: &Store,
        key: &str,
        created: &CreateMultipartUploadOutput,
    ) -> Result<Self, RequestError> {
        let id = created.upload_id().ok_or_else(|| RequestError {
            status: None,
            error: anyhow!("the store returned no id for a multipart upload"),
        })?;
        Ok(Self {
            client: store.client.clone(),
            bucket: store.bucket.clone(),
            key: key.to_owned(),
            id: id.to_owned(),
            completed: false,
        })
    }

    async fn send(&self, number: i32, body: Bytes) -> Result<CompletedPart, RequestError> {
        let part = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(&self.key)
            .upload_id(&self.id);
        let sent = part
            .part_number(number)
            .body(ByteStream::from(body))
            .send()
            .await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .build())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let abort = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(&self.key)
            .upload_id(&self.id);
        let url = format!("s3://{}/{}", self.bucket, self.key);
        runtime.spawn(async move {
            if let Err(error) = abort.send().await {
                let error = anyhow::Error::new(error);
                tracing::debug!(
                    error = format!("{error:#}"),
                    url,
                    "a multipart upload could not be aborted"
                );
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_object_without_gaps_and_only_the_last_is_smaller() {
        for (length, count) in [
            (MAX_SINGLE_PUT + 1, 5),
            (5 * PART_SIZE, 5),
            (PART_SIZE - 1, 1),
        ] {
            let parts: Vec<_> = parts(length).collect();
            assert_eq!(parts.len(), count);
            let mut end = 0;
            for (number, (given, part)) in (1..).zip(&parts) {
                assert_eq!((*given, part.start), (number, end));
                assert!(part.len() == PART_SIZE || part.end == length);
                end = part.end;
            }
            assert_eq!(end, length);
        }
    }
}
