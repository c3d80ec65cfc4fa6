//! The objects of an import: which of those found are read, in which order.

mod order;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use pinpipe_config::{Batch, S3, Topics};
use pinpipe_core::Kind;
use serde::Serialize;
use tracing::{info, warn};

use crate::{
    failure::Permanent,
    manifest::{
        Format, Import, Imported, PassedOver, RawObject, Source, pass_over, pass_over_all, place,
    },
    read::topic,
    source,
    store::{ListedObject, Store},
};

/// Suffixes of objects with JSON, without those of compression.
const SUFFIXES: [&str; 3] = [".json", ".jsonl", ".ndjson"];
/// Suffixes of compressed objects. What compression it is, the content tells.
const COMPRESSED: [&str; 4] = [".gz", ".gzip", ".zst", ".zstd"];
/// Most names that a message lists.
const LISTED: usize = 10;

/// What to import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportRequest {
    /// Key prefix of objects written by an S3 sink connector.
    pub connector: Option<String>,
    /// Topics of the connector whose records are of a kind. This pipeline's own topic for a kind
    /// without any.
    pub topics: Vec<(Kind, String)>,
    /// Key prefixes of objects, by kind of record.
    pub objects: Vec<(Kind, String)>,
    /// The bucket, if it isn't the archive's.
    pub source: Option<SourceRequest>,
}

/// A bucket. The archive's store has what isn't given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceRequest {
    /// Its name.
    pub bucket: String,
    /// URL of the store.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// A folder with keys.
    pub credentials: Option<PathBuf>,
    /// A file with the certificate of the store's authority.
    pub ca: Option<PathBuf>,
    /// Whether the bucket is part of the host's name.
    pub virtual_host: bool,
}

impl SourceRequest {
    fn source(&self, config: &Batch) -> Source {
        let mut s3 = config.zone.s3.clone();
        s3.kms_key_id = None;
        if let Some(endpoint) = &self.endpoint {
            s3.endpoint = Some(endpoint.clone());
            s3.ca_file = None;
        }
        if let Some(region) = &self.region {
            s3.region.clone_from(region);
        }
        if self.credentials.is_some() {
            s3.credentials_dir.clone_from(&self.credentials);
        }
        if self.ca.is_some() {
            s3.ca_file.clone_from(&self.ca);
        }
        Source {
            bucket: self.bucket.clone(),
            s3,
            has_own_keys: self.credentials.is_some(),
            virtual_host: self.virtual_host,
        }
    }
}

/// A planned import.
pub struct Planned {
    /// The objects to read, in their order, each with its size in bytes, compressed or not.
    pub objects: Vec<(RawObject, u64)>,
    /// Where they are, and what isn't read.
    pub import: Import,
}

/// Plans an import at `run_time`.
pub async fn plan(
    config: &Batch,
    archive: &Store,
    request: &ImportRequest,
    run_time: DateTime<Utc>,
) -> Result<Planned> {
    let source = request.source.as_ref().map(|source| source.source(config));
    let store = source::open_or(source.as_ref(), archive).await?;
    let own = Own::of(config, source.as_ref());
    let found = find(config, &store, request, &own).await;
    let (found, passed_over) = match &source {
        Some(source) => found.map_err(|error| source::explain(source, error))?,
        None => found?,
    };
    for (reason, passed) in &passed_over {
        let (objects, first) = (passed.objects, &passed.first);
        warn!(reason, objects, first, "objects passed over");
    }
    let objects = in_order(found, place(run_time));
    info!(
        objects = objects.len(),
        bucket = store.bucket(),
        "objects to import"
    );
    Ok(Planned {
        objects,
        import: Import {
            source,
            request: serde_json::to_string(request)?,
            passed_over,
        },
    })
}

/// An object to be read.
struct Found {
    kind: Kind,
    object: ListedObject,
}

async fn find(
    config: &Batch,
    store: &Store,
    request: &ImportRequest,
    own: &Own,
) -> Result<(Vec<Found>, PassedOver)> {
    let (mut found, mut passed_over) = (Vec::new(), PassedOver::new());
    if let Some(prefix) = &request.connector {
        let topics = TopicKinds::new(&config.topics, &request.topics, prefix, own)?;
        let listed = store.list_others(&folder(prefix)).await?;
        let place = format!("the prefix {prefix} of the bucket {}", store.bucket());
        found = connector_objects(&topics, prefix, listed, &place, &mut passed_over)?;
    }
    for (kind, prefix) in &request.objects {
        let value = "import.prefix";
        ensure!(
            !prefix.is_empty(),
            Permanent(format!(
                "{value} is empty: set it to the prefix of the objects' keys, or to / for a whole \
                 bucket of their own"
            ))
        );
        if own.has(&folder(prefix)) {
            return Err(own_objects(value, prefix).into());
        }
        let listed = store.list_others(&folder(prefix)).await?;
        let place = format!("the prefix {prefix} of the bucket {}", store.bucket());
        let mut passed = PassedOver::new();
        let objects: Vec<ListedObject> = listed
            .into_iter()
            .filter(|object| is_readable(object, &mut passed))
            .collect();
        ensure!(
            !objects.is_empty(),
            Permanent(nothing(value, &place, &passed))
        );
        pass_over_all(&mut passed_over, passed);
        found.extend(objects.into_iter().map(|object| Found {
            kind: *kind,
            object,
        }));
    }
    Ok((found, passed_over))
}

