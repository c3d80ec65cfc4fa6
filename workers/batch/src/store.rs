//! The bucket: JSON documents, files and listings.
//!
//! Unless documented otherwise, each call retries while the store is unavailable, for a bounded
//! time. All calls are idempotent.

use std::path::Path;

use anyhow::{Result, ensure};
use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
    types::{Delete, Object, ObjectIdentifier, ObjectStorageClass, OptionalObjectAttributes},
};
use bytes::Bytes;
use pinpipe_config::RawZone;
use pinpipe_runtime::{
    documents,
    raw_zone::{self, ObjectMetadata, RawPartition},
    s3::{self, RequestError},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::AsyncWriteExt as _;

use crate::{
    failure::Permanent,
    retry::{RETRY_TIMEOUT, retry},
};

/// Most keys of one `DeleteObjects` request, by the S3 API.
pub const MAX_KEYS_PER_DELETE: usize = 1000;

/// A pipeline's bucket.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    bucket: String,
    prefix: String,
    /// Whether the store knows the checksums of what is written.
    checksums: bool,
}

/// An object in a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedObject {
    /// Key.
    pub key: String,
    /// When the object was written, milliseconds since the epoch by the store's clock.
    pub modified: i64,
    /// Size, bytes.
    pub bytes: u64,
    /// Changes with the content.
    pub etag: Option<String>,
    /// Whether it can't be read before it is restored from an archive class.
    pub is_archived: bool,
}

impl ListedObject {
    fn new(object: Object) -> Option<Self> {
        let modified = object.last_modified.and_then(|time| time.to_millis().ok());
        let bytes = object.size.and_then(|size| u64::try_from(size).ok());
        let is_restored = object
            .restore_status
            .is_some_and(|status| status.restore_expiry_date.is_some());
        let is_archived = matches!(
            object.storage_class,
            Some(ObjectStorageClass::Glacier | ObjectStorageClass::DeepArchive)
        );
        Some(Self {
            key: object.key?,
            modified: modified.unwrap_or_default(),
            bytes: bytes.unwrap_or_default(),
            etag: object.e_tag,
            is_archived: is_archived && !is_restored,
        })
    }
}

impl Store {
    /// Opens the bucket, and creates it if it doesn't exist.
    pub async fn open(zone: &RawZone) -> Result<Self> {
        let client = s3::client(&zone.s3).await.map_err(Permanent::from)?;
        s3::ensure_bucket(&client, &zone.s3, &zone.bucket).await?;
        let store = Self {
            client: s3::with_checksums(&client),
            bucket: zone.bucket.clone(),
            prefix: zone.prefix.clone(),
            checksums: true,
        };
        if zone.s3.endpoint.is_none() || store.takes_checksums().await? {
            return Ok(store);
        }
        Ok(Self {
            client,
            checksums: false,
            ..store
        })
    }

    /// Opens the bucket to read from it. Nothing is created, and a missing bucket is an error of
    /// each request.
    pub async fn open_to_read(zone: &RawZone) -> Result<Self> {
        let client = s3::client(&zone.s3).await.map_err(Permanent::from)?;
        Ok(Self {
            prefix: zone.prefix.clone(),
            ..Self::of_others(client, zone.bucket.clone())
        })
    }

    /// A bucket that is only read.
    pub const fn of_others(client: Client, bucket: String) -> Self {
        Self {
            client,
            bucket,
            prefix: String::new(),
            checksums: false,
        }
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Where an object is, for people.
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Whether the store takes an object with a checksum.
    async fn takes_checksums(&self) -> Result<bool> {
        let key = raw_zone::joined(&self.prefix, "_index/probe-batch");
        retry(RETRY_TIMEOUT, "probing the store", || async {
            let put = self.client.put_object().bucket(&self.bucket).key(&key);
            let put = put
                .if_none_match("*")
                .content_type("text/plain")
                .body(ByteStream::from_static(b"pinpipe probes checksums\n"));
            let Err(error) = put.send().await else {
                return Ok(true);
            };
            let error = RequestError::new(&self.bucket, &key, "can't be written", &error);
            match error.status {
                Some(412) => Ok(true),
                status if s3::may_refuse_checksum(status, error.class) => Ok(false),
                _ => Err(error.into()),
            }
        })
        .await
    }

    /// The key prefix of the archive's raw objects.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All objects under `prefix`, in the store's order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>> {
        self.listed(prefix, None).await
    }

