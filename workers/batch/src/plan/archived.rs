//! The archive's objects that a run reads.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_config::Topics;
use pinpipe_core::Kind;
use pinpipe_runtime::raw_zone::{self, ObjectMetadata, RawPartition};

use crate::{
    coverage::{self, Span},
    manifest::{Format, Manifest, Positions, RawObject, RunKind},
    read::topic,
    state::State,
    store::Store,
};

/// Concurrent requests for listings and objects' metadata.
const REQUESTS: usize = 16;

/// The archived objects that may contain records of the run, in log order, each with its size in
/// bytes, and the first offset of each partition's first object, if that was listed. For an
/// incremental run nothing is listed before the last object that `state` knows.
pub async fn archived_objects(
    store: &Store,
    topics: &Topics,
    manifest: &Manifest,
    state: Option<&State>,
) -> Result<(Vec<(RawObject, u64)>, Positions)> {
    let mut partitions = Vec::new();
    for kind in Kind::ALL {
        let topic = &topic(topics, kind).name;
        for &partition in manifest.to.get(topic).into_iter().flat_map(BTreeMap::keys) {
            let topic = topic.clone();
            partitions.push((kind, RawPartition { topic, partition }));
        }
    }
    let listings: Vec<_> = stream::iter(partitions)
        .map(|(kind, raw)| async move {
            let listing = partition_objects(store, manifest, state, &raw).await?;
            anyhow::Ok((kind, raw, listing))
        })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    let (mut objects, mut begin) = (Vec::new(), Positions::new());
    for (kind, RawPartition { topic, partition }, listing) in listings {
        if let Some(first) = listing.begin {
            begin.entry(topic).or_default().insert(partition, first);
        }
        objects.extend(listing.objects.into_iter().map(|object| {
            let raw_object = RawObject {
                kind,
                partition,
                key: object.key,
                format: Format::Archive,
            };
            (raw_object, object.bytes)
        }));
    }
    Ok((objects, begin))
}

/// The objects of one partition.
struct Listing {
    /// Those that may contain records of the run.
    objects: Vec<raw_zone::RawObject>,
    /// First offset of the first object of all; `None` if there is none, or it wasn't listed.
    begin: Option<i64>,
}

async fn partition_objects(
    store: &Store,
    manifest: &Manifest,
    state: Option<&State>,
    raw: &RawPartition,
) -> Result<Listing> {
    let RawPartition { topic, partition } = raw;
    let window = manifest.window(topic, *partition);
    let known = |state: &State| {
        state.begin.get(topic)?.get(partition)?;
        state.listed.get(topic)?.get(partition).copied()
    };
    let mut from = match manifest.kind {
        RunKind::Incremental => state.and_then(known).unwrap_or(0),
        _ => 0,
    };
    let mut listed = store.raw_objects(raw, from).await?;
    if from > 0 && may_lack_earlier(&listed, window.offsets.start) {
        from = 0;
        listed = store.raw_objects(raw, from).await?;
    }
    let begin = listed.first().map(|object| object.first);
    let begin = begin.filter(|_| from == 0);
    let next = listed.iter().skip(1).map(|next| Some(next.first));
    let within: Vec<raw_zone::RawObject> = listed
        .iter()
        .zip(next.chain([None]))
        .filter(|(object, next)| {
            object.first < window.offsets.end && next.is_none_or(|next| next > window.offsets.start)
        })
        .map(|(object, _)| object.clone())
        .collect();
    let objects = match &manifest.kind {
        RunKind::Backfill { from, to } => {
            let times = from.timestamp_millis()..to.timestamp_millis();
            of_times(store, raw, within, times).await?
        }
        _ => within,
    };
    Ok(Listing { objects, begin })
}

/// Whether a listing that didn't begin at the front may lack objects with offsets from `start` on.
/// If the archive has written records again, one of its objects may cover what several did before,
/// and begin before all that the last run has read.
fn may_lack_earlier(listed: &[raw_zone::RawObject], start: i64) -> bool {
    listed.first().is_none_or(|object| object.first > start)
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
        .map(|(object, metadata)| Span::new(&object.key, object.first, metadata))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_that_the_archive_has_written_again_are_found() {
        let listed = |firsts: &[i64]| -> Vec<raw_zone::RawObject> {
            let object = |first: &i64| raw_zone::RawObject {
                key: format!("t+0+{first:010}.json"),
                first: *first,
                bytes: 1,
            };
            firsts.iter().map(object).collect()
        };
        // The last run ended at 5000, and its last object was 4900 to 5000.
        for (firsts, expected) in [
            (&[4900, 5000][..], false),
            (&[4900], false),
            (&[5000], false),
            // Now a single object covers 4000 to 5100, before all that was listed.
            (&[], true),
            (&[5100], true),
        ] {
            assert_eq!(
                may_lack_earlier(&listed(firsts), 5000),
                expected,
                "{firsts:?}"
            );
        }
    }
}
