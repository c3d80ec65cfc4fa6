//! Resets: positions a user sets in place of a sink's own, and the message of a halted sink, which
//! names the reset to request.

use std::collections::BTreeMap;

use pinpipe_config::{Reset, ResetTo, Stream, StreamSink};
use pinpipe_runtime::raw_zone;

use crate::{
    log::{Extent, Position},
    sink::Halt,
};

/// Whether a reset includes this topic.
#[must_use]
pub fn applies_to(reset: &Reset, topic: &str) -> bool {
    reset.topic.as_deref().is_none_or(|named| named == topic)
}

/// The new position of each partition. `at` holds the first position not before
/// [`ResetTo::Time`], in partitions that have one.
pub fn targets(
    topic: &str,
    to: ResetTo,
    logs: &BTreeMap<i32, Extent>,
    at: &BTreeMap<i32, Position>,
) -> Result<BTreeMap<i32, Position>, Halt> {
    let target = |(&partition, &log): (&i32, &Extent)| match to {
        ResetTo::Earliest => Ok((partition, log.low)),
        ResetTo::Latest => Ok((partition, log.high)),
        ResetTo::Time(_) => Ok((partition, at.get(&partition).copied().unwrap_or(log.high))),
        ResetTo::Offset(offset) if log.contains(Position::offset(offset)) => {
            Ok((partition, Position::offset(offset)))
        }
        ResetTo::Offset(offset) => Err(Halt::ResetImpossible(format!(
            "offset {offset} is outside the log of {topic}[{partition}], which holds {} to {}: \
             name one within it, or earliest or latest",
            log.low, log.high
        ))),
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
            "kubectl annotate -n {namespace} pp {name} --overwrite pinpipe.dev/reset-sink='{what}'"
        )
    };
    match (halt, &config.sink) {
        (Halt::RecordsRefused { offset, .. }, _) => {
            format!(
                "{halt}: {}",
                command(&format!("{sink}/{topic}/{partition}=offset:{}", offset + 1))
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
            "{halt}. To go on at the earliest record there is: {} (or latest, offset:<n>, \
             time:<RFC 3339>; '{sink}/{topic}/{partition}=…' for this partition alone)",
            command(&format!("{sink}=earliest#{}", reset_id(halt)))
        ),
    }
}

/// The part of a reset's id that tells this halt from earlier ones: a request is carried out only
/// once.
fn reset_id(halt: &Halt) -> String {
    match halt {
        Halt::TopicReplaced { found, .. } => found.clone(),
        Halt::OffsetOutOfRange { position, .. } => position.clone(),
        _ => String::new(),
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

    fn logs() -> BTreeMap<i32, Extent> {
        [(0, extent(10, 20)), (1, extent(0, 15))].into()
    }

    #[test]
    fn every_form_of_a_reset_gives_offsets_within_the_log() {
        let at = BTreeMap::from([(0, Position::offset(13))]);
        for (to, expected) in [
            (ResetTo::Earliest, [(0, 10), (1, 0)]),
            (ResetTo::Latest, [(0, 20), (1, 15)]),
            (ResetTo::Offset(15), [(0, 15), (1, 15)]),
            (ResetTo::Time(1), [(0, 13), (1, 15)]),
        ] {
            let expected = expected.map(|(partition, to)| (partition, Position::offset(to)));
            assert_eq!(
                targets("t", to, &logs(), &at),
                Ok(expected.into()),
                "{to:?}"
            );
        }
    }

    #[test]
    fn an_offset_outside_a_log_is_refused_with_the_log_s_bounds() {
        for (offset, partition) in [(9, "t[0]"), (16, "t[1]")] {
            let message = targets("t", ResetTo::Offset(offset), &logs(), &BTreeMap::new())
                .unwrap_err()
                .to_string();
            assert!(message.contains(partition), "{message}");
        }
    }

    #[test]
    fn a_halted_sink_names_the_annotation_that_resets_it() {
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
                "pinpipe.dev/reset-sink='live/p/2=offset:42'",
            ),
            (
                &gone,
                postgres,
                "kubectl annotate -n data pp pinterest --overwrite \
                 pinpipe.dev/reset-sink='live=earliest#1'",
            ),
            (&replaced, postgres, "'live=earliest#new' (or latest"),
            (&replaced, postgres, "'live/p/2=…'"),
            (
                &gone,
                archive,
                "pinpipe.dev/reset-sink='archive=earliest#1'",
            ),
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
