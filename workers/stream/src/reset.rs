//! Resets: positions a user sets in place of a sink's own, how far one is, and the message of a
//! halted sink, which names the reset to request.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use pinpipe_config::{PartitionOffset, Reset, ResetState, ResetTo, Stream, StreamSink};
use pinpipe_runtime::raw_zone;

use crate::{
    log::{Extent, Position},
    sink::Halt,
};

/// The reset in the worker's configuration, and how far it is.
#[derive(Debug)]
pub struct RequestedReset {
    /// The reset.
    pub reset: Reset,
    state: Mutex<ResetState>,
}

impl RequestedReset {
    /// A reset of which nothing is known yet.
    #[must_use]
    pub fn new(reset: Reset) -> Self {
        let state = ResetState {
            id: reset.id.clone(),
            ..ResetState::default()
        };
        Self {
            reset,
            state: Mutex::new(state),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> ResetState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes the new positions of a topic's partitions.
    pub fn note_moved(&self, topic: &str, positions: &BTreeMap<i32, Position>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = positions
            .iter()
            .map(|(partition, to)| (format!("{topic}[{partition}]"), to.to_string()));
        state.moved.extend(moved);
    }

    /// Notes that the sink has it as completed in a topic, or why it can't be completed there.
    pub fn note(&self, topic: &str, outcome: Result<(), String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => _ = state.done.insert(topic.to_owned()),
            Err(problem) => state.problem = Some(problem),
        }
    }
}

/// The new position of each partition. `at` holds the first position not before
/// [`ResetTo::Time`], in partitions that have one.
pub fn targets(
    topic: &str,
    to: &ResetTo,
    logs: &BTreeMap<i32, Extent>,
    at: &BTreeMap<i32, Position>,
) -> Result<BTreeMap<i32, Position>, Halt> {
    let target = |(&partition, &log): (&i32, &Extent)| match to {
        ResetTo::Earliest => Ok((partition, log.low)),
        ResetTo::Latest => Ok((partition, log.high)),
        ResetTo::Time(_) => Ok((partition, at.get(&partition).copied().unwrap_or(log.high))),
        ResetTo::Offsets(offsets) => {
            let is_it =
                |named: &&PartitionOffset| named.topic == topic && named.partition == partition;
            match offsets.iter().find(is_it).map(|named| named.offset) {
                Some(offset) if log.contains(Position::offset(offset)) => {
                    Ok((partition, Position::offset(offset)))
                }
                Some(offset) => Err(Halt::ResetImpossible(format!(
                    "offset {offset} is outside the log of {topic}[{partition}], which holds {} to \
                     {}: name one within it, or earliest or latest",
                    log.low, log.high
                ))),
                None => Err(no_such_partition(topic, partition, logs)),
            }
        }
    };
    logs.iter().map(target).collect()
}

/// The error for a reset of a partition that does not exist.
#[must_use]
pub fn no_such_partition(topic: &str, partition: i32, logs: &BTreeMap<i32, Extent>) -> Halt {
    let last = logs.keys().next_back().copied().unwrap_or(0);
    Halt::ResetImpossible(format!(
        "{topic} has no partition {partition}: its partitions are 0 to {last}"
    ))
}

/// Why a sink is halted, and what the user can do.
#[must_use]
pub fn explain(halt: &Halt, config: &Stream) -> String {
    let (Halt::TopicReplaced {
        source_name: source,
        ..
    }
    | Halt::OffsetOutOfRange {
        source_name: source,
        ..
    }
    | Halt::RecordsRefused {
        source_name: source,
        ..
    }) = halt
    else {
        return halt.to_string();
    };
    let (topic, partition) = source
        .trim_end_matches(']')
        .rsplit_once('[')
        .unwrap_or((source, "0"));
    let sink = match &config.sink {
        StreamSink::Archive(_) => "archive",
        StreamSink::Postgres(postgres) => postgres.name.as_str(),
    };
    let pipeline = &config.pipeline;
    let command = |what: &str| {
        let (namespace, name) = (&pipeline.namespace, &pipeline.name);
        format!(
            "kubectl pinpipe reset -n {namespace} {name} {sink} {what}, or a PinterestRun with \
             spec.reset"
        )
    };
    let kind = kind(config, topic);
    match (halt, &config.sink) {
        (Halt::RecordsRefused { offset, .. }, _) => {
            let next = offset + 1;
            format!(
                "{halt}: {}",
                command(&format!("--offset {kind}/{partition}={next}"))
            )
        }
        (Halt::TopicReplaced { .. }, StreamSink::Archive(archive)) => {
            let zone = format!(
                "s3://{}",
                raw_zone::joined(&archive.zone.bucket, &archive.zone.prefix)
            );
            format!(
                "{halt}. The new topic's objects would have the names of the old one's: move \
                 {zone}/{topic}/ and {zone}/_index/{topic}/ out of the archive's prefix, and the \
                 archive starts at the earliest record of the new topic"
            )
        }
        _ => format!(
            "{halt}. To go on at the earliest record there is: {}. It takes latest or a time, \
             too, and --offset {kind}/{partition}=<offset> for this partition alone",
            command(&format!("--kind {kind} --to earliest"))
        ),
    }
}

/// The kind of a topic's records, as a `PinterestRun` has it.
fn kind(config: &Stream, topic: &str) -> &'static str {
    let topics = &config.topics;
    if topics.geo.name == topic {
        "Geo"
    } else if topics.user.name == topic {
        "User"
    } else {
        "Pin"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(low: i64, high: i64) -> Extent {
        Extent {
            low: Position::offset(low),
            high: Position::offset(high),
        }
    }

    fn offsets(named: &[(i32, i64)]) -> ResetTo {
        let offset = |(partition, offset): &(i32, i64)| PartitionOffset {
            topic: "t".to_owned(),
            partition: *partition,
            offset: *offset,
        };
        ResetTo::Offsets(named.iter().map(offset).collect())
    }

    fn logs() -> BTreeMap<i32, Extent> {
        [(0, extent(10, 20)), (1, extent(0, 15))].into()
    }

    #[test]
    fn every_form_of_a_reset_gives_offsets_within_the_log() {
        let at = BTreeMap::from([(0, Position::offset(13))]);
        for (to, expected) in [
            (ResetTo::Earliest, [(0, 10), (1, 0)]),
            (ResetTo::Latest, [(0, 20), (1, 15)]),
            (offsets(&[(0, 15), (1, 15)]), [(0, 15), (1, 15)]),
            (ResetTo::Time(1), [(0, 13), (1, 15)]),
        ] {
            let expected = expected.map(|(partition, to)| (partition, Position::offset(to)));
            assert_eq!(
                targets("t", &to, &logs(), &at),
                Ok(expected.into()),
                "{to:?}"
            );
        }
    }

    #[test]
    fn an_offset_outside_a_log_is_refused_with_the_log_s_bounds() {
        for (named, partition) in [([(0, 9), (1, 3)], "t[0]"), ([(0, 12), (1, 16)], "t[1]")] {
            let message = targets("t", &offsets(&named), &logs(), &BTreeMap::new())
                .unwrap_err()
                .to_string();
            assert!(message.contains(partition), "{message}");
        }
    }

    #[test]
    fn a_halted_sink_names_the_command_that_resets_it() {
        let yaml = "configVersion: 1\n\
            pipeline: {namespace: data, name: pinterest, uid: u}\n\
            kafka: {bootstrapServers: k}\n\
            topics:\n  \
              pin: {name: p, deadLetter: p.dlq}\n  \
              geo: {name: g, deadLetter: g.dlq}\n  \
              user: {name: u, deadLetter: u.dlq}\n\
            group: g\nmaxRecordBytes: 1\nwritesDeadLetters: false\nsink: ";
        let postgres =
            "!postgres {name: live, urlFile: f, schema: s, startFrom: earliest, writeMode: upsert}";
        let archive = "!archive {zone: {bucket: b, prefix: topics, s3: {region: r, \
            credentialsDir: d}}, compression: none, \
            rotate: {bytes: 1, records: 1, intervalSeconds: 1}}";
        let config =
            |sink: &str| pinpipe_config::parse::<Stream>(&format!("{yaml}{sink}\n")).unwrap();
        let gone = Halt::OffsetOutOfRange {
            source_name: "p[2]".into(),
            position: "1".into(),
            low: "5".into(),
            high: "9".into(),
        };
        let replaced = Halt::TopicReplaced {
            source_name: "p[2]".into(),
            found: "new".into(),
            found_cluster: String::new(),
            stored: String::new(),
            stored_cluster: String::new(),
        };
        let refused = Halt::RecordsRefused {
            source_name: "p[2]".into(),
            offset: 41,
            limit: 100,
            of: 10_000,
            code: "23514".into(),
            sentence: "no".into(),
        };
        for (halt, sink, expected) in [
            (
                &refused,
                postgres,
                "kubectl pinpipe reset -n data pinterest live --offset Pin/2=42",
            ),
            (
                &gone,
                postgres,
                "kubectl pinpipe reset -n data pinterest live --kind Pin --to earliest",
            ),
            (&replaced, postgres, "live --kind Pin --to earliest"),
            (&replaced, postgres, "--offset Pin/2=<offset>"),
            (&gone, archive, "pinterest archive --kind Pin --to earliest"),
            (
                &replaced,
                archive,
                "move s3://b/topics/p/ and s3://b/topics/_index/p/ out",
            ),
        ] {
            let message = explain(halt, &config(sink));
            assert!(message.contains(expected), "{message}");
        }
    }
}
