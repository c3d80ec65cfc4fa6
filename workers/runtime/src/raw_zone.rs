//! The raw zone: what objects are called, what stands in their metadata, and how they are listed.
//!
//! The archive writes it, the batch worker reads it; this module is the one place where both learn
//! the layout.
//!
//! ```text
//! <prefix>/<topic>/partition=<p>/<topic>+<p>+<first>.json[.gz|.zst]        raw records, one a line
//! <prefix>/_index/<topic>/partition=<p>/<topic>+<p>+<first>+<next>+<lines>.json    each line's offset and timestamp
//! ```
//! `<first>` is the position the archive resumed from, not the offset of the first line: records
//! without a line (a transaction's markers, what is in the dead letters only) leave no trace in it.
//! An object holds the offsets `first..next_offset` of its partition whole, and the next object's
//! `<first>` is its `next_offset`. Names are compared as numbers: ten digits are a minimum, so a
//! list in the store's own order is not in the log's order. An object without lines is a gap:
//! offsets the archive was told to pass over.

use std::{collections::HashMap, str::FromStr};

use anyhow::Context;
use aws_sdk_s3::{Client, operation::head_object::HeadObjectError};
use pinpipe_config::Compression;
use pinpipe_core::Order;
use serde::{Deserialize, Serialize};

use crate::compressed;

/// One partition of a topic, as raw objects name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawPartition {
    /// The topic's name; Kafka allows `[a-zA-Z0-9._-]`, so it holds no `+` and no `/`.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

impl RawPartition {
    /// The folder of its raw objects below `prefix`, with a slash at its end.
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

    /// The key of the index object for the offsets `first..next`, of which the object has `lines`
    /// lines. Two workers that wrote the same range before and after the broker compacted it differ
    /// in that, and neither must replace the other's index.
    #[must_use]
    pub fn index_key(&self, prefix: &str, first: i64, next: i64, lines: usize) -> String {
        format!(
            "{}{}+{}+{first:010}+{next:010}+{lines}.json",
            self.index_folder(prefix),
            self.topic,
            self.partition
        )
    }

    /// The folder of its index objects below `prefix`, with a slash at its end.
    #[must_use]
    pub fn index_folder(&self, prefix: &str) -> String {
        self.folder(&joined(prefix, "_index"))
    }

    /// The `<first>` in the key of one of its raw objects, however it is compressed; `None` for any
    /// other key.
    #[must_use]
    pub fn first_offset(&self, prefix: &str, key: &str) -> Option<i64> {
        let (name, _) = compressed::split(key.strip_prefix(&self.folder(prefix))?)?;
        let digits = name.strip_prefix(&format!("{}+{}+", self.topic, self.partition))?;
        (digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse().ok())?
    }
}

/// `name` below `prefix`.
#[must_use]
pub fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    }
}

/// The folder of a topic's raw objects below `prefix`, with a slash at its end.
fn topic_folder(prefix: &str, topic: &str) -> String {
    joined(prefix, topic) + "/"
}

/// What a raw object's metadata says (`x-amz-meta-…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The offset behind the last one this object accounts for: where the archive resumes.
    pub next_offset: i64,
    /// Lines.
    pub record_count: u64,
    /// The earliest of its records' timestamps, milliseconds since the epoch.
    pub min_time: i64,
    /// The latest of its records' timestamps, milliseconds since the epoch.
    pub max_time: i64,
    /// The Kafka cluster the records came from.
    pub cluster_id: String,
    /// The topic's id: a topic deleted and created again under its name has another one.
    pub topic_id: String,
    /// The key of its index object.
    pub index: String,
}

/// Why a raw object's metadata can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its metadata {problem} {name}: it was not written by this archive")]
pub struct FactsError {
    name: &'static str,
    problem: &'static str,
}

impl Facts {
    /// As metadata of an object.
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

    /// Out of an object's metadata.
    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, FactsError> {
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
) -> Result<&'a str, FactsError> {
    metadata.get(name).map(String::as_str).ok_or(FactsError {
        name,
        problem: "has no",
    })
}

fn number<T: FromStr>(
    metadata: &HashMap<String, String>,
    name: &'static str,
) -> Result<T, FactsError> {
    text(metadata, name)?.parse().map_err(|_| FactsError {
        name,
        problem: "has no readable",
    })
}

/// An index object: one entry per line of its raw object, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Each record's offset.
    pub offsets: Vec<i64>,
    /// Each record's timestamp, milliseconds since the epoch.
    pub times: Vec<i64>,
    /// The lines whose record was re-driven, by rising number: what "later" means for these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<LineOrder>,
}

/// The order of a re-driven record: that of the record it first was, not of where it stands in the
/// log now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineOrder {
    /// The line's number in the raw object, from 0.
    pub line: usize,
    /// Milliseconds since the epoch.
    pub time: i64,
    /// The partition it first stood in.
    pub partition: i32,
    /// Its first offset there.
    pub offset: i64,
}

