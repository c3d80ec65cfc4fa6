//! The bucket as the archive uses it: objects are created, never replaced, and the store must see
//! to that.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, anyhow};
use aws_sdk_s3::{
    Client,
    error::SdkError,
    operation::{create_multipart_upload::CreateMultipartUploadOutput, get_object::GetObjectError},
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::RawZone;
use pinpipe_runtime::{
    raw_zone::{self, Facts, RawObject, RawPartition},
    s3,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::sink::{Halt, SinkError};

/// Objects over this size are sent in parts: a request of more may not get through in its time.
const WHOLE: usize = 64 << 20;
/// A part's size; S3 wants 5 MiB at least.
const PART: usize = 16 << 20;
/// Parts sent at once.
const PARTS_AT_ONCE: usize = 4;
/// How long to wait while another write of the same key is under way.
const CONFLICT: Duration = Duration::from_millis(200);

/// The bucket.
#[derive(Debug)]
pub struct Store {
    client: Client,
    bucket: String,
    /// AWS wants to know it before the first part; other servers may not know it at all.
    part_checksum: Option<ChecksumAlgorithm>,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Object {
    /// All of it.
    pub body: Bytes,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its `x-amz-meta-…`.
    pub metadata: HashMap<String, String>,
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Written,
    /// Something of that key is there already: another worker's, or ours whose answer was lost.
    Taken,
}

/// A request that failed: the answer's status, where there was one.
struct Failed {
    status: Option<u16>,
    error: anyhow::Error,
}

impl<E: std::error::Error + Send + Sync + 'static> From<SdkError<E>> for Failed {
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
    /// The zone's bucket, created when absent. The store is asked for what the archive relies on
    /// before anything is entrusted to it; `owner` names the object that takes.
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

    /// `s3://…` of a key, for people.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Writes one key twice: the second must be refused.
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
            match self.put_whole(key, &object).await {
                Ok(()) => written += 1,
                Err(Failed {
                    status: Some(412), ..
                }) => return Ok(()),
                Err(Failed {
                    status: Some(409), ..
                }) => tokio::time::sleep(CONFLICT).await,
                Err(Failed {
                    status: Some(501), ..
                }) => break,
                Err(Failed { error, .. }) => {
                    return Err(error
                        .context(format!("can't write {}", self.url(key)))
                        .into());
                }
            }
        }
        Err(Halt::StoreUnsuitable(format!(
            "the object store {endpoint} does not honour If-None-Match: it wrote {} over what was there. Two workers could replace \
             each other's objects, so nothing is archived. Use a store with conditional writes, or a version of it that has them, in \
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
        raw_zone::list(&self.client, &self.bucket, prefix, partition).await
    }

    /// The metadata of a raw object; none: no such object.
    pub async fn facts(&self, key: &str) -> Result<Option<Facts>, SinkError> {
        raw_zone::facts(&self.client, &self.bucket, key)
            .await
            .map_err(|error| {
                if error
                    .chain()
                    .any(<dyn std::error::Error>::is::<raw_zone::FactsError>)
                {
                    Halt::PositionUnreadable(format!(
                        "{error:#}. Move it out of the archive's prefix to go on"
                    ))
                    .into()
                } else {
                    SinkError::Away(error)
                }
            })
    }

    /// A JSON document; none: there is no such object.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> anyhow::Result<Option<T>> {
        let object = match self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
        {
            Ok(object) => object,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(GetObjectError::is_no_such_key) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("can't read {}", self.url(key)));
            }
        };
        let bytes = object
            .body
            .collect()
            .await
            .with_context(|| format!("can't read all of {}", self.url(key)))?;
        let document = serde_json::from_slice(&bytes.into_bytes());
        Ok(Some(document.with_context(|| {
            format!("{} is not what it should be", self.url(key))
        })?))
    }

    /// Writes a JSON document, also over what is there.
    pub async fn put_json(&self, key: &str, document: &impl Serialize) -> anyhow::Result<()> {
        let body = serde_json::to_vec(document)?;
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/json");
        put.body(body.into())
            .send()
            .await
            .with_context(|| format!("can't write {}", self.url(key)))?;
        Ok(())
    }

    /// Writes a raw object unless there is one of that key.
    pub async fn create(&self, key: &str, object: &Object) -> Result<Put, SinkError> {
        loop {
            let written = if object.body.len() > WHOLE {
                self.put_parts(key, object).await
            } else {
                self.put_whole(key, object).await
            };
            let Err(failed) = written else {
                return Ok(Put::Written);
            };
            match failed.status {
                Some(412) => return Ok(Put::Taken),
                // Another conditional write of this key is under way: it decides.
                Some(409) => tokio::time::sleep(CONFLICT).await,
                _ => {}
            }
            // The answer may be lost and the object there.
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

    async fn put_whole(&self, key: &str, object: &Object) -> Result<(), Failed> {
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

    /// The condition is that of the last request: until then nothing of that key is to be seen.
    async fn put_parts(&self, key: &str, object: &Object) -> Result<(), Failed> {
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
            .buffered(PARTS_AT_ONCE)
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

/// The parts of `length` bytes: their numbers, from 1, and where they are.
fn parts(length: usize) -> impl Iterator<Item = (i32, std::ops::Range<usize>)> {
    (1..).zip(
        (0..length)
            .step_by(PART)
            .map(move |start| start..length.min(start + PART)),
    )
}

/// An upload in parts. Dropped before it is completed, because of an error or because the partition
/// was taken from us, it is aborted, so that the store keeps no parts that nobody will ever see.
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
    ) -> Result<Self, Failed> {
        let id = created.upload_id().ok_or_else(|| Failed {
            status: None,
            error: anyhow!("the store gave an upload in parts no id"),
        })?;
        Ok(Self {
            client: store.client.clone(),
            bucket: store.bucket.clone(),
            key: key.to_owned(),
            id: id.to_owned(),
            completed: false,
        })
    }

    async fn send(&self, number: i32, body: Bytes) -> Result<CompletedPart, Failed> {
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
                    "an upload in parts was not aborted"
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
        for (length, count) in [(WHOLE + 1, 5), (5 * PART, 5), (PART - 1, 1)] {
            let parts: Vec<_> = parts(length).collect();
            assert_eq!(parts.len(), count);
            let mut end = 0;
            for (number, (given, part)) in (1..).zip(&parts) {
                assert_eq!((*given, part.start), (number, end));
                assert!(part.len() == PART || part.end == length);
                end = part.end;
            }
            assert_eq!(end, length);
        }
    }
}
