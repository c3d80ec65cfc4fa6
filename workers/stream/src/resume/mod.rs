//! Where to resume: the sink's position checked against the log.

mod broker;
mod lookup;

use std::collections::BTreeMap;

use pinpipe_config::StartFrom;

pub use self::{
    broker::same_identity,
    lookup::{Assigned, Resume},
};
use crate::{
    log::Position,
    sink::{Halt, InitialPosition, Source, StoredPosition},
};

/// Where a partition resumes.
#[derive(Clone, Debug)]
pub struct Start {
    /// The partition.
    pub source: Source,
    /// The sink's position.
    pub stored: i64,
    /// The offset to read next.
    pub fetch: i64,
    /// The consumer group's committed offset.
    pub committed: Option<i64>,
}

/// The offsets in a partition's log: `low..high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The first offset.
    pub low: i64,
    /// The offset behind the last.
    pub high: i64,
}

impl Log {
    /// Whether `position` can be read from.
    pub fn contains(self, position: i64) -> bool {
        (self.low..=self.high).contains(&position)
    }
}

/// The sink's position, which the next commit expects, and the offset to read next. Fails rather
/// than skip a record silently.
pub fn start(
    source: &Source,
    initial: InitialPosition,
    stored: Option<&StoredPosition>,
    committed: Option<i64>,
    log: Log,
) -> Result<(i64, i64), Halt> {
    let out_of_range = |position| Halt::OffsetOutOfRange {
        source_name: source.to_string(),
        position: Position::offset(position),
        low: Position::offset(log.low),
        high: Position::offset(log.high),
    };
    let Some(stored) = stored else {
        let first = committed.unwrap_or(log.low);
        return if log.contains(first) {
            Ok((first, first))
        } else {
            Err(out_of_range(first))
        };
    };
    Halt::check_identity(source, &stored.cluster_id, &stored.topic_id)?;
    let next = stored.next.next_offset();
    if log.contains(next) {
        return Ok((next, next));
    }
    match committed {
        // Between the two were only rejected records and markers, without which this sink does not
        // move its position.
        Some(committed)
            if initial == InitialPosition::GroupOffset
                && next < committed
                && log.contains(committed) =>
        {
            Ok((next, committed))
        }
        _ => Err(out_of_range(next)),
    }
}

/// The initial positions of a topic's partitions that have none stored: by `from` where the sink
/// has no position in the topic yet, else 0, since those partitions were added later.
pub fn initial_positions(
    from: StartFrom,
    stored: &BTreeMap<i32, StoredPosition>,
    logs: &BTreeMap<i32, Log>,
) -> BTreeMap<i32, i64> {
    logs.iter()
        .filter(|(partition, _)| !stored.contains_key(partition))
        .map(|(partition, log)| {
            let first = match from {
                _ if !stored.is_empty() => 0,
                StartFrom::Earliest => log.low,
                StartFrom::Latest => log.high,
            };
            (*partition, first)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pinpipe_core::Kind;

    use super::*;
    use crate::sink::Topic;

    fn source() -> Source {
        let topic = Topic {
            kind: Kind::Pin,
            name: "t".into(),
            cluster_id: "cluster".into(),
            id: "topic".into(),
        };
        Source {
            topic: Arc::new(topic),
            partition: 1,
        }
    }

    fn position(next: i64) -> StoredPosition {
        StoredPosition {
            cluster_id: "cluster".into(),
            topic_id: "topic".into(),
            next: Position::offset(next),
        }
    }

    const STORED: InitialPosition = InitialPosition::Stored(StartFrom::Earliest);
    const LOG: Log = Log { low: 10, high: 20 };

    #[test]
    fn a_partition_resumes_at_the_stored_position_within_the_log() {
        for next in [10, 15, 20] {
            for committed in [None, Some(3), Some(18)] {
                let resumed = start(&source(), STORED, Some(&position(next)), committed, LOG);
                assert_eq!(resumed, Ok((next, next)));
            }
        }
    }

    #[test]
    fn a_position_outside_the_log_halts_the_sink() {
        for next in [9, 21] {
            for (initial, committed) in [
                (STORED, Some(15)),
                (InitialPosition::GroupOffset, None),
                (InitialPosition::GroupOffset, Some(5)),
            ] {
                let halt =
                    start(&source(), initial, Some(&position(next)), committed, LOG).unwrap_err();
                assert_eq!(halt.reason(), "OffsetOutOfRange");
            }
        }
    }

    #[test]
    fn the_archive_resumes_at_the_group_s_offset_where_it_had_nothing_to_store() {
        assert_eq!(
            start(
                &source(),
                InitialPosition::GroupOffset,
                Some(&position(5)),
                Some(12),
                LOG
            ),
            Ok((5, 12))
        );
    }

    #[test]
    fn an_emptied_archive_resumes_at_the_committed_offset() {
        assert_eq!(
            start(&source(), InitialPosition::GroupOffset, None, Some(15), LOG),
            Ok((15, 15))
        );
        assert_eq!(
            start(&source(), InitialPosition::GroupOffset, None, None, LOG),
            Ok((10, 10))
        );
        assert!(start(&source(), InitialPosition::GroupOffset, None, Some(5), LOG).is_err());
    }

    #[test]
    fn another_topic_of_the_name_halts_the_sink() {
        for (cluster_id, topic_id) in [("other", "topic"), ("cluster", "other")] {
            let stored = StoredPosition {
                cluster_id: cluster_id.into(),
                topic_id: topic_id.into(),
                next: Position::offset(15),
            };
            let halt = start(&source(), STORED, Some(&stored), None, LOG).unwrap_err();
            assert_eq!(halt.reason(), "TopicReplaced");
        }
    }

    #[test]
    fn initial_positions_cover_all_partitions_at_first_and_later_ones_start_at_0() {
        let logs = BTreeMap::from([(0, LOG), (1, Log { low: 0, high: 5 })]);
        let none = BTreeMap::new();
        assert_eq!(
            initial_positions(StartFrom::Earliest, &none, &logs),
            BTreeMap::from([(0, 10), (1, 0)])
        );
        assert_eq!(
            initial_positions(StartFrom::Latest, &none, &logs),
            BTreeMap::from([(0, 20), (1, 5)])
        );
        let some = BTreeMap::from([(0, position(15))]);
        assert_eq!(
            initial_positions(StartFrom::Latest, &some, &logs),
            BTreeMap::from([(1, 0)])
        );
    }
}
