//! The archive's objects that a run reads.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::Topics;
use pinpipe_core::Kind;
use pinpipe_runtime::raw_zone::{self, ObjectMetadata, RawPartition};

use crate::{
    coverage::{self, Span},
    manifest::{Format, Manifest, RawObject, RunKind},
    read::topic,
    state::State,
    store::Store,
};

/// Concurrent requests for listings and objects' metadata.
const REQUESTS: usize = 16;

/// The archived objects that may contain records of the run, in log order, each with its size in
/// bytes. Objects before the last one that `state` knows are not listed for an incremental run.
pub async fn archived_objects(
    store: &Store,
    topics: &Topics,
    manifest: &Manifest,
    state: Option<&State>,
) -> Result<Vec<(RawObject, u64)>> {
    let mut partitions = Vec::new();
    for kind in Kind::ALL {
        let topic = &topic(topics, kind).name;
        for &partition in manifest.to.get(topic).into_iter().flat_map(BTreeMap::keys) {
            let topic = topic.clone();
            partitions.push((kind, RawPartition { topic, partition }));
        }
    }
    let objects: Vec<_> = stream::iter(partitions)
        .map(|(kind, raw)| async move {
            let objects = partition_objects(store, manifest, state, &raw).await?;
            let partition = raw.partition;
            let objects = objects.into_iter().map(move |object| {
                let raw_object = RawObject {
                    kind,
                    partition,
                    key: object.key,
                    format: Format::Archive,
                };
                (raw_object, object.bytes)
            });
            anyhow::Ok(objects.collect::<Vec<_>>())
        })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    Ok(objects.into_iter().flatten().collect())
}

async fn partition_objects(
    store: &Store,
    manifest: &Manifest,
    state: Option<&State>,
    raw: &RawPartition,
) -> Result<Vec<raw_zone::RawObject>> {
    let RawPartition { topic, partition } = raw;
    let window = manifest.window(topic, *partition);
    let known = state.and_then(|state| state.listed.get(topic)?.get(partition));
    let from = match manifest.kind {
        RunKind::Incremental => known.copied().unwrap_or(0),
        _ => 0,
    };
    let listed = store.raw_objects(raw, from).await?;
    let next = listed.iter().skip(1).map(|next| Some(next.first));
    let within: Vec<raw_zone::RawObject> = listed
        .iter()
        .zip(next.chain([None]))
        .filter(|(object, next)| {
            object.first < window.offsets.end && next.is_none_or(|next| next > window.offsets.start)
        })
        .map(|(object, _)| object.clone())
        .collect();
    match &manifest.kind {
        RunKind::Backfill { from, to } => {
            let times = from.timestamp_millis()..to.timestamp_millis();
            of_times(store, raw, within, times).await
        }
        _ => Ok(within),
    }
}

/// Those of a partition's objects that may contain records of a time range. That takes one request
/// per object, which also shows whether an object is missing between others.
async fn of_times(
    store: &Store,
    partition: &RawPartition,
    objects: Vec<raw_zone::RawObject>,
    times: Range<i64>,
) -> Result<Vec<raw_zone::RawObject>> {
    let with_metadata: Vec<_> = stream::iter(objects)
        .map(async |object| {
            let metadata = store.raw_metadata(&object.key).await?;
            let metadata = metadata.with_context(|| {
                format!(
                    "the raw object {} was deleted after it was listed",
                    object.key
                )
            })?;
            anyhow::Ok((object, metadata))
        })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    let spans: Vec<Span> = with_metadata
        .iter()
        .map(|(object, metadata)| Span {
            key: object.key.clone(),
            first: object.first,
            next: metadata.next_offset,
        })
        .collect();
    if let (_, Some(gap)) = coverage::gaps(partition, &spans, None) {
        bail!(gap.into_error());
    }
    let overlaps = |metadata: &ObjectMetadata| {
        metadata.record_count > 0
            && metadata.min_time < times.end
            && metadata.max_time >= times.start
    };
    Ok(with_metadata
        .into_iter()
        .filter(|(_, metadata)| overlaps(metadata))
        .map(|(object, _)| object)
        .collect())
}
