//! Checks that the raw objects of a partition join end to start, so that a lost object is noticed
//! instead of being taken for offsets without records.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use pinpipe_config::Pipeline;
use pinpipe_runtime::raw_zone::{ObjectMetadata, RawPartition};
use serde::Serialize;
use tracing::warn;

use crate::{
    failure::Permanent,
    manifest::{Manifest, Positions, RunKind},
    runs::full_run,
    state::State,
};

/// The offsets that one raw object covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Key of the object.
    pub key: String,
    /// First offset, from the key.
    pub first: i64,
    /// The offset after the last one, from the metadata.
    pub next: i64,
    /// The topic's id, from the metadata; `None` for an object that the archive didn't write.
    pub topic_id: Option<String>,
}

impl Span {
    /// The offsets of an object, of which `first` is the first one.
    pub fn new(key: &str, first: i64, metadata: &ObjectMetadata) -> Self {
        Self {
            key: key.to_owned(),
            first,
            next: metadata.next_offset,
            topic_id: Some(metadata.topic_id.clone()).filter(|id| id != NO_ID),
        }
    }
}

/// The topic id in the metadata of an object that was put in the place of lost ones.
const NO_ID: &str = "-";

/// The spans that a run has read, by partition.
pub type Spans = BTreeMap<RawPartition, Vec<Span>>;

/// Offsets that no raw object covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// First missing offset.
    pub from: i64,
    /// First offset that is there again.
    pub to: i64,
    /// Key of the object that ends where the gap begins; `None` if the gap is at the front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Key of the object that begins where the gap ends; `None` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            partition,
            from,
            to,
            before,
            after,
        } = self;
        write!(
            f,
            "raw objects of {topic}[{partition}] are missing: no object covers the offsets {from} \
             to {}",
            to - 1
        )?;
        if let Some(before) = before {
            write!(f, "; {before} ends before {from}")?;
        }
        match after {
            Some(after) => write!(f, "; the next object, {after}, begins at {to}"),
            None => write!(f, "; there is no later object"),
        }
    }
}

impl Gap {
    /// The error of a run that can't do without these records.
    pub fn into_error(self) -> Permanent {
        Permanent(format!(
            "{self}. Restore the missing objects, or put an object without lines in their place \
             if the records are lost (docs/how-to/run-the-batch.md#missing-raw-objects), then run \
             the batch again"
        ))
    }
}

/// What the raw objects cover that a run has read, for the run's own state.
#[derive(Debug, Default)]
pub struct Coverage {
    /// See [`State::begin`].
    pub begin: Positions,
    /// See [`State::covered`].
    pub covered: Positions,
    /// See [`State::topic_ids`].
    pub topic_ids: BTreeMap<String, String>,
    /// The gaps that the run goes without.
    pub gaps: Vec<Gap>,
}

fn offset(positions: &Positions, partition: &RawPartition) -> Option<i64> {
    let partitions = positions.get(&partition.topic)?;
    partitions.get(&partition.partition).copied()
}

/// Checks what a run of `manifest` has read, given the state of the last finished run.
pub fn check(
    pipeline: &Pipeline,
    manifest: &Manifest,
    spans: &Spans,
    previous: Option<&State>,
) -> Result<Coverage, Permanent> {
    let is_full = manifest.kind == RunKind::Full;
    let mut coverage = Coverage::default();
    if let Some(previous) = previous {
        coverage.topic_ids.clone_from(&previous.topic_ids);
        if !is_full {
            coverage.begin.clone_from(&previous.begin);
            coverage.covered.clone_from(&previous.covered);
        }
    }
    let recreated = check_topics(pipeline, manifest, spans, &mut coverage.topic_ids)?;
    for (topic, partitions) in &manifest.begin {
        for (&partition, &first) in partitions {
            let known = coverage.begin.entry(topic.clone()).or_default();
            known.entry(partition).or_insert(first);
        }
    }
    if !matches!(manifest.kind, RunKind::Full | RunKind::Incremental) {
        // A backfill leaves out objects of other times: its plan has checked them all.
        return Ok(coverage);
    }
    // Nothing is needed of an earlier topic of the name.
    let previous = |partition: &RawPartition| {
        previous.filter(|_| !recreated.contains(partition.topic.as_str()))
    };
    for (partition, spans) in spans {
        let previous = previous(partition);
        let covered = previous.and_then(|previous| offset(&previous.covered, partition));
        let run_from = offset(&manifest.from, partition);
        let from = if is_full {
            previous.and_then(|previous| offset(&previous.begin, partition))
        } else {
            run_from.map(|from| covered.map_or(from, |covered| covered.min(from)))
        };
        let (front, middle) = gaps(partition, spans, from);
        if let Some(gap) = middle {
            return Err(gap.into_error());
        }
        match front {
            // An earlier run has counted these offsets as read when they had no object.
            Some(gap) if is_full || run_from.is_some_and(|from| gap.from < from) => {
                return Err(gap.into_error());
            }
            Some(gap) => {
                warn!("{gap}; the run goes on without them");
                coverage.gaps.push(gap);
            }
            None => {}
        }
        let RawPartition { topic, partition } = partition;
        // Only a run that reads from the front on shows where the archive begins.
        if run_from.is_none_or(|from| from == 0)
            && let Some(first) = spans.iter().map(|span| span.first).min()
        {
            let partitions = coverage.begin.entry(topic.clone()).or_default();
            partitions.entry(*partition).or_insert(first);
        }
        if let Some(end) = spans.iter().map(|span| span.next).max() {
            let partitions = coverage.covered.entry(topic.clone()).or_default();
            let covered = partitions.entry(*partition).or_insert(end);
            *covered = end.max(*covered);
        }
    }
    for (topic, partitions) in &manifest.to {
        for (&partition, &to) in partitions {
            let partition = RawPartition {
                topic: topic.clone(),
                partition,
            };
            if let Some(previous) = previous(&partition)
                && let Some(gap) = missing_end(&partition, spans, previous, is_full.then_some(to))
            {
                return Err(gap.into_error());
            }
        }
    }
    Ok(coverage)
}

