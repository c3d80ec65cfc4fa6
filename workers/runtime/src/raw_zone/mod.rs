//! Layout of the raw zone: object keys, metadata and listing. The archive writes raw objects, the
//! batch worker reads them.
//!
//! ```text
//! <prefix>/<topic>/partition=<p>/<topic>+<p>+<first>.json[.gz|.zst]
//!     raw records, one per line
//! <prefix>/_index/<topic>/partition=<p>/<topic>+<p>+<first>+<next>+<lines>.json
//!     offset and timestamp of each line
//! ```
//! `<first>` is the position that the archive resumed from, not the offset of the first line:
//! transaction markers and records that are only in the dead letters have no line. An object covers
//! all offsets `first..next_offset` of its partition, and the next object's `<first>` is that
//! `next_offset`. Compare names as numbers: they have at least ten digits, so the store's
//! lexicographic order is not the log's order. An object without lines is a gap: offsets that a
//! reset told the archive to skip.

use std::{collections::HashMap, str::FromStr};

use anyhow::Context;
use aws_sdk_s3::{Client, operation::head_object::HeadObjectError};
use pinpipe_config::Compression;
use pinpipe_core::Order;
use serde::{Deserialize, Serialize};

use crate::{compressed, s3::RequestError};

/// A topic partition in the raw zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawPartition {
    /// The topic's name. Kafka allows `[a-zA-Z0-9._-]`, so it contains neither `+` nor `/`.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

impl RawPartition {
    /// The key prefix of its raw objects below `prefix`, with a trailing slash.
    #[must_use]
    pub fn folder(&self, prefix: &str) -> String {
        format!(
            "{}partition={}/",
            topic_folder(prefix, &self.topic),
            self.partition
        )
    }

    /// The key of the raw object that begins at `first`.
    #[must_use]
    pub fn object_key(&self, prefix: &str, first: i64, compression: Compression) -> String {
        let suffix = compressed::suffix(compression);
        format!(
            "{}{}+{}+{first:010}{suffix}",
            self.folder(prefix),
            self.topic,
            self.partition
        )
    }

    /// A key before those of all raw objects that begin at `from` or later, in the store's order.
    /// From a thousand million on there is none: a number of eleven digits may come before one of
    /// ten.
    fn start_after(&self, prefix: &str, from: i64) -> Option<String> {
        (1..1_000_000_000).contains(&from).then(|| {
            let folder = self.folder(prefix);
            format!("{folder}{}+{}+{from:010}", self.topic, self.partition)
        })
    }

    /// The key of the index object for the offsets `first..next`, whose raw object has `lines`
    /// lines. The line count is part of the key since two workers that write the same range before
    /// and after the broker compacts it must not replace each other's index.
    #[must_use]
    pub fn index_key(&self, prefix: &str, first: i64, next: i64, lines: usize) -> String {
        format!(
            "{}{}+{}+{first:010}+{next:010}+{lines}.json",
            self.index_folder(prefix),
            self.topic,
            self.partition
        )
    }

    /// The key prefix of its index objects below `prefix`, with a trailing slash.
    #[must_use]
    pub fn index_folder(&self, prefix: &str) -> String {
        self.folder(&joined(prefix, "_index"))
    }

    /// The `<first>` in the key of one of its raw objects, whatever the compression. `None` for
    /// other keys.
    #[must_use]
    pub fn first_offset(&self, prefix: &str, key: &str) -> Option<i64> {
        let (name, _) = compressed::split(key.strip_prefix(&self.folder(prefix))?)?;
        offset(name.strip_prefix(&format!("{}+{}+", self.topic, self.partition))?)
    }
}

/// The `<first>` in a raw object's key, whatever its prefix, topic and partition. `None` for other
/// keys.
#[must_use]
pub fn first_offset(key: &str) -> Option<i64> {
    let (name, _) = compressed::split(key)?;
    offset(name.rsplit('+').next()?)
}