    /// As [`Self::list`], and whether objects of an archive class are restored, which not every
    /// store knows to be a question.
    pub async fn list_others(&self, prefix: &str) -> Result<Vec<ListedObject>> {
        self.listed(prefix, Some(vec![OptionalObjectAttributes::RestoreStatus]))
            .await
    }

    async fn listed(
        &self,
        prefix: &str,
        attributes: Option<Vec<OptionalObjectAttributes>>,
    ) -> Result<Vec<ListedObject>> {
        retry(RETRY_TIMEOUT, "listing", || async {
            let mut pages = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_optional_object_attributes(attributes.clone())
                .into_paginator()
                .send();
            let mut found = Vec::new();
            while let Some(page) = pages.next().await {
                let page =
                    page.map_err(|error| self.request_error("can't be listed", prefix, &error))?;
                let objects = page.contents.unwrap_or_default();
                found.extend(objects.into_iter().filter_map(ListedObject::new));
            }
            Ok(found)
        })
        .await
    }

    /// The archive's raw objects of one partition that begin at `from` or later, and perhaps
    /// earlier ones, in log order.
    pub async fn raw_objects(
        &self,
        partition: &RawPartition,
        from: i64,
    ) -> Result<Vec<raw_zone::RawObject>> {
        retry(RETRY_TIMEOUT, "listing raw objects", || {
            raw_zone::list(&self.client, &self.bucket, &self.prefix, partition, from)
        })
        .await
    }

    /// The partitions of a topic that have raw objects, in order.
    pub async fn raw_partitions(&self, topic: &str) -> Result<Vec<RawPartition>> {
        retry(RETRY_TIMEOUT, "listing partitions", || {
            raw_zone::partitions(&self.client, &self.bucket, &self.prefix, topic)
        })
        .await
    }

    /// An object's metadata and body, without retries: a caller that fails while it reads the body
    /// has to retry the whole request.
    pub async fn get_once(&self, key: &str) -> Result<GetObjectOutput> {
        let got = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await;
        got.map_err(|error| self.request_error("can't be read", key, &error))
    }

