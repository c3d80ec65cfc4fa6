//! The archive's bucket. Objects are created and never replaced, which the store must ensure.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::{Compression, RawZone};
use pinpipe_runtime::{
    compressed, documents,
    raw_zone::{self, ObjectMetadata, RawObject, RawPartition},
    s3::{self, RequestError},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    failure::unread,
    last::{Found, LONG_KEYS, Page, Search},
    upload::Upload,
};
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
    /// The checksum of what is written, which a bucket with object lock asks for; none where the
    /// store doesn't know it.
    checksum: Option<ChecksumAlgorithm>,
    /// Whether it is asked to encrypt with a key.
    encrypts: bool,
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

/// What a probe found out about the store.
enum Probed {
    Suitable,
    /// It refuses requests with a checksum.
    WithoutChecksums,
    /// It ignores the condition of this operation, or refuses it.
    Unconditional {
        operation: &'static str,
        refused: bool,
    },
}

const PUT: &str = "PutObject";
const COMPLETE: &str = "CompleteMultipartUpload";

/// What an object can't be if a write fails.
const WRITTEN: &str = "can't be written";

impl Store {
    /// Opens the zone's bucket and creates it when absent. Probes conditional writes first, with an
    /// object that `owner` names.
    pub async fn open(client: Client, zone: &RawZone, owner: &str) -> Result<Self, SinkError> {
        s3::ensure_bucket(&client, &zone.s3, &zone.bucket).await?;
        let mut store = Self {
            client: s3::with_checksums(&client),
            bucket: zone.bucket.clone(),
            checksum: Some(ChecksumAlgorithm::Crc32),
            encrypts: zone.s3.kms_key_id.is_some(),
        };
        let key = raw_zone::joined(&zone.prefix, &format!("_index/probe-{owner}"));
        let endpoint = zone.s3.endpoint.as_deref().unwrap_or("AWS");
        loop {
            match store.probe(&key).await? {
                Probed::Suitable => return Ok(store),
                Probed::WithoutChecksums => {
                    tracing::info!(
                        endpoint,
                        "the object store refuses checksums: none are sent"
                    );
                    (store.client, store.checksum) = (client.clone(), None);
                }
                Probed::Unconditional { operation, refused } => {
                    let what = if refused {
                        "it answers 501 (NotImplemented)".to_owned()
                    } else {
                        format!("it wrote {} over what was there", store.url(&key))
                    };
                    return Err(Halt::StoreUnsuitable(format!(
                        "the object store {endpoint} does not honour If-None-Match in {operation}: \
                         {what}. Two workers could replace each other's objects, so nothing is \
                         archived. Use a store with conditional writes, or a version of it that \
                         has them, in spec.archive.s3.endpoint"
                    ))
                    .into());
                }
            }
        }
    }

    /// Writes a key that exists, in both ways; the store must refuse that.
    async fn probe(&self, key: &str) -> Result<Probed, SinkError> {
        let object = Object {
            body: Bytes::from_static(
                b"pinpipe writes this twice, and the store must refuse the second\n",
            ),
            content_type: "text/plain",
            metadata: HashMap::new(),
        };
        // The first write of all may create the object.
        for (operation, mut allowed) in [(PUT, 1), (COMPLETE, 0)] {
            loop {
                let written = if operation == PUT {
                    self.put_single(key, &object).await
                } else {
                    self.put_parts(key, &object).await
                };
                let unconditional = |refused| Probed::Unconditional { operation, refused };
                match written.map_err(|error| (error.status, error)) {
                    Ok(()) if allowed == 0 => return Ok(unconditional(false)),
                    Ok(()) => allowed -= 1,
                    Err((Some(412), _)) => break,
                    Err((Some(409), _)) => tokio::time::sleep(CONFLICT_DELAY).await,
                    Err((status, error))
                        if self.checksum.is_some()
                            && s3::may_refuse_checksum(status, error.class) =>
                    {
                        return Ok(Probed::WithoutChecksums);
                    }
                    Err((Some(501), error)) if !error.is_about_encryption() => {
                        return Ok(unconditional(true));
                    }
                    Err((_, error)) if self.encrypts => return Err(error.of_encryption().into()),
                    Err((_, error)) => return Err(error.into()),
                }
            }
        }
        Ok(Probed::Suitable)
    }

    /// The `s3://…` URL of a key, for messages.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// The raw object of a partition with the highest position in its key.
    pub async fn last_object(
        &self,
        prefix: &str,
        partition: &RawPartition,
    ) -> Result<Option<RawObject>, SinkError> {
        let mut search = Search::new();
        let found = loop {
            let Some(at) = search.next() else {
                break search.finish();
            };
            let page = self.page(prefix, partition, at).await?;
            if let Some(found) = search.take(at, page) {
                break found;
            }
        };
        match found {
            // Behind it may be one with a longer key.
            Found::Last(Some(object)) if object.first >= LONG_KEYS / 2 => {}
            Found::Last(object) => return Ok(object),
            Found::LongKeys => {}
        }
        let objects = raw_zone::list(&self.client, &self.bucket, prefix, partition, 0).await;
        Ok(objects.map_err(unread)?.into_iter().next_back())
    }

