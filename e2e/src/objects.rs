//! Raw objects with their index, and the reports of batch runs, read from the bucket.

use std::{collections::BTreeMap, io::Read as _};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    operation::head_bucket::HeadBucketError,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use serde_json::Value;

use crate::cluster;

/// Requests in flight while a bucket is emptied.
const DELETED_AT_ONCE: usize = 16;

/// One line of a raw object.
#[derive(Clone, Debug)]
pub struct Line {
    /// `LogAppendTime` in the index, milliseconds since the epoch.
    pub time: i64,
    /// The line without its line break.
    pub raw: Vec<u8>,
}

/// The index object of a raw object: one entry per line.
#[derive(Deserialize)]
struct Index {
    offsets: Vec<i64>,
    times: Vec<i64>,
}

/// A client of the development stack's S3 server.
#[must_use]
pub fn client() -> Client {
    let (id, key) = cluster::S3_KEYS;
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(cluster::S3)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(id, key, None, None, "e2e"))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

/// The keys of a bucket that begin with `prefix`.
pub async fn keys(client: &Client, bucket: &str, prefix: &str) -> Result<Vec<String>> {
    let mut pages = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(prefix)
        .into_paginator()
        .send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(
            page?
                .contents
                .unwrap_or_default()
                .into_iter()
                .filter_map(|object| object.key),
        );
    }
    Ok(keys)
}

/// Writes an object.
pub async fn put(bucket: &str, key: &str, body: Vec<u8>) -> Result<()> {
    let put = client().put_object().bucket(bucket).key(key);
    put.body(body.into())
        .send()
        .await
        .with_context(|| key.to_owned())?;
    Ok(())
}

/// Creates a bucket.
pub async fn create_bucket(bucket: &str) -> Result<()> {
    client().create_bucket().bucket(bucket).send().await?;
    Ok(())
}

/// Deletes a bucket with its objects, if it exists.
pub async fn delete_bucket(bucket: &str) -> Result<()> {
    let client = client();
    if let Err(error) = client.head_bucket().bucket(bucket).send().await {
        if error
            .as_service_error()
            .is_some_and(HeadBucketError::is_not_found)
        {
            return Ok(());
        }
        return Err(error).context("looking for the bucket");
    }
    let keys = keys(&client, bucket, "").await?;
    stream::iter(keys)
        .map(|key| client.delete_object().bucket(bucket).key(key).send())
        .buffer_unordered(DELETED_AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await?;
    client.delete_bucket().bucket(bucket).send().await?;
    Ok(())
}

/// An object's bytes and metadata.
async fn get(
    client: &Client,
    bucket: &str,
    key: &str,
) -> Result<(Vec<u8>, BTreeMap<String, String>)> {
    let object = client
        .get_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .with_context(|| key.to_owned())?;
    let metadata = object.metadata.unwrap_or_default().into_iter().collect();
    Ok((object.body.collect().await?.to_vec(), metadata))
}

/// An object as JSON.
pub async fn json(client: &Client, bucket: &str, key: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&get(client, bucket, key).await?.0)?)
}

/// The raw lines of a topic by (partition, offset). An error if two objects hold the same record,
/// if the objects of a partition leave a gap, or if name, metadata, index and lines of an object
/// contradict each other.
pub async fn raw_lines(
    bucket: &str,
    prefix: &str,
    topic: &str,
) -> Result<BTreeMap<(i32, i64), Line>> {
    let client = client();
    let folder = format!("{prefix}/{topic}/");
    let mut objects = Vec::new();
    for key in keys(&client, bucket, &folder).await? {
        objects.push((name_of(&key, topic)?, key));
    }
    objects.sort();
    let mut lines = BTreeMap::new();
    let mut next = BTreeMap::new();
    for ((partition, first), key) in objects {
        let (body, metadata) = get(&client, bucket, &key).await?;
        let number = |name: &str| -> Result<i64> {
            let text = metadata
                .get(name)
                .with_context(|| format!("{key} has no metadata {name}"))?;
            Ok(text.parse()?)
        };
        let from = next.insert(partition, number("next-offset")?).unwrap_or(0);
        ensure!(
            first == from,
            "{key} begins at {first}, the object before it ends before {from}"
        );
        let index = metadata
            .get("index")
            .with_context(|| format!("{key} names no index"))?;
        let index: Index = serde_json::from_slice(&get(&client, bucket, index).await?.0)?;
        let body = decompressed(&key, body)?;
        let body = body.strip_suffix(b"\n").unwrap_or(&body);
        let raw: Vec<&[u8]> = if body.is_empty() {
            Vec::new()
        } else {
            body.split(|byte| *byte == b'\n').collect()
        };
        let count = usize::try_from(number("record-count")?)?;
        ensure!(
            raw.len() == count && index.offsets.len() == count && index.times.len() == count,
            "{key}: {count} records by metadata, {} lines, index of {} offsets and {} times",
            raw.len(),
            index.offsets.len(),
            index.times.len()
        );
        for ((offset, time), raw) in index.offsets.iter().zip(index.times).zip(raw) {
            ensure!(
                (first..number("next-offset")?).contains(offset),
                "{key}: offset {offset} is outside its range"
            );
            ensure!(
                (number("min-time")?..=number("max-time")?).contains(&time),
                "{key}: time {time} is outside its range"
            );
            if lines
                .insert(
                    (partition, *offset),
                    Line {
                        time,
                        raw: raw.to_vec(),
                    },
                )
                .is_some()
            {
                bail!("{key}: offset {offset} of partition {partition} is archived twice");
            }
        }
    }
    Ok(lines)
}

