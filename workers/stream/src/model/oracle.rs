//! The oracle: the invariants of the store.

use super::{
    log::{self, Broker, EntryKind, PartitionLog, raw},
    reference::{Like, Store},
};
use crate::log::Position;

/// Checks that the store holds every record before the position once, as it was posted, and none
/// behind it; that rejected and refused records are in the dead letters before the position passes
/// them; and that the group's position is not ahead of what is stored. Once the run has `settled`,
/// the positions of all partitions but `except` must be at the ends of their logs.
pub fn check(store: &Store, broker: &Broker, settled: bool, except: &[i32]) -> Result<(), String> {
    if let Some(fault) = store.fault.as_ref().or(broker.fault.as_ref()) {
        return Err(fault.clone());
    }
    for partition in broker.partition_ids() {
        let log = broker.log(partition);
        check_partition(store, broker, log, partition)
            .map_err(|what| format!("partition {partition}: {what}"))?;
        if settled && !except.contains(&partition) {
            check_end(store, log, partition)
                .map_err(|what| format!("partition {partition}: {what}"))?;
        }
    }
    Ok(())
}

fn check_partition(
    store: &Store,
    broker: &Broker,
    log: &PartitionLog,
    partition: i32,
) -> Result<(), String> {
    let reached = store.reached.get(&partition).copied().unwrap_or_default();
    // Objects begin behind records of which nothing is stored.
    let start = match store.like {
        Like::Table => store.started_at.get(&partition).copied(),
        Like::Objects => None,
    };
    let start = start.unwrap_or_default();
    let committed = broker.committed.get(&partition).copied();
    let committed = committed.filter(|_| !store.replayed.contains(&partition));
    let end = committed.map_or(reached, |committed| committed.max(reached));
    for (index, entry) in log.between(start, end) {
        let row = store.rows.get(&(partition, entry.after));
        let letter = |refused| {
            let offset = i64::try_from(index).unwrap();
            store.letters.contains(&(partition, offset, refused))
        };
        let time = if entry.stamped_by_producer {
            0
        } else {
            entry.time
        };
        let wanted = (time, raw(entry.kind, partition, index));
        match entry.kind {
            EntryKind::Record(_) if row == Some(&wanted) => {}
            EntryKind::Record(_) if row.is_none() && entry.compacted => {}
            EntryKind::Record(_) => return Err(format!("record {index} is stored as {row:?}")),
            EntryKind::Refused(_) if !letter(true) => {
                return Err(format!("refused record {index} is not in the dead letters"));
            }
            _ => {}
        }
    }
    // A log without groups has no position of the dead letters: this sink alone writes them.
    let written = match broker.like {
        log::Like::Kafka => broker.letters.get(&partition).copied(),
        log::Like::Kinesis => Some(end),
    };
    for (index, entry) in log.between(start, written.unwrap_or_default()) {
        let offset = i64::try_from(index).unwrap();
        if entry.kind == EntryKind::Rejected && !store.letters.contains(&(partition, offset, false))
        {
            return Err(format!(
                "rejected record {index} is not in the dead letters"
            ));
        }
    }
    let rows = store.rows.range((partition, Position::START)..);
    for ((_, after), _) in rows.take_while(|((number, _), _)| *number == partition) {
        if *after <= start || *after > reached {
            return Err(format!(
                "the record before {after} is stored, outside the position"
            ));
        }
    }
    Ok(())
}

fn check_end(store: &Store, log: &PartitionLog, partition: i32) -> Result<(), String> {
    let stored = store.positions.get(&partition).copied();
    let high = log.extent().high;
    let is_left = |(_, entry): (usize, &super::log::Entry)| {
        matches!(entry.kind, EntryKind::Record(_)) && !entry.compacted
    };
    let is_done = match store.like {
        Like::Table => stored == Some(high),
        Like::Objects => !log.between(stored.unwrap_or_default(), high).any(is_left),
    };
    if is_done {
        Ok(())
    } else {
        Err(format!("is stored up to {stored:?} of {high}"))
    }
}

/// Checks that partitions added after the first position was stored start at their start.
pub fn check_start(store: &Store, first_partitions: usize) -> Result<(), String> {
    let late = store.started_at.iter().find(|(number, started_at)| {
        usize::try_from(**number).unwrap() >= first_partitions && **started_at > Position::START
    });
    match late {
        Some((partition, started_at)) if store.like == Like::Table => Err(format!(
            "partition {partition} was added later and starts at {started_at}"
        )),
        _ => Ok(()),
    }
}
