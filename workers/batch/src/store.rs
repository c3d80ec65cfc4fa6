//! The bucket: JSON documents, files and listings. What runs share stands under
//! `runs/<namespace>.<pipeline>/`.
//!
//! Each call waits for a store that is away, for a bounded time. All of them may be repeated.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aws_sdk_s3::{
    Client,
    error::{DisplayErrorContext, SdkError},
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
    types::{Delete, ObjectIdentifier},
};
use pinpipe_config::RawZone;
use pinpipe_runtime::raw_zone::{self, Facts, RawPartition};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::AsyncWriteExt as _;

use crate::retry::{Hopeless, PATIENCE, patiently};

/// Objects deleted by one request.
const MOST_DELETED: usize = 1000;

/// The bucket of a pipeline's raw zone.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    bucket: String,
    prefix: String,
}

/// An object as a listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// When it was written, milliseconds since the epoch by the store's clock.
    pub modified: i64,
    /// Its size.
    pub bytes: u64,
}

impl Store {
    /// The bucket of the raw zone; made when absent.
    pub async fn open(zone: &RawZone) -> Result<Self> {
        let client = pinpipe_runtime::s3::client(&zone.s3)?;
        pinpipe_runtime::s3::ensure_bucket(&client, &zone.s3, &zone.bucket).await?;
        Ok(Self {
            client,
            bucket: zone.bucket.clone(),
            prefix: zone.prefix.clone(),
        })
    }

    /// The prefix of the archive's raw objects.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All objects under `prefix`, in the store's order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        patiently(PATIENCE, "listing", || async {
            let mut pages = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .into_paginator()
                .send();
            let mut found = Vec::new();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| self.failed("can't be listed", prefix, &error))?;
                found.extend(
                    page.contents
                        .unwrap_or_default()
                        .into_iter()
                        .filter_map(|object| {
                            let modified = object
                                .last_modified
                                .and_then(|time| time.to_millis().ok())
                                .unwrap_or_default();
                            let bytes = object
                                .size
                                .and_then(|size| u64::try_from(size).ok())
                                .unwrap_or_default();
                            Some(Listed {
                                key: object.key?,
                                modified,
                                bytes,
                            })
                        }),
                );
            }
            Ok(found)
        })
        .await
    }

    /// The raw objects of one partition, in the log's order.
    pub async fn raw_objects(&self, partition: &RawPartition) -> Result<Vec<raw_zone::RawObject>> {
        patiently(PATIENCE, "listing raw objects", || {
            raw_zone::list(&self.client, &self.bucket, &self.prefix, partition)
        })
        .await
    }

    /// An object's metadata and body, not waiting for a store that is away: who reads the body has
    /// to begin again anyway.
    pub async fn get_once(&self, key: &str) -> Result<GetObjectOutput> {
        let got = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await;
        got.map_err(|error| self.failed("can't be read", key, &error))
    }

    /// A JSON document, not waiting either.
    pub async fn get_json_once<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let body = self.get_once(key).await?.body.collect().await;
        let bytes = body
            .with_context(|| format!("s3://{}/{key} can't be read to its end", self.bucket))?
            .into_bytes();
        serde_json::from_slice(&bytes).map_err(|error| {
            Hopeless(format!(
                "s3://{}/{key} is not what it should be: {error}",
                self.bucket
            ))
            .into()
        })
    }

    /// A JSON document.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        patiently(PATIENCE, "reading a document", || self.get_json_once(key)).await
    }

    /// A JSON document, or none where the key is absent.
    pub async fn find_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let listed = self.list(key).await?;
        if listed.iter().any(|object| object.key == key) {
            self.get_json(key).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Writes a JSON document, over what may be there.
    pub async fn put_json<T: Serialize>(&self, key: &str, document: &T) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(document)?;
        patiently(PATIENCE, "writing a document", || async {
            let put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key)
                .content_type("application/json");
            let put = put.body(ByteStream::from(bytes.clone())).send().await;
            put.map_err(|error| self.failed("can't be written", key, &error))?;
            Ok(())
        })
        .await
    }

    /// Writes a JSON document where the key is absent, and says whether it was. Said no, what is
    /// there may still be our own: when the answer to a first attempt was lost.
    pub async fn create_json<T: Serialize>(&self, key: &str, document: &T) -> Result<bool> {
        let bytes = serde_json::to_vec_pretty(document)?;
        patiently(PATIENCE, "writing a document", || async {
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
                Err(error) => Err(self.failed("can't be written", key, &error)),
            }
        })
        .await
    }

    /// Writes a file as an object, over what may be there; gives its size.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<u64> {
        patiently(PATIENCE, "writing an object", || async {
            let bytes = tokio::fs::metadata(path).await?.len();
            let body = ByteStream::from_path(path).await?;
            let put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key)
                .body(body)
                .send()
                .await;
            put.map_err(|error| self.failed("can't be written", key, &error))?;
            Ok(bytes)
        })
        .await
    }

    /// Reads an object into a file.
    pub async fn get_file(&self, key: &str, path: &Path) -> Result<()> {
        patiently(PATIENCE, "reading an object", || async {
            let mut body = self.get_once(key).await?.body.into_async_read();
            let mut file = tokio::fs::File::create(path).await?;
            tokio::io::copy(&mut body, &mut file).await?;
            file.flush().await?;
            Ok(())
        })
        .await
    }

    /// Deletes objects; those that are not there are no error.
    pub async fn delete(&self, keys: &[String]) -> Result<()> {
        for keys in keys.chunks(MOST_DELETED) {
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
            deleted.map_err(|error| self.failed("can't be deleted", &keys[0], &error))?;
        }
        Ok(())
    }

    /// What the metadata of a raw object says.
    pub async fn raw_facts(&self, key: &str) -> Result<Option<Facts>> {
        patiently(PATIENCE, "reading a raw object's metadata", || {
            raw_zone::facts(&self.client, &self.bucket, key)
        })
        .await
    }

    fn failed<E: std::error::Error + 'static>(
        &self,
        what: &str,
        key: &str,
        error: &SdkError<E>,
    ) -> anyhow::Error {
        let text = format!(
            "s3://{}/{key} {what}: {}",
            self.bucket,
            DisplayErrorContext(error)
        );
        match status(error) {
            // 408 and 429: later; 409: another write to the key was under way.
            Some(408 | 409 | 429) | None => anyhow!(text),
            Some(code) if code < 500 => Hopeless(text).into(),
            Some(_) => anyhow!(text),
        }
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error
        .raw_response()
        .map(|response| response.status().as_u16())
}
