//! Where to resume: the sink's position checked against the log.

mod lookup;

use std::collections::BTreeMap;

use pinpipe_config::StartFrom;

pub use self::lookup::{Assigned, Found, Resume};
use crate::{
    log::{Extent, Position},
    sink::{Halt, InitialPosition, Source, StoredPosition},
};

/// Where a partition resumes.
#[derive(Clone, Debug)]
pub struct Start {
    /// The partition.
    pub source: Source,
    /// The sink's position.
    pub stored: Position,
    /// The position to read from.
    pub fetch: Position,
    /// The consumer group's committed position.
    pub committed: Option<Position>,
    /// The position up to which the dead letters of rejected records are written; none where this
    /// worker doesn't write them.
    pub letters: Option<Position>,
    /// Records before it that their producers stamped are of the time before the broker stamped
    /// this topic's records.
    pub history: Position,
}

/// The sink's position, which the next commit expects, and the position to read from. Fails rather
/// than skip a record silently.
pub fn start(
    source: &Source,
    initial: InitialPosition,
    stored: Option<&StoredPosition>,
    committed: Option<Position>,
    log: Extent,
) -> Result<(Position, Position), Halt> {
    let out_of_range = |position: Position| Halt::OffsetOutOfRange {
        source_name: source.to_string(),
        position: position.to_string(),
        low: log.low.to_string(),
        high: log.high.to_string(),
    };
    let Some(stored) = stored else {
        return Ok((log.low, log.low));
    };
    Halt::check_identity(source, &stored.cluster_id, &stored.topic_id)?;
    if log.contains(stored.next) {
        return Ok((stored.next, stored.next));
    }
    match committed {
        // Between the two were only rejected records and markers, without which this sink does not
        // move its position.
        Some(committed)
            if initial == InitialPosition::LogStart
                && !stored.noted
                && stored.next < committed
                && log.contains(committed) =>
        {
            Ok((stored.next, committed))
        }
        _ => Err(out_of_range(stored.next)),
    }
}

/// The initial positions of a topic's partitions that have none stored: by `from` where the sink
/// has no position in the topic yet, else at the start, since those partitions were added later.
#[must_use]
pub fn initial_positions(
    from: StartFrom,
    stored: &BTreeMap<i32, StoredPosition>,
    logs: &BTreeMap<i32, Extent>,
) -> BTreeMap<i32, Position> {
    logs.iter()
        .filter(|(partition, _)| !stored.contains_key(partition))
        .map(|(partition, log)| {
            let first = match from {
                _ if !stored.is_empty() => Position::START,
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
            next: at(next),
            noted: false,
        }
    }

    const STORED: InitialPosition = InitialPosition::Stored(StartFrom::Earliest);
    const LOG: Extent = extent(10, 20);

    const fn at(offset: i64) -> Position {
        Position::offset(offset)
    }

    const fn extent(low: i64, high: i64) -> Extent {
        Extent {
            low: at(low),
            high: at(high),
        }
    }

    #[test]
    fn a_partition_resumes_at_the_stored_position_within_the_log() {
        for next in [10, 15, 20] {
            for committed in [None, Some(at(3)), Some(at(18))] {
                let resumed = start(&source(), STORED, Some(&position(next)), committed, LOG);
                assert_eq!(resumed, Ok((at(next), at(next))));
            }
        }
    }

    #[test]
    fn a_position_outside_the_log_halts_the_sink() {
        for next in [9, 21] {
            for (initial, committed) in [
                (STORED, Some(at(15))),
                (InitialPosition::LogStart, None),
                (InitialPosition::LogStart, Some(at(5))),
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
                InitialPosition::LogStart,
                Some(&position(5)),
                Some(at(12)),
                LOG
            ),
            Ok((at(5), at(12)))
        );
    }

    #[test]
    fn an_archive_without_objects_never_resumes_at_the_group_s_offset() {
        let noted = StoredPosition {
            noted: true,
            ..position(5)
        };
        let (log, committed) = (InitialPosition::LogStart, Some(at(12)));
        let halt = start(&source(), log, Some(&noted), committed, LOG).unwrap_err();
        assert_eq!(halt.reason(), "OffsetOutOfRange");
    }

    #[test]
    fn an_archive_without_objects_starts_at_the_log_s_start() {
        for committed in [None, Some(at(5)), Some(at(15))] {
            let started = start(&source(), InitialPosition::LogStart, None, committed, LOG);
            assert_eq!(started, Ok((at(10), at(10))), "{committed:?}");
        }
    }

    #[test]
    fn another_topic_of_the_name_halts_the_sink() {
        for (cluster_id, topic_id) in [("other", "topic"), ("cluster", "other")] {
            let stored = StoredPosition {
                cluster_id: cluster_id.into(),
                topic_id: topic_id.into(),
                next: at(15),
                noted: false,
            };
            let halt = start(&source(), STORED, Some(&stored), None, LOG).unwrap_err();
            assert_eq!(halt.reason(), "TopicReplaced");
        }
    }

    #[test]
    fn initial_positions_cover_all_partitions_at_first_and_later_ones_start_at_0() {
        let logs = BTreeMap::from([(0, LOG), (1, extent(0, 5))]);
        let none = BTreeMap::new();
        assert_eq!(
            initial_positions(StartFrom::Earliest, &none, &logs),
            BTreeMap::from([(0, at(10)), (1, at(0))])
        );
        assert_eq!(
            initial_positions(StartFrom::Latest, &none, &logs),
            BTreeMap::from([(0, at(20)), (1, at(5))])
        );
        let some = BTreeMap::from([(0, position(15))]);
        assert_eq!(
            initial_positions(StartFrom::Latest, &some, &logs),
            BTreeMap::from([(1, at(0))])
        );
    }
}