impl Index {
    /// What decides which of two records of one key is later, for the record of a line; `partition`
    /// is the raw object's. `None`: there is no such line.
    #[must_use]
    pub fn order(&self, line: usize, partition: i32) -> Option<Order> {
        let (&offset, &time) = (self.offsets.get(line)?, self.times.get(line)?);
        let place = Order {
            time,
            partition,
            offset,
        };
        Some(
            self.orders
                .binary_search_by_key(&line, |order| order.line)
                .map_or(place, |found| {
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

/// A raw object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawObject {
    /// Its key.
    pub key: String,
    /// Where it begins.
    pub first: i64,
    /// Its size, bytes.
    pub bytes: u64,
}

/// The raw objects of a partition, in the log's order. No such bucket: an error.
pub async fn list(
    client: &Client,
    bucket: &str,
    prefix: &str,
    partition: &RawPartition,
) -> anyhow::Result<Vec<RawObject>> {
    let folder = partition.folder(prefix);
    let mut pages = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(&folder)
        .into_paginator()
        .send();
    let mut objects = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.with_context(|| format!("can't list s3://{bucket}/{folder}"))?;
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

/// The partitions of a topic that have a folder in the raw zone, in order.
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
        let page = page.with_context(|| format!("can't list s3://{bucket}/{folder}"))?;
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

/// What an object's metadata says; `None`: there is no such object.
pub async fn facts(client: &Client, bucket: &str, key: &str) -> anyhow::Result<Option<Facts>> {
    match client.head_object().bucket(bucket).key(key).send().await {
        Ok(head) => {
            let none = HashMap::new();
            let facts = Facts::from_metadata(head.metadata().unwrap_or(&none));
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
            Err(error).with_context(|| format!("can't read the metadata of s3://{bucket}/{key}"))
        }
    }
}

/// An index object's content.
pub async fn index(client: &Client, bucket: &str, key: &str) -> anyhow::Result<Index> {
    let object = client.get_object().bucket(bucket).key(key).send().await;
    let object =
        object.with_context(|| format!("can't read the index object s3://{bucket}/{key}"))?;
    let bytes = object
        .body
        .collect()
        .await
        .with_context(|| format!("can't read all of s3://{bucket}/{key}"))?;
    serde_json::from_slice(&bytes.into_bytes())
        .with_context(|| format!("s3://{bucket}/{key} is not an index object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> RawPartition {
        RawPartition {
            topic: "data.pinterest.pin".into(),
            partition: 2,
        }
    }

    #[test]
    fn names_are_those_of_the_contract() {
        use Compression::{Gzip, None, Zstd};
        for (prefix, first, compression, key) in [
            (
                "topics",
                0,
                None,
                "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000.json",
            ),
            (
                "a/b",
                12_345_678_901,
                Gzip,
                "a/b/data.pinterest.pin/partition=2/data.pinterest.pin+2+12345678901.json.gz",
            ),
            (
                "",
                7,
                Zstd,
                "data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000007.json.zst",
            ),
        ] {
            assert_eq!(partition().object_key(prefix, first, compression), key);
            assert_eq!(partition().first_offset(prefix, key), Some(first), "{key}");
        }
        assert_eq!(
            partition().index_key("topics", 7, 19, 12),
            "topics/_index/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000007+0000000019+12.json"
        );
    }

    #[test]
    fn other_keys_are_no_raw_objects() {
        for key in [
            "topics/data.pinterest.pin/partition=2/data.pinterest.pin+1+0000000000.json",
            "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+000000000.json",
            "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+00000000x0.json",
            "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000.json.bz2",
            "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000",
            "topics/data.pinterest.pin/partition=2/",
            "topics/_index/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000+0000000001.json",
        ] {
            assert_eq!(partition().first_offset("topics", key), None, "{key}");
        }
    }

    #[test]
    fn a_re_driven_line_keeps_the_order_it_first_had() {
        let redriven = LineOrder {
            line: 1,
            time: 5,
            partition: 0,
            offset: 3,
        };
        let index = Index {
            offsets: vec![70, 72, 73],
            times: vec![900, 901, 902],
            orders: vec![redriven],
        };
        let order = |time, partition, offset| {
            Some(Order {
                time,
                partition,
                offset,
            })
        };
        let orders: Vec<_> = (0..4).map(|line| index.order(line, 2)).collect();
        assert_eq!(
            orders,
            [order(900, 2, 70), order(5, 0, 3), order(902, 2, 73), None]
        );
        assert_eq!(
            serde_json::from_str::<Index>(&serde_json::to_string(&index).unwrap()).unwrap(),
            index
        );
    }

    #[test]
    fn an_index_without_re_driven_lines_is_what_it_always_was() {
        let before = r#"{"offsets":[7],"times":[1]}"#;
        let index: Index = serde_json::from_str(before).unwrap();
        assert_eq!(serde_json::to_string(&index).unwrap(), before);
    }

    #[test]
    fn metadata_comes_back_as_it_was_written() {
        let facts = Facts {
            next_offset: 42,
            record_count: 40,
            min_time: 1,
            max_time: 2,
            cluster_id: "c".into(),
            topic_id: "t".into(),
            index: "i".into(),
        };
        let mut metadata = facts.to_metadata();
        assert_eq!(Facts::from_metadata(&metadata), Ok(facts));
        metadata.remove("next-offset");
        let message = Facts::from_metadata(&metadata).unwrap_err().to_string();
        assert!(message.contains("next-offset"), "{message}");
    }
}
