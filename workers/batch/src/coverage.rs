//! Checks that the raw objects of a partition join end to start, so that a lost object is noticed
//! instead of being taken for offsets without records.

use std::{collections::BTreeMap, fmt};

use pinpipe_runtime::raw_zone::RawPartition;
use serde::Serialize;
use tracing::warn;

use crate::{
    failure::Permanent,
    manifest::{Manifest, Positions, RunKind},
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
}

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

/// Checks what a run of `manifest` has read, given the state of the last finished run. Returns the
/// first offset of each partition for the run's own state, and the gaps that the run goes without.
pub fn check(
    manifest: &Manifest,
    spans: &Spans,
    previous: Option<&State>,
) -> Result<(Positions, Vec<Gap>), Permanent> {
    let mut begin = Positions::new();
    let known = |partition: &RawPartition| {
        let begin = &previous?.begin;
        begin
            .get(&partition.topic)?
            .get(&partition.partition)
            .copied()
    };
    if let Some(previous) = previous.filter(|_| manifest.kind != RunKind::Full) {
        begin.clone_from(&previous.begin);
    }
    for (topic, partitions) in &manifest.begin {
        for (&partition, &first) in partitions {
            let known = begin.entry(topic.clone()).or_default();
            known.entry(partition).or_insert(first);
        }
    }
    let mut accepted = Vec::new();
    for (partition, spans) in spans {
        let RawPartition {
            topic,
            partition: number,
        } = partition;
        let run_from = manifest.from.get(topic).and_then(|from| from.get(number));
        let (full, from) = match manifest.kind {
            RunKind::Full => (true, known(partition)),
            RunKind::Incremental => (false, run_from.copied()),
            // A backfill leaves out objects of other times: its plan has checked them all.
            RunKind::Backfill { .. } | RunKind::Import => continue,
        };
        let (front, middle) = gaps(partition, spans, from);
        if let Some(gap) = middle {
            return Err(gap.into_error());
        }
        match front {
            Some(gap) if full => return Err(gap.into_error()),
            Some(gap) => {
                warn!("{gap}; the run goes on without them");
                accepted.push(gap);
            }
            None => {}
        }
        // Only a run that reads from the front on shows where the archive begins.
        if run_from.is_none_or(|from| *from == 0)
            && let Some(first) = spans.iter().map(|span| span.first).min()
        {
            let partitions = begin.entry(topic.clone()).or_default();
            partitions.entry(*number).or_insert(first);
        }
    }
    if manifest.kind == RunKind::Full {
        for (topic, partitions) in previous.iter().flat_map(|previous| &previous.begin) {
            for (&partition, &from) in partitions {
                let to = manifest.to.get(topic).and_then(|to| to.get(&partition));
                let raw = RawPartition {
                    topic: topic.clone(),
                    partition,
                };
                if let Some(&to) = to.filter(|to| **to > from)
                    && !spans.contains_key(&raw)
                {
                    return Err(Gap {
                        topic: raw.topic,
                        partition,
                        from,
                        to,
                        before: None,
                        after: None,
                    }
                    .into_error());
                }
            }
        }
    }
    Ok((begin, accepted))
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
mod tests {
    use super::*;

    fn partition() -> RawPartition {
        RawPartition {
            topic: "t".into(),
            partition: 3,
        }
    }

    fn spans(offsets: &[(i64, i64)]) -> Vec<Span> {
        let span = |&(first, next): &(i64, i64)| Span {
            key: format!("t/{first}"),
            first,
            next,
        };
        offsets.iter().map(span).collect()
    }

    type Found = Option<(i64, i64)>;

    fn found(offsets: &[(i64, i64)], from: Option<i64>) -> (Found, Found) {
        let (front, middle) = gaps(&partition(), &spans(offsets), from);
        let offsets = |gap: Gap| (gap.from, gap.to);
        (front.map(offsets), middle.map(offsets))
    }

    #[test]
    fn objects_that_join_end_to_start_have_no_gap_in_any_order() {
        for offsets in [
            &[][..],
            &[(0, 10)],
            &[(0, 10), (10, 11), (11, 500)],
            &[(11, 500), (0, 10), (10, 11)],
            // The same first offset, once plain and once compressed, and a smaller one within.
            &[(0, 10), (0, 20), (5, 7), (20, 30)],
        ] {
            assert_eq!(found(offsets, Some(0)), (None, None), "{offsets:?}");
        }
        assert_eq!(
            found(&[(40, 60)], Some(50)),
            (None, None),
            "the last run ended within an object"
        );
    }

    #[test]
    fn a_gap_at_the_front_and_one_in_the_middle_are_told_apart() {
        assert_eq!(found(&[(70, 80)], Some(50)), (Some((50, 70)), None));
        assert_eq!(found(&[(70, 80)], None), (None, None), "nothing is known");
        assert_eq!(
            found(&[(0, 10), (12, 20), (30, 40)], Some(0)),
            (None, Some((10, 12)))
        );
        assert_eq!(
            found(&[(5, 10), (10, 20), (30, 40)], Some(0)),
            (Some((0, 5)), Some((20, 30)))
        );
    }

    fn manifest(kind: RunKind, from: i64, to: i64) -> Manifest {
        let positions = |offset| Positions::from([("t".into(), [(3, offset)].into())]);
        Manifest {
            run: "r".into(),
            run_time: chrono::DateTime::UNIX_EPOCH,
            release: String::new(),
            kind,
            state: None,
            state_id: String::new(),
            buckets: 64,
            from: positions(from),
            to: positions(to),
            begin: Positions::new(),
            objects: Vec::new(),
        }
    }

    fn previous(begin: i64) -> State {
        State {
            run: "q".into(),
            run_time: None,
            id: String::new(),
            begin: Positions::from([("t".into(), [(3, begin)].into())]),
            listed: Positions::new(),
            buckets: 64,
            tables: BTreeMap::new(),
            latest: BTreeMap::new(),
        }
    }

    #[test]
    fn only_a_full_run_needs_the_records_that_expired() {
        let read = |offsets: &[(i64, i64)]| Spans::from([(partition(), spans(offsets))]);
        let expired = read(&[(70, 80)]);
        let incremental = manifest(RunKind::Incremental, 50, 80);
        let (begin, gaps) = check(&incremental, &expired, Some(&previous(5))).unwrap();
        assert_eq!(begin["t"][&3], 5, "where the state began");
        assert_eq!((gaps[0].from, gaps[0].to), (50, 70));

        let full = manifest(RunKind::Full, 0, 80);
        let error = check(&full, &expired, Some(&previous(5))).unwrap_err();
        assert!(error.to_string().contains("offsets 5 to 69"), "{error}");
        let error = check(&full, &Spans::new(), Some(&previous(5))).unwrap_err();
        assert!(error.to_string().contains("no later object"), "{error}");
        let (begin, gaps) = check(&full, &expired, None).unwrap();
        assert_eq!(
            (begin["t"][&3], gaps.len()),
            (70, 0),
            "the first run takes what the topic still had when its archive began"
        );
        for kind in [RunKind::Incremental, RunKind::Full] {
            let torn = read(&[(0, 10), (20, 80)]);
            assert!(check(&manifest(kind, 0, 80), &torn, None).is_err());
        }
    }

    #[test]
    fn the_state_begins_where_the_archive_did_not_where_the_run_does() {
        let read = Spans::from([(partition(), spans(&[(45, 60)]))]);
        // A state of a release that didn't note it.
        let mut earlier = previous(0);
        earlier.begin = Positions::new();
        let mut incremental = manifest(RunKind::Incremental, 50, 60);
        let begin = |manifest: &Manifest| check(manifest, &read, Some(&earlier)).unwrap().0;
        assert_eq!(begin(&incremental), Positions::new(), "it isn't known");
        incremental.begin = Positions::from([("t".into(), [(3, 7)].into())]);
        assert_eq!(begin(&incremental), incremental.begin);
        let added = manifest(RunKind::Incremental, 0, 60);
        assert_eq!(begin(&added)["t"][&3], 45, "a new partition");
    }

    #[test]
    fn the_message_names_partition_offsets_both_objects_and_what_to_do() {
        let (_, middle) = gaps(&partition(), &spans(&[(0, 10), (12, 20)]), Some(0));
        let message = middle.unwrap().into_error().to_string();
        for part in [
            "t[3]",
            "10 to 11",
            "t/0 ends",
            "t/12, begins at 12",
            "Restore",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