/// Says that there is nothing to import, and which value to correct.
fn nothing(value: &str, place: &str, passed_over: &PassedOver) -> String {
    if passed_over.is_empty() {
        return format!("there is no object under {place}: correct {value}, or import.bucket");
    }
    let reasons: Vec<String> = passed_over
        .iter()
        .map(|(reason, passed)| format!("{reason} {}, such as {}", passed.objects, passed.first))
        .collect();
    format!(
        "no object under {place} can be imported ({}): correct {value}; \
         docs/how-to/backfill-and-import.md says what is passed over",
        reasons.join("; ")
    )
}

/// The folders of the bucket that pinpipe itself writes; none in a bucket of others.
struct Own {
    folders: Vec<String>,
    /// The raw zone.
    zone: Option<String>,
}

impl Own {
    fn of(config: &Batch, source: Option<&Source>) -> Self {
        let archive = &config.zone;
        let is_own = source.is_none_or(|source| {
            source.bucket == archive.bucket && store_of(&source.s3) == store_of(&archive.s3)
        });
        if !is_own {
            let (folders, zone) = (Vec::new(), None);
            return Self { folders, zone };
        }
        let zone = folder(&archive.prefix);
        let topics = Kind::ALL.map(|kind| format!("{zone}{}/", topic(&config.topics, kind).name));
        let others = [&format!("{zone}_index/"), "runs/", "state/"].map(str::to_owned);
        Self {
            folders: topics.into_iter().chain(others).collect(),
            zone: (!zone.is_empty()).then_some(zone),
        }
    }

    /// Whether a folder has objects of this pipeline, or is in a folder that has.
    fn has_own(&self, folder: &str) -> bool {
        let overlaps = |own: &String| folder.starts_with(own) || own.starts_with(folder);
        self.folders.iter().any(overlaps)
    }

    /// The same, of any pipeline that has this raw zone.
    fn has(&self, folder: &str) -> bool {
        let zone = self.zone.as_deref();
        self.has_own(folder) || zone.is_some_and(|zone| folder.starts_with(zone))
    }
}

/// The URL of a store; `None` for AWS, which has several and needs none.
fn store_of(s3: &S3) -> Option<String> {
    let url = s3.endpoint.as_deref()?.trim_end_matches('/');
    (!url.contains(".amazonaws.com")).then(|| url.to_ascii_lowercase())
}

/// Says that a value names objects of pinpipe's own.
fn own_objects(value: &str, name: &str) -> Permanent {
    Permanent(format!(
        "{value}={name} has objects that pinpipe itself wrote, which every run reads: set {value} \
         to what has another tool's objects alone, or import.bucket to another bucket"
    ))
}

/// The kind of each topic.
struct TopicKinds {
    kinds: BTreeMap<String, Kind>,
    /// The topics that the request names.
    named: BTreeSet<(Kind, String)>,
}

impl TopicKinds {
    /// The topics below a prefix. None of them is the pipeline's own, if its archive is there.
    fn new(
        topics: &Topics,
        named: &[(Kind, String)],
        prefix: &str,
        own: &Own,
    ) -> Result<Self, Permanent> {
        let is_own = |topic: &str| own.has_own(&format!("{}{topic}/", folder(prefix)));
        let mut kinds = BTreeMap::new();
        for kind in Kind::ALL {
            let name = &topic(topics, kind).name;
            if named.iter().all(|(other, _)| *other != kind) && !is_own(name) {
                kinds.insert(name.clone(), kind);
            }
        }
        for (kind, topic) in named {
            if is_own(topic) {
                return Err(own_objects("import.topics", topic));
            }
            kinds.insert(topic.clone(), *kind);
        }
        if kinds.is_empty() {
            return Err(own_objects("import.prefix", prefix));
        }
        Ok(Self {
            kinds,
            named: named.iter().cloned().collect(),
        })
    }
}

