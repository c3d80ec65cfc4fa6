//! What the topic has at given offsets, or the archive where the topic has expired.

use anyhow::Result;
use pinpipe_core::{Kind, Order, clean};
use pinpipe_runtime::raw_zone::RawPartition;
use rdkafka::Message as _;
use tracing::warn;

use super::{Topic, raw::covered};
use crate::{
    coverage::Span,
    dead_letters::{Ranges, TopicReader},
    decode,
    inspect::{components::Components, objects},
    store::Store,
};

/// Ranges that are nearer to each other are read at once.
const NEAR: i64 = 10_000;
/// Most clean records that are kept: the first ones.
pub const MAX_CLEAN: usize = 1_000_000;

/// What is at some offsets of a partition.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The offsets of records that can be keyed, in order.
    pub clean: Vec<i64>,
    /// How many records can't.
    pub rejected: u64,
    /// How many offsets have no record.
    pub without: u64,
    /// Ranges of which nothing is known.
    pub unknown: Vec<(i64, i64)>,
}

/// Looks up ranges of offsets, which are in order.
pub async fn lookup(
    components: &Components,
    store: Option<&Store>,
    topic: &Topic,
    partition: i32,
    ranges: &[(i64, i64)],
) -> Result<Records> {
    let mut records = Records::default();
    let retained = topic
        .retained
        .get(&partition)
        .map_or(i64::MAX, |range| range.start);
    let expired: Vec<(i64, i64)> = ranges
        .iter()
        .map(|(from, to)| (*from, (*to).min(retained)))
        .filter(|(from, to)| from < to)
        .collect();
    if !expired.is_empty() {
        match store {
            Some(store) => {
                archived(components, store, topic, partition, &expired, &mut records).await?;
            }
            None => records.unknown.clone_from(&expired),
        }
    }
    let kept: Vec<(i64, i64)> = ranges
        .iter()
        .map(|(from, to)| ((*from).max(retained), *to))
        .filter(|(from, to)| from < to)
        .collect();
    for near in kept.chunk_by(|one, other| other.0 - one.1 < NEAR) {
        in_topic(components, topic, partition, near, &mut records).await?;
    }
    let offsets: i64 = ranges.iter().map(|(from, to)| to - from).sum();
    let unknown: i64 = records.unknown.iter().map(|(from, to)| to - from).sum();
    let found = records.clean.len() as u64 + records.rejected;
    records.without = u64::try_from(offsets - unknown)?.saturating_sub(found);
    Ok(records)
}

fn is_within(ranges: &[(i64, i64)], offset: i64) -> bool {
    let after = ranges.partition_point(|(from, _)| *from <= offset);
    after.checked_sub(1).is_some_and(|at| offset < ranges[at].1)
}

impl Records {
    fn add(&mut self, kind: Kind, raw: &[u8], max_bytes: usize, offset: i64) {
        if clean(kind, raw, max_bytes).is_err() {
            self.rejected += 1;
        } else if self.clean.len() < MAX_CLEAN {
            self.clean.push(offset);
        }
    }
}

async fn in_topic(
    components: &Components,
    topic: &Topic,
    partition: i32,
    ranges: &[(i64, i64)],
    records: &mut Records,
) -> Result<()> {
    let (Some((from, _)), Some((_, to))) = (ranges.first(), ranges.last()) else {
        return Ok(());
    };
    let range = Ranges::from([(partition, *from..*to)]);
    let mut reader = TopicReader::between(components.brokers(), &topic.name, &range)?;
    while let Some(message) = reader.next().await? {
        if is_within(ranges, message.offset()) {
            let raw = message.payload().unwrap_or_default();
            records.add(
                topic.kind,
                raw,
                components.shared.max_bytes,
                message.offset(),
            );
        }
    }
    Ok(())
}

/// Looks into the raw objects. Records that aren't JSON have no line there, and count as offsets
/// without a record.
async fn archived(
    components: &Components,
    store: &Store,
    topic: &Topic,
    partition: i32,
    ranges: &[(i64, i64)],
    records: &mut Records,
) -> Result<()> {
    let raw = RawPartition {
        topic: topic.name.clone(),
        partition,
    };
    let objects = covered(store, &raw).await?;
    let spans: Vec<Span> = objects.into_iter().map(|object| object.span).collect();
    for (from, to) in ranges {
        records.unknown.extend(uncovered(&spans, *from, *to));
    }
    for span in spans {
        let wanted = Wanted {
            kind: topic.kind,
            max_bytes: components.shared.max_bytes,
            ranges: ranges
                .iter()
                .copied()
                .filter(|(from, to)| *from < span.next && span.first < *to)
                .collect(),
            records: Records::default(),
        };
        if !wanted.ranges.is_empty() {
            match objects::read(store, topic.kind, partition, &span.key, &wanted).await {
                Ok(Wanted { records: found, .. }) => {
                    records.clean.extend(found.clean);
                    records.rejected += found.rejected;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    warn!(error, key = span.key, "the raw object can't be read");
                    let ranges = wanted.ranges.iter();
                    let within =
                        ranges.map(|(from, to)| ((*from).max(span.first), (*to).min(span.next)));
                    records.unknown.extend(within);
                }
            }
        }
    }
    records.clean.sort_unstable();
    // Objects may overlap.
    records.clean.dedup();
    Ok(())
}

/// The parts of a range that no object covers.
fn uncovered(spans: &[Span], from: i64, to: i64) -> Vec<(i64, i64)> {
    let mut sorted: Vec<(i64, i64)> = spans.iter().map(|span| (span.first, span.next)).collect();
    sorted.sort_unstable();
    let (mut parts, mut at) = (Vec::new(), from);
    for (first, next) in sorted {
        if first >= to {
            break;
        }
        if first > at {
            parts.push((at, first));
        }
        at = at.max(next);
    }
    if at < to {
        parts.push((at, to));
    }
    parts
}

/// Takes the lines of an object whose offsets are wanted.
#[derive(Clone)]
struct Wanted {
    kind: Kind,
    max_bytes: usize,
    ranges: Vec<(i64, i64)>,
    records: Records,
}

impl decode::Records for Wanted {
    fn record(&mut self, raw: &[u8], _: Order, position: Order) -> Result<()> {
        if is_within(&self.ranges, position.offset) {
            self.records
                .add(self.kind, raw, self.max_bytes, position.offset);
        }
        Ok(())
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_object_covers_is_unknown() {
        let spans: Vec<Span> = [(5, 8), (0, 3), (7, 9)]
            .map(|(first, next)| Span {
                key: String::new(),
                first,
                next,
                topic_id: None,
            })
            .into();
        assert_eq!(uncovered(&spans, 0, 12), [(3, 5), (9, 12)]);
        assert_eq!(uncovered(&spans, 5, 9), []);
        assert_eq!(uncovered(&[], 1, 2), [(1, 2)]);
    }

    #[test]
    fn an_offset_is_within_the_ranges_that_have_it() {
        let ranges = [(1, 3), (5, 6)];
        let within: Vec<i64> = (0..8).filter(|at| is_within(&ranges, *at)).collect();
        assert_eq!(within, [1, 2, 5]);
    }
}