/// Parses the digits of an offset in a key.
fn offset(digits: &str) -> Option<i64> {
    (digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Joins `prefix` and `name` with a slash, or returns `name` if `prefix` is empty.
#[must_use]
pub fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    }
}

/// The key prefix of a topic's raw objects below `prefix`, with a trailing slash.
fn topic_folder(prefix: &str, topic: &str) -> String {
    joined(prefix, topic) + "/"
}

/// Metadata of a raw object (`x-amz-meta-…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMetadata {
    /// The offset after the last one that this object covers. The archive resumes there.
    pub next_offset: i64,
    /// Number of lines.
    pub record_count: u64,
    /// The earliest timestamp of its records, milliseconds since the epoch.
    pub min_time: i64,
    /// The latest timestamp of its records, milliseconds since the epoch.
    pub max_time: i64,
    /// The id of the Kafka cluster.
    pub cluster_id: String,
    /// The topic's id, which changes if the topic is deleted and created again.
    pub topic_id: String,
    /// The key of its index object.
    pub index: String,
}

/// Why a raw object's metadata can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its metadata {problem} {name}: it was not written by this archive")]
pub struct MetadataError {
    name: &'static str,
    problem: &'static str,
}

impl ObjectMetadata {
    /// Converts to object metadata.
    #[must_use]
    pub fn to_metadata(&self) -> HashMap<String, String> {
        [
            ("next-offset", self.next_offset.to_string()),
            ("record-count", self.record_count.to_string()),
            ("min-time", self.min_time.to_string()),
            ("max-time", self.max_time.to_string()),
            ("cluster-id", self.cluster_id.clone()),
            ("topic-id", self.topic_id.clone()),
            ("index", self.index.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Parses object metadata.
    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, MetadataError> {
        Ok(Self {
            next_offset: number(metadata, "next-offset")?,
            record_count: number(metadata, "record-count")?,
            min_time: number(metadata, "min-time")?,
            max_time: number(metadata, "max-time")?,
            cluster_id: text(metadata, "cluster-id")?.to_owned(),
            topic_id: text(metadata, "topic-id")?.to_owned(),
            index: text(metadata, "index")?.to_owned(),
        })
    }
}

fn text<'a>(
    metadata: &'a HashMap<String, String>,
    name: &'static str,
) -> Result<&'a str, MetadataError> {
    metadata.get(name).map(String::as_str).ok_or(MetadataError {
        name,
        problem: "has no",
    })
}

fn number<T: FromStr>(
    metadata: &HashMap<String, String>,
    name: &'static str,
) -> Result<T, MetadataError> {
    text(metadata, name)?.parse().map_err(|_| MetadataError {
        name,
        problem: "has no readable",
    })
}

/// Content of an index object: one entry per line of the raw object, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The offset of each record.
    pub offsets: Vec<i64>,
    /// The timestamp of each record, milliseconds since the epoch.
    pub times: Vec<i64>,
    /// The original order of redriven records, sorted by line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<LineOrder>,
}

/// The order of a redriven record: the position of the original record, not that of its copy in the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineOrder {
    /// The line's number in the raw object, from 0.
    pub line: usize,
    /// The original timestamp, milliseconds since the epoch.
    pub time: i64,
    /// The original partition.
    pub partition: i32,
    /// The original offset.
    pub offset: i64,
}

impl Index {
    /// The order of the record at `line`. `partition` is the raw object's. `None` if there is no
    /// such line.
    #[must_use]
    pub fn order(&self, line: usize, partition: i32) -> Option<Order> {
        let (&offset, &time) = (self.offsets.get(line)?, self.times.get(line)?);
        let own = Order {
            time,
            partition,
            offset,
        };
        Some(
            self.orders
                .binary_search_by_key(&line, |order| order.line)
                .map_or(own, |found| {
                    let LineOrder {
                        time,
                        partition,
                        offset,
                        ..
                    } = self.orders[found];
                    Order {
                        time,
                        partition,
                        offset,
                    }
                }),
        )
    }
}