/// An object's content, decompressed according to the suffix of its key.
fn decompressed(key: &str, body: Vec<u8>) -> Result<Vec<u8>> {
    match key.rsplit_once('.').map(|(_, ending)| ending) {
        Some("gz") => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*body)
                .read_to_end(&mut plain)
                .with_context(|| key.to_owned())?;
            Ok(plain)
        }
        Some("zst") => zstd::decode_all(&*body).with_context(|| key.to_owned()),
        _ => Ok(body),
    }
}

/// `(partition, first offset)` of `…/<topic>/partition=<p>/<topic>+<p>+<first>.json`, `.json.gz` or
/// `.json.zst`.
fn name_of(key: &str, topic: &str) -> Result<(i32, i64)> {
    let parse = || -> Option<(i32, i64)> {
        let (folder, name) = key.rsplit_once('/')?;
        let partition = folder.rsplit_once("/partition=")?.1;
        let rest = name.strip_prefix(topic)?.strip_prefix('+')?;
        let rest = ["", ".gz", ".zst"]
            .iter()
            .find_map(|ending| rest.strip_suffix(ending)?.strip_suffix(".json"))?;
        let (p, offset) = rest.split_once('+')?;
        (p == partition && offset.len() >= 10).then_some(())?;
        Some((p.parse().ok()?, offset.parse().ok()?))
    };
    parse().with_context(|| format!("{key} is not the key of a raw object"))
}

/// The keys whose uploads in parts are neither complete nor aborted.
pub async fn uploads(bucket: &str) -> Result<Vec<String>> {
    let listed = client().list_multipart_uploads().bucket(bucket).send();
    let uploads = listed.await?.uploads.unwrap_or_default().into_iter();
    Ok(uploads.filter_map(|upload| upload.key).collect())
}

/// The size of the largest object whose key begins with `prefix`, bytes.
pub async fn largest(bucket: &str, prefix: &str) -> Result<i64> {
    let listed = client().list_objects_v2().bucket(bucket).prefix(prefix);
    let objects = listed.send().await?.contents.unwrap_or_default();
    let sizes = objects.into_iter().filter_map(|object| object.size);
    Ok(sizes.max().unwrap_or_default())
}

/// The numbers of raw objects and records of a topic, according to the objects' metadata.
pub async fn raw_count(bucket: &str, prefix: &str, topic: &str) -> Result<(usize, u64)> {
    let client = client();
    let keys = keys(&client, bucket, &format!("{prefix}/{topic}/")).await?;
    let mut records = 0;
    for key in &keys {
        let head = client.head_object().bucket(bucket).key(key).send().await?;
        let count = head
            .metadata()
            .and_then(|m| m.get("record-count"))
            .with_context(|| format!("{key}: no record-count"))?;
        records += count.parse::<u64>()?;
    }
    Ok((keys.len(), records))
}

/// The report of the run published last, if any.
pub async fn last_report(bucket: &str, pipeline: &str) -> Result<Option<Value>> {
    let client = client();
    let runs = format!("runs/{pipeline}/");
    if !keys(&client, bucket, &runs)
        .await?
        .contains(&format!("{runs}latest.json"))
    {
        return Ok(None);
    }
    let pointer = json(&client, bucket, &format!("{runs}latest.json")).await?;
    let run = pointer["run"]
        .as_str()
        .with_context(|| format!("latest.json names no run: {pointer}"))?;
    json(&client, bucket, &format!("{runs}{run}/report.json"))
        .await
        .map(Some)
}