    /// All keys that begin with `prefix`.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, SinkError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let mut pages = request.prefix(prefix).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(self.request_error(prefix, "can't be listed"))?;
            let found = page.contents().iter().filter_map(|object| object.key());
            keys.extend(found.map(str::to_owned));
        }
        Ok(keys)
    }

    /// A page of a partition's raw objects, in the order of the store, from the first whose key
    /// holds at least `after`.
    async fn page(
        &self,
        prefix: &str,
        partition: &RawPartition,
        after: i64,
    ) -> Result<Page, SinkError> {
        let folder = partition.folder(prefix);
        // Without its suffix a key comes before all that begin with it.
        let key = partition.object_key(prefix, after, Compression::None);
        let start = key.strip_suffix(compressed::suffix(Compression::None));
        let mut start = start.unwrap_or(&key).to_owned();
        loop {
            let request = self.client.list_objects_v2().bucket(&self.bucket);
            let listed = request.prefix(&folder).start_after(&start).send().await;
            let listed = listed.map_err(self.request_error(&folder, "can't be listed"))?;
            let is_last = listed.is_truncated() != Some(true);
            let keys = || listed.contents().iter().filter_map(|object| object.key());
            let objects: Vec<RawObject> = keys()
                .filter_map(|key| {
                    Some(RawObject {
                        first: partition.first_offset(prefix, key)?,
                        key: key.to_owned(),
                        bytes: 0,
                    })
                })
                .collect();
            match keys().next_back() {
                // Only foreign objects so far.
                Some(key) if objects.is_empty() && !is_last => key.clone_into(&mut start),
                _ => return Ok(Page { objects, is_last }),
            }
        }
    }

    /// The metadata of a raw object; none if the object does not exist.
    pub async fn facts(&self, key: &str) -> Result<Option<ObjectMetadata>, SinkError> {
        let facts = raw_zone::object_metadata(&self.client, &self.bucket, key).await;
        facts.map_err(unread)
    }

    /// Reads a JSON document; none if the object does not exist.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SinkError> {
        let document = documents::get(&self.client, &self.bucket, key).await;
        document.map_err(unread)
    }

    /// Writes a JSON document, replacing an existing one.
    pub async fn put_json(&self, key: &str, document: &impl Serialize) -> Result<(), SinkError> {
        let text = serde_json::to_vec(document).context("JSON")?;
        Ok(documents::put(&self.client, &self.bucket, key, text).await?)
    }

    /// Writes a JSON document unless its key exists.
    pub async fn create_json(
        &self,
        key: &str,
        document: &impl Serialize,
    ) -> Result<Put, SinkError> {
        let object = Object {
            body: serde_json::to_vec(document).context("JSON")?.into(),
            content_type: "application/json",
            metadata: HashMap::new(),
        };
        match self.put_single(key, &object).await {
            Ok(()) => Ok(Put::Written),
            Err(RequestError {
                status: Some(409 | 412),
                ..
            }) => Ok(Put::Taken),
            Err(failed) => Err(failed.into()),
        }
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
                return Err(failed.into());
            }
        }
    }

    async fn put_single(&self, key: &str, object: &Object) -> Result<(), RequestError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .if_none_match("*")
            .set_checksum_algorithm(self.checksum.clone());
        put.content_type(object.content_type)
            .set_metadata(Some(object.metadata.clone()))
            .body(ByteStream::from(object.body.clone()))
            .send()
            .await
            .map_err(self.request_error(key, WRITTEN))?;
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
            .set_checksum_algorithm(self.checksum.clone())
            .send()
            .await
            .map_err(self.request_error(key, WRITTEN))?;
        let mut upload = Upload::new(
            (&self.client, &self.bucket),
            key,
            self.checksum.clone(),
            // The client refuses to send parts without an id.
            created.upload_id.unwrap_or_default(),
        );
        match self.fill(&upload, key, object).await {
            Ok(()) => {
                upload.ended = true;
                Ok(())
            }
            Err(error) => {
                if error.status.is_some() {
                    upload.abort().await;
                }
                Err(error)
            }
        }
    }

    /// Sends the parts of an upload and completes it.
    async fn fill(&self, upload: &Upload, key: &str, object: &Object) -> Result<(), RequestError> {
        let parts: Vec<CompletedPart> = stream::iter(parts(object.body.len()))
            .map(|(number, part)| upload.send(number, object.body.slice(part)))
            .buffered(CONCURRENT_PARTS)
            .try_collect()
            .await
            .map_err(self.request_error(key, WRITTEN))?;
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
            .await
            .map_err(self.request_error(key, WRITTEN))?;
        Ok(())
    }

    fn request_error<E>(
        &self,
        key: &str,
        what: &'static str,
    ) -> impl FnOnce(SdkError<E>) -> RequestError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        move |error| RequestError::new(&self.bucket, key, what, &error)
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