/// A raw object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawObject {
    /// The object's key.
    pub key: String,
    /// The `<first>` of its key.
    pub first: i64,
    /// The object's size, bytes.
    pub bytes: u64,
}

/// Lists the raw objects of a partition in the log's order: all that begin at `from` or later, and
/// perhaps earlier ones. Fails if the bucket does not exist.
pub async fn list(
    client: &Client,
    bucket: &str,
    prefix: &str,
    partition: &RawPartition,
    from: i64,
) -> anyhow::Result<Vec<RawObject>> {
    let folder = partition.folder(prefix);
    let mut pages = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(&folder)
        .set_start_after(partition.start_after(prefix, from))
        .into_paginator()
        .send();
    let mut objects = Vec::new();
    while let Some(page) = pages.next().await {
        let page =
            page.map_err(|error| RequestError::new(bucket, &folder, "can't be listed", &error))?;
        for object in page.contents() {
            let Some(key) = object.key() else { continue };
            if let Some(first) = partition.first_offset(prefix, key) {
                let bytes = object
                    .size()
                    .and_then(|size| u64::try_from(size).ok())
                    .unwrap_or(0);
                objects.push(RawObject {
                    key: key.to_owned(),
                    first,
                    bytes,
                });
            }
        }
    }
    objects.sort_unstable_by(|a, b| (a.first, &a.key).cmp(&(b.first, &b.key)));
    Ok(objects)
}

/// Lists the partitions of a topic that have raw objects, in order.
pub async fn partitions(
    client: &Client,
    bucket: &str,
    prefix: &str,
    topic: &str,
) -> anyhow::Result<Vec<RawPartition>> {
    let folder = topic_folder(prefix, topic);
    let mut pages = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(&folder)
        .delimiter("/")
        .into_paginator()
        .send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page =
            page.map_err(|error| RequestError::new(bucket, &folder, "can't be listed", &error))?;
        found.extend(page.common_prefixes().iter().filter_map(|common| {
            let number = common
                .prefix()?
                .strip_prefix(&folder)?
                .strip_prefix("partition=")?
                .strip_suffix('/')?;
            Some(RawPartition {
                topic: topic.to_owned(),
                partition: number.parse().ok()?,
            })
        }));
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads an object's metadata. `None` if there is no such object.
pub async fn object_metadata(
    client: &Client,
    bucket: &str,
    key: &str,
) -> anyhow::Result<Option<ObjectMetadata>> {
    match client.head_object().bucket(bucket).key(key).send().await {
        Ok(head) => {
            let none = HashMap::new();
            let facts = ObjectMetadata::from_metadata(head.metadata().unwrap_or(&none));
            Ok(Some(facts.with_context(|| {
                format!("s3://{bucket}/{key} can't be used")
            })?))
        }
        Err(error)
            if error
                .as_service_error()
                .is_some_and(HeadObjectError::is_not_found) =>
        {
            Ok(None)
        }
        Err(error) => {
            let what = "can't be asked for its metadata";
            let failed = RequestError::new(bucket, key, what, &error);
            if !matches!(failed.status, Some(400 | 401 | 403)) {
                return Err(failed.into());
            }
            // The answer to a HEAD request has no error code.
            let get = client.get_object().bucket(bucket).key(key);
            let Err(error) = get.range("bytes=0-0").send().await else {
                return Err(failed.into());
            };
            Err(RequestError::new(bucket, key, what, &error).into())
        }
    }
}

/// Reads an index object.
pub async fn index(client: &Client, bucket: &str, key: &str) -> anyhow::Result<Index> {
    let object = client.get_object().bucket(bucket).key(key).send().await;
    let object = object.map_err(|error| RequestError::new(bucket, key, "can't be read", &error))?;
    let bytes = object
        .body
        .collect()
        .await
        .with_context(|| format!("can't read all of s3://{bucket}/{key}"))?;
    serde_json::from_slice(&bytes.into_bytes())
        .with_context(|| format!("s3://{bucket}/{key} is not an index object"))
}

#[cfg(test)]
mod tests;