/// The objects of a connector's topics, whose keys are `<prefix>/<topic>/…`.
fn connector_objects(
    topics: &TopicKinds,
    prefix: &str,
    listed: Vec<ListedObject>,
    place: &str,
    passed_over: &mut PassedOver,
) -> Result<Vec<Found>, Permanent> {
    let start = folder(prefix).len();
    let (mut found, mut others) = (Vec::new(), BTreeSet::new());
    let mut with_objects = BTreeSet::new();
    for object in listed {
        let topic = object
            .key
            .get(start..)
            .and_then(|rest| rest.split_once('/'));
        let Some((topic, _)) = topic else {
            pass_over(passed_over, "no-topic", &object.key);
            continue;
        };
        let Some((topic, kind)) = topics.kinds.get_key_value(topic) else {
            others.insert(topic.to_owned());
            pass_over(passed_over, "other-topic", &object.key);
            continue;
        };
        if is_readable(&object, passed_over) {
            with_objects.insert(topic);
            found.push(Found {
                kind: *kind,
                object,
            });
        }
    }
    let others: Vec<&str> = others.iter().map(String::as_str).take(LISTED).collect();
    for (_, topic) in &topics.named {
        if !with_objects.contains(topic) {
            return Err(Permanent(format!(
                "{place} has no object of the topic {topic} to import: correct import.topics, \
                 or import.prefix. Other topics there: {}",
                joined(&others)
            )));
        }
    }
    if found.is_empty() {
        let advice = if others.is_empty() {
            String::new()
        } else {
            let known: Vec<&str> = topics.kinds.keys().map(String::as_str).collect();
            format!(
                ". Topics there are {}, but {} were looked for: name them in \
                 import.topics",
                joined(&others),
                joined(&known)
            )
        };
        return Err(Permanent(
            nothing("import.prefix", place, passed_over) + &advice,
        ));
    }
    in_log_order(&mut found);
    Ok(found)
}

fn joined(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// Ensures that of one partition no object counts as written before those with smaller offsets:
/// if objects were copied, they were written in any order.
fn in_log_order(found: &mut [Found]) {
    let mut partitions: HashMap<String, Vec<(i64, usize)>> = HashMap::new();
    for (index, Found { object, .. }) in found.iter().enumerate() {
        if let Some((partition, offset)) = partition_and_offset(&object.key) {
            let partition = partition.to_owned();
            partitions
                .entry(partition)
                .or_default()
                .push((offset, index));
        }
    }
    for mut objects in partitions.into_values() {
        objects.sort_unstable();
        let mut latest = i64::MIN;
        for (_, index) in objects {
            let modified = &mut found[index].object.modified;
            latest = latest.max(*modified);
            *modified = latest;
        }
    }
}

/// `<topic>+<p>` and the offset in a connector's key, `…/<topic>+<p>+<offset>.json`.
fn partition_and_offset(key: &str) -> Option<(&str, i64)> {
    let name = key.rsplit('/').next()?;
    let (partition, rest) = name.rsplit_once('+')?;
    let digits = rest.split('.').next()?;
    Some((partition, digits.parse().ok()?))
}

/// Whether an object can be imported; if not, why is counted.
fn is_readable(object: &ListedObject, passed_over: &mut PassedOver) -> bool {
    let reason = if !has_suffix(&object.key) {
        "suffix"
    } else if object.bytes == 0 {
        "empty"
    } else if object.is_archived {
        "archive-class"
    } else {
        return true;
    };
    pass_over(passed_over, reason, &object.key);
    false
}

fn has_suffix(key: &str) -> bool {
    let plain = uncompressed(key).unwrap_or(key);
    SUFFIXES.iter().any(|suffix| plain.ends_with(suffix))
}

/// The key without a suffix of compression.
fn uncompressed(key: &str) -> Option<&str> {
    COMPRESSED
        .iter()
        .find_map(|suffix| key.strip_suffix(suffix))
}

/// Whether a key says that the object is compressed.
pub fn is_compressed(key: &str) -> bool {
    uncompressed(key).is_some()
}

/// Objects of an import of this [`place`], in the order of their last modification, then of their
/// keys, and each but once.
fn in_order(mut found: Vec<Found>, place: i32) -> Vec<(RawObject, u64)> {
    found.sort_unstable_by(|a, b| {
        let by_key = (a.kind, &a.object.key).cmp(&(b.kind, &b.object.key));
        by_key.then_with(|| b.object.modified.cmp(&a.object.modified))
    });
    found.dedup_by(|a, b| a.kind == b.kind && a.object.key == b.object.key);
    found.sort_unstable_by(|a, b| {
        let by_time = a.object.modified.cmp(&b.object.modified);
        by_time
            .then_with(|| order::by_number(&a.object.key, &b.object.key))
            .then_with(|| a.kind.cmp(&b.kind))
    });
    let object = |(number, Found { kind, object }): (u32, Found)| {
        let bytes = object.bytes;
        let imported = Imported {
            modified: object.modified,
            number,
            bytes,
            etag: object.etag,
        };
        let object = RawObject {
            kind,
            partition: place,
            key: object.key,
            format: Format::Imported(imported),
        };
        (object, bytes)
    };
    let mut objects: Vec<_> = (0..).zip(found).map(object).collect();
    // Readers take objects of one kind together.
    objects.sort_by_key(|(object, _)| object.kind);
    objects
}

/// Ends a key prefix with a slash, so that `events` doesn't match `events-old/`. A slash alone is
/// the whole bucket.
fn folder(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

#[cfg(test)]
mod tests;