/// Notes the ids of the topics whose records were read, and returns the topics that were recreated
/// since the last run. Only a full run can do with one.
fn check_topics<'a>(
    pipeline: &Pipeline,
    manifest: &Manifest,
    spans: &'a Spans,
    ids: &mut BTreeMap<String, String>,
) -> Result<BTreeSet<&'a str>, Permanent> {
    let (mut recreated, mut read) = (BTreeSet::new(), BTreeMap::new());
    for (RawPartition { topic, partition }, spans) in spans {
        for span in spans {
            let Some(id) = &span.topic_id else { continue };
            let is_mixed = read.insert(topic, id).is_some_and(|other| other != id);
            let known = ids.insert(topic.clone(), id.clone());
            if known.is_none_or(|known| known == *id) {
                continue;
            }
            if is_mixed || manifest.kind != RunKind::Full {
                return Err(Permanent(format!(
                    "the topic {topic} was recreated, or the Kafka cluster was replaced: {}, with \
                     the offsets {} to {} of {topic}[{partition}], is of another topic of that \
                     name than what was read before, so its offsets mean other records. Once \
                     only objects of the new topic are left under the prefix, start a full run: {}",
                    span.key,
                    span.first,
                    span.next - 1,
                    full_run(pipeline)
                )));
            }
            recreated.insert(topic.as_str());
        }
    }
    Ok(recreated)
}

/// The offsets at the end of what `previous` has covered of a partition that no object covers now.
/// If there is no object at all, an expiry rule of the bucket may have deleted them: then only a
/// full run needs them, and at most those before `up_to`.
fn missing_end(
    partition: &RawPartition,
    spans: &Spans,
    previous: &State,
    up_to: Option<i64>,
) -> Option<Gap> {
    let last = spans.get(partition).into_iter().flatten();
    let last = last.max_by_key(|span| span.next);
    let begin = offset(&previous.begin, partition);
    let covered = offset(&previous.covered, partition);
    let (from, to) = if let Some(last) = last {
        (last.next, covered?)
    } else {
        let to = up_to?;
        (begin?, covered.map_or(to, |covered| covered.min(to)))
    };
    (from < to).then(|| Gap {
        topic: partition.topic.clone(),
        partition: partition.partition,
        from,
        to,
        before: last.map(|last| last.key.clone()),
        after: None,
    })
}

/// First offset of the last object of each partition, of those read and those that `base` knows.
pub fn last_objects(spans: &Spans, base: Option<&State>) -> Positions {
    let mut last = base.map(|base| base.listed.clone()).unwrap_or_default();
    for (RawPartition { topic, partition }, spans) in spans {
        let first = spans.iter().map(|span| span.first).max().unwrap_or(0);
        let known = last.entry(topic.clone()).or_default().entry(*partition);
        let known = known.or_insert(first);
        *known = first.max(*known);
    }
    last
}

/// The gaps of one partition whose records are needed from the offset `from` on: the one at the
/// front first, which an expiry rule of the bucket may have made, then those between objects.
pub fn gaps(
    partition: &RawPartition,
    spans: &[Span],
    from: Option<i64>,
) -> (Option<Gap>, Option<Gap>) {
    let gap = |from, to, before: Option<&Span>, after: Option<&Span>| Gap {
        topic: partition.topic.clone(),
        partition: partition.partition,
        from,
        to,
        before: before.map(|span| span.key.clone()),
        after: after.map(|span| span.key.clone()),
    };
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_unstable_by_key(|span| (span.first, span.next));
    let front = sorted
        .first()
        .zip(from)
        .filter(|(span, from)| span.first > *from)
        .map(|(span, from)| gap(from, span.first, None, Some(span)));
    let mut last: Option<&Span> = None;
    for span in sorted {
        if let Some(last) = last
            && span.first > last.next
        {
            return (
                front,
                Some(gap(last.next, span.first, Some(last), Some(span))),
            );
        }
        last = last.filter(|last| last.next > span.next).or(Some(span));
    }
    (front, None)
}

#[cfg(test)]
mod tests;
