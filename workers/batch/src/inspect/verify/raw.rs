//! Whether the raw objects of each partition join end to start, from the first record that they
//! must have to the position that the archive has committed.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use pinpipe_config::inspect::{Check, Finding, Outcome};
use pinpipe_core::{Rejection, clean};
use pinpipe_runtime::{
    kafka::{Access, Positions, Progress},
    raw_zone::RawPartition,
};
use rdkafka::Message as _;

use super::{Take, Topic};
use crate::{
    coverage::{Gap, Span, gaps},
    dead_letters::{Ranges, TopicReader},
    inspect::components::Components,
    runs::{Pointer, Runs},
    state::State,
    store::Store,
};

/// Concurrent requests for objects' metadata.
const REQUESTS: usize = 16;
/// Timeout of one request to the broker.
const BROKER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// Checks the raw objects of a topic.
pub async fn check(
    components: &Components,
    store: &Store,
    topic: &Topic,
    found: Take<'_, Finding>,
) -> Result<()> {
    let committed = committed(components, topic).await?;
    let begin = begin(components, store).await?;
    let with_objects = store.raw_partitions(&topic.name).await?;
    let mut partitions: BTreeSet<i32> = topic.retained.keys().copied().collect();
    partitions.extend(with_objects.iter().map(|raw| raw.partition));
    for partition in partitions {
        let raw = RawPartition {
            topic: topic.name.clone(),
            partition,
        };
        let offset = |positions: &Positions| positions.get(&topic.name)?.get(&partition).copied();
        let objects = covered(store, &raw).await?;
        let lost = lost_indexes(store, &raw, &objects).await?;
        let spans: Vec<Span> = objects.into_iter().map(|object| object.span).collect();
        let chain = Chain {
            committed: offset(&committed),
            begin: offset(&begin),
            retained: topic.retained.get(&partition).map(|range| range.start),
        };
        let place = store.uri(&raw.folder(store.prefix()));
        let blank = topic.finding(Check::RawObjects, &place, partition);
        let mut gaps = chain.gaps(&raw, &spans);
        let mut unknown = None;
        if let Some(end) = chain.end(&raw, &spans) {
            match has_records(components, topic, &end).await? {
                Some(true) => gaps.push(end),
                Some(false) => {}
                None => unknown = Some(end),
            }
        }
        for gap in &gaps {
            found(Finding {
                outcome: Outcome::Problem,
                message: message(gap),
                ..of(gap, &blank)
            })?;
        }
        if let Some(gap) = &unknown {
            found(Finding {
                outcome: Outcome::NotCounted,
                message: format!(
                    "the archive's position is {}, its objects end before {}, and the topic no \
                     longer has what is between: perhaps no records, perhaps lost objects",
                    gap.to, gap.from
                ),
                ..of(gap, &blank)
            })?;
        }
        for object in &lost {
            found(Finding {
                outcome: Outcome::Problem,
                from: Some(object.span.first),
                to: Some(object.span.next),
                count: Some(1),
                message: object.without_index(),
                ..blank.clone()
            })?;
        }
        if gaps.is_empty() && lost.is_empty() && unknown.is_none() {
            let first = spans.iter().map(|span| span.first).min();
            let last = spans.iter().map(|span| span.next).max();
            found(Finding {
                from: first,
                to: last,
                count: Some(spans.len() as u64),
                message: match (first, last) {
                    (Some(first), Some(last)) => {
                        format!("the objects join from offset {first} to {last}")
                    }
                    _ => "there are no objects, and none is missing".to_owned(),
                },
                ..blank
            })?;
        }
    }
    Ok(())
}

/// A finding of a gap.
fn of(gap: &Gap, blank: &Finding) -> Finding {
    Finding {
        from: Some(gap.from),
        to: Some(gap.to),
        count: u64::try_from(gap.to - gap.from).ok(),
        ..blank.clone()
    }
}

/// Whether the topic has records in a gap that the archive would have written: the log also has
/// offsets without records, and what isn't JSON is in the dead letters alone. `None` if the topic
/// no longer retains all of it and what it retains tells nothing.
async fn has_records(components: &Components, topic: &Topic, gap: &Gap) -> Result<Option<bool>> {
    let Some(retained) = topic.retained.get(&gap.partition) else {
        return Ok(None);
    };
    let left = gap.from.max(retained.start)..gap.to.min(retained.end);
    let range = Ranges::from([(gap.partition, left.clone())]);
    let mut reader = TopicReader::between(components.brokers(), &topic.name, &range)?;
    while let Some(message) = reader.next().await? {
        let raw = message.payload().unwrap_or_default();
        match clean(topic.kind, raw, components.shared.max_bytes) {
            Ok(_) | Err(Rejection::KeyMissing { .. } | Rejection::KeyUnreadable { .. }) => {
                return Ok(Some(true));
            }
            Err(_) => {}
        }
    }
    Ok((left.start == gap.from).then_some(false))
}

fn message(gap: &Gap) -> String {
    let front = match (&gap.before, &gap.after) {
        (None, Some(_)) => {
            ". If an expiry rule of the bucket has deleted them, a full run is no longer possible"
        }
        _ => "",
    };
    format!("{gap}{front}")
}

/// What the archive has committed; nothing of a pipeline without one.
async fn committed(components: &Components, topic: &Topic) -> Result<Positions> {
    let Some(group) = components.archive_group.clone() else {
        return Ok(Positions::new());
    };
    let access = Access::read(&components.shared.kafka)?;
    let partitions = topic.retained.keys().map(|partition| (*partition, 0));
    let wanted = Positions::from([(topic.name.clone(), partitions.collect())]);
    let asked = tokio::task::spawn_blocking(move || {
        let progress = Progress::new(&access, "pinpipe-batch", &group, BROKER_TIMEOUT)?;
        progress.committed(&wanted)
    });
    asked.await?.context("the archive's position")
}