    /// A JSON document, without retries.
    pub async fn get_json_once<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let found = documents::get(&self.client, &self.bucket, key).await?;
        found.ok_or_else(|| {
            Permanent(format!("there is no object s3://{}/{key}", self.bucket)).into()
        })
    }

    /// A JSON document.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        retry(RETRY_TIMEOUT, "reading a document", || {
            self.get_json_once(key)
        })
        .await
    }

    /// A JSON document, or `None` if there is no object with this key.
    pub async fn find_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        retry(RETRY_TIMEOUT, "reading a document", || {
            documents::get(&self.client, &self.bucket, key)
        })
        .await
    }

    /// Writes a JSON document; replaces an existing object.
    pub async fn put_json<T: Serialize>(&self, key: &str, document: &T) -> Result<()> {
        let text = serde_json::to_vec_pretty(document)?;
        retry(RETRY_TIMEOUT, "writing a document", || async {
            Ok(documents::put(&self.client, &self.bucket, key, text.clone()).await?)
        })
        .await
    }

    /// Writes a JSON document if there is no object with this key, and returns whether it did. If
    /// the response to a first attempt is lost, it returns false although it wrote the object.
    pub async fn create_json<T: Serialize>(&self, key: &str, document: &T) -> Result<bool> {
        // Without indentation: it may have half a million entries.
        let bytes = Bytes::from(serde_json::to_vec(document)?);
        retry(RETRY_TIMEOUT, "writing a document", || async {
            let put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key)
                .content_type("application/json");
            match put
                .if_none_match("*")
                .body(ByteStream::from(bytes.clone()))
                .send()
                .await
            {
                Ok(_) => Ok(true),
                Err(error) if status(&error) == Some(412) => Ok(false),
                Err(error) => Err(self.request_error("can't be written", key, &error)),
            }
        })
        .await
    }

    /// Uploads a file, replacing an existing object, and returns its size in bytes.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<u64> {
        retry(RETRY_TIMEOUT, "writing an object", || async {
            let bytes = tokio::fs::metadata(path).await?.len();
            let checksum = if self.checksums {
                let path = path.to_owned();
                Some(tokio::task::spawn_blocking(move || s3::crc32(&path)).await??)
            } else {
                None
            };
            let body = ByteStream::from_path(path).await?;
            let put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key)
                .set_checksum_crc32(checksum)
                .body(body)
                .send()
                .await;
            put.map_err(|error| self.request_error("can't be written", key, &error))?;
            Ok(bytes)
        })
        .await
    }

    /// Downloads an object into a file.
    pub async fn get_file(&self, key: &str, path: &Path) -> Result<()> {
        retry(RETRY_TIMEOUT, "reading an object", || async {
            let mut body = self.get_once(key).await?.body.into_async_read();
            let mut file = tokio::fs::File::create(path).await?;
            tokio::io::copy(&mut body, &mut file).await?;
            file.flush().await?;
            Ok(())
        })
        .await
    }

    /// Deletes up to [`MAX_KEYS_PER_DELETE`] objects, without retries. Keys without an object are
    /// no error.
    pub async fn delete(&self, keys: &[String]) -> Result<()> {
        let ids = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key).build())
            .collect::<Result<Vec<_>, _>>()?;
        let all = Delete::builder()
            .set_objects(Some(ids))
            .quiet(true)
            .build()?;
        let deleted = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(all)
            .send()
            .await;
        let deleted =
            deleted.map_err(|error| self.request_error("can't be deleted", &keys[0], &error))?;
        // The response's status is 200 even if no object could be deleted.
        let failed = deleted.errors();
        ensure!(
            failed.is_empty(),
            "{} of {} objects can't be deleted; the first is s3://{}/{}: {}: {}",
            failed.len(),
            keys.len(),
            self.bucket,
            failed[0].key().unwrap_or_default(),
            failed[0].code().unwrap_or_default(),
            failed[0].message().unwrap_or_default()
        );
        Ok(())
    }

    /// The metadata of a raw object; `None` if it doesn't exist.
    pub async fn raw_metadata(&self, key: &str) -> Result<Option<ObjectMetadata>> {
        retry(RETRY_TIMEOUT, "reading a raw object's metadata", || {
            raw_zone::object_metadata(&self.client, &self.bucket, key)
        })
        .await
    }

    fn request_error<E>(&self, what: &'static str, key: &str, error: &SdkError<E>) -> anyhow::Error
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        RequestError::new(&self.bucket, key, what, error).into()
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error
        .raw_response()
        .map(|response| response.status().as_u16())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::{primitives::DateTime, types::RestoreStatus};

    use super::*;

    #[test]
    fn an_object_of_an_archive_class_is_readable_once_it_is_restored() {
        let listed = |class: &str, restored: bool| {
            let status = restored.then(|| {
                RestoreStatus::builder()
                    .restore_expiry_date(DateTime::from_secs(1))
                    .build()
            });
            let object = Object::builder()
                .key("k")
                .storage_class(class.into())
                .set_restore_status(status);
            ListedObject::new(object.build()).unwrap().is_archived
        };
        for class in ["GLACIER", "DEEP_ARCHIVE"] {
            assert!(listed(class, false) && !listed(class, true), "{class}");
        }
        assert!(!listed("STANDARD", false) && !listed("GLACIER_IR", false));
    }
}

#[cfg(test)]
mod server_tests;