/// The first offsets that the archive's objects covered when the state was begun.
async fn begin(components: &Components, store: &Store) -> Result<Positions> {
    let runs = Runs::new(&components.shared.pipeline);
    let pointer: Option<Pointer> = store.find_json(&runs.pointer()).await?;
    let Some(key) = pointer.and_then(|pointer| pointer.state) else {
        return Ok(Positions::new());
    };
    let state: Option<State> = store.find_json(&key).await?;
    Ok(state.map(|state| state.begin).unwrap_or_default())
}

/// A raw object.
#[derive(Clone, Debug)]
pub struct Covered {
    /// What it covers.
    pub span: Span,
    /// The key of its index object; `None` if it has no lines and needs none.
    index: Option<String>,
}

impl Covered {
    fn without_index(&self) -> String {
        format!(
            "the index object of {} is missing, so no batch run can read its lines: restore {}",
            self.span.key,
            self.index.as_deref().unwrap_or_default()
        )
    }
}

/// The raw objects whose index object is missing.
async fn lost_indexes(
    store: &Store,
    raw: &RawPartition,
    objects: &[Covered],
) -> Result<Vec<Covered>> {
    // An index is written before its object, so those of the objects are among these.
    let listed = store.list(&raw.index_folder(store.prefix())).await?;
    let listed: HashSet<String> = listed.into_iter().map(|object| object.key).collect();
    let is_lost = |object: &&Covered| {
        let index = object.index.as_ref();
        index.is_some_and(|index| !listed.contains(index))
    };
    Ok(objects.iter().filter(is_lost).cloned().collect())
}

/// The raw objects of a partition.
pub async fn covered(store: &Store, raw: &RawPartition) -> Result<Vec<Covered>> {
    let objects = store.raw_objects(raw, 0).await?;
    let covered = stream::iter(objects).map(async |object| {
        let metadata = store.raw_metadata(&object.key).await?;
        // One that was deleted since the listing is missing.
        anyhow::Ok(metadata.map(|metadata| Covered {
            span: Span::new(&object.key, object.first, &metadata),
            index: (metadata.record_count > 0).then_some(metadata.index),
        }))
    });
    let covered: Vec<Option<Covered>> = covered.buffered(REQUESTS).try_collect().await?;
    Ok(covered.into_iter().flatten().collect())
}

/// What the objects of a partition must cover.
struct Chain {
    /// The archive's committed position.
    committed: Option<i64>,
    /// The first offset that the archive's objects once covered.
    begin: Option<i64>,
    /// The first offset that the topic retains.
    retained: Option<i64>,
}

impl Chain {
    /// The gaps before and between the objects, in order.
    fn gaps(&self, raw: &RawPartition, spans: &[Span]) -> Vec<Gap> {
        // The archive starts at the first record that the topic has then.
        let (front, mut middle) = gaps(raw, spans, self.begin.or(self.retained));
        let mut found: Vec<Gap> = front.into_iter().collect();
        while let Some(gap) = middle {
            let rest = spans.iter().filter(|span| span.first >= gap.to);
            let rest: Vec<Span> = rest.cloned().collect();
            found.push(gap);
            middle = gaps(raw, &rest, None).1;
        }
        found
    }

    /// What the archive has read but no object covers, behind all objects.
    fn end(&self, raw: &RawPartition, spans: &[Span]) -> Option<Gap> {
        let last = spans.iter().max_by_key(|span| span.next);
        let from = last.map_or(self.begin.or(self.retained), |last| Some(last.next))?;
        let to = self.committed.filter(|committed| *committed > from)?;
        Some(Gap {
            topic: raw.topic.clone(),
            partition: raw.partition,
            from,
            to,
            before: last.map(|last| last.key.clone()),
            after: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(chain: &Chain, spans: &[(i64, i64)]) -> Vec<(i64, i64)> {
        let raw = RawPartition {
            topic: "t".into(),
            partition: 0,
        };
        let spans = spans.iter().map(|(first, next)| Span {
            key: format!("t+0+{first:010}.json"),
            first: *first,
            next: *next,
            topic_id: None,
        });
        let spans: Vec<Span> = spans.collect();
        let gaps = chain.gaps(&raw, &spans).into_iter();
        let all = gaps.chain(chain.end(&raw, &spans));
        all.map(|gap| (gap.from, gap.to)).collect()
    }

    #[test]
    fn every_gap_is_found_at_the_front_between_and_at_the_end() {
        let chain = |committed, begin, retained| Chain {
            committed,
            begin,
            retained,
        };
        let spans = [(0, 5), (5, 9), (12, 20), (25, 30)];
        for (chain, spans, expected) in [
            (
                chain(Some(30), Some(0), Some(0)),
                &spans[..],
                &[(9, 12), (20, 25)][..],
            ),
            (chain(Some(31), None, None), &spans[..2], &[(9, 31)]),
            (chain(None, None, None), &spans[..2], &[]),
            (chain(Some(9), Some(0), Some(7)), &spans[1..2], &[(0, 5)]),
            // Never covered: the topic had lost its first records when the archive began.
            (chain(Some(9), None, Some(7)), &spans[1..2], &[]),
            (chain(Some(9), None, Some(3)), &spans[1..2], &[(3, 5)]),
            (chain(Some(9), None, Some(3)), &[], &[(3, 9)]),
            (chain(Some(9), None, Some(9)), &[], &[]),
            (chain(None, None, Some(0)), &[], &[]),
        ] {
            assert_eq!(found(&chain, spans), expected, "{spans:?}");
        }
    }
}
