//! Plans a run: decides which offsets and raw objects it reads, and puts them into its manifest.

mod archived;
#[cfg(test)]
mod server_tests;

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};
use pinpipe_config::{Batch, Compression, Pipeline, Topics};
use pinpipe_core::Kind;
use pinpipe_runtime::{compressed, documents::Unreadable, raw_zone::RawPartition};
use tracing::{info, warn};

use self::archived::archived_objects;
use crate::{
    barrier,
    failure::Permanent,
    manifest::{Format, Manifest, Positions, RELEASE, RawObject, RunKind, run_time},
    read::topic,
    runs::{Pointer, Runs, full_run_command},
    state::{self, State},
    store::{ListedObject, Store},
};

/// Estimated ratio of a compressed raw object's decompressed size to its stored size.
const COMPRESSION_RATIO: u64 = 8;

/// What a new run should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Records that no run has read yet.
    Incremental,
    /// All records.
    Full,
    /// The records of a time range, read again.
    Backfill {
        /// Start, inclusive.
        from: DateTime<Utc>,
        /// End, exclusive.
        to: DateTime<Utc>,
    },
    /// Objects written by another tool.
    Import {
        /// Key prefix of objects written by an S3 sink connector.
        connector: Option<String>,
        /// Key prefixes of objects that hold a single record each, by kind of record.
        single: Vec<(Kind, String)>,
    },
}

/// Plans a new run that builds on the last finished one. Returns its manifest without writing it.
pub async fn manifest(
    config: &Batch,
    store: &Store,
    runs: &Runs,
    run: String,
    request: &Request,
    last: Option<&Pointer>,
) -> Result<Manifest> {
    let base = last.filter(|last| last.state.is_some());
    let (kind, base) = match request {
        Request::Incremental if base.is_some() => (RunKind::Incremental, base),
        Request::Incremental | Request::Full => (RunKind::Full, None),
        Request::Backfill { .. } | Request::Import { .. } if base.is_none() && last.is_some() => {
            bail!(Permanent(format!(
                "the last run left no state to build on. Start a full run first, then start this \
                 one again: {}",
                full_run_command(&config.pipeline)
            )))
        }
        Request::Backfill { from, to } => (
            RunKind::Backfill {
                from: *from,
                to: *to,
            },
            base,
        ),
        Request::Import { .. } => (RunKind::Import, base),
    };
    let already_read = match base {
        Some(base) => runs.read(store, &base.run).await?.to,
        None => Positions::new(),
    };
    let previous = match last.and_then(|last| last.state.as_deref()) {
        Some(key) => usable_state(&kind, store.find_json(key).await)?,
        None => None,
    };
    let state = previous.as_ref().filter(|_| base.is_some());
    let to = match kind {
        RunKind::Incremental | RunKind::Full => barrier::wait(config).await?,
        RunKind::Backfill { .. } | RunKind::Import => already_read.clone(),
    };
    let from = to
        .iter()
        .map(|(topic, ends)| (topic.clone(), start_offsets(ends, already_read.get(topic))))
        .collect();
    check_no_truncation(&config.pipeline, &from, &to)?;
    let run_time = run_time(Utc::now(), last.map(|last| last.run_time));
    let mut manifest = Manifest {
        state_id: state_id(&config.pipeline, run_time, previous.as_ref()),
        run,
        run_time,
        release: RELEASE.to_owned(),
        kind,
        state: base.map(|base| base.run.clone()),
        buckets: 0,
        from,
        to,
        begin: Positions::new(),
        covered: state.map(|state| state.covered.clone()).unwrap_or_default(),
        objects: Vec::new(),
    };
    let selected = if let Request::Import { connector, single } = request {
        let mut selected = Vec::new();
        let mut prefixes = Vec::new();
        if let Some(prefix) = connector {
            selected.extend(connector_objects(store, &config.topics, prefix).await?);
            prefixes.push(prefix.as_str());
        }
        for (kind, prefix) in single {
            selected.extend(single_objects(*kind, &store.list(&folder(prefix)).await?));
            prefixes.push(prefix);
        }
        ensure!(
            !selected.is_empty(),
            Permanent(format!(
                "no object to import under the prefix {} in the bucket {}: see \
                 docs/how-to/backfill-and-import.md for how objects must be named",
                prefixes.join(", "),
                config.zone.bucket
            ))
        );
        selected
    } else {
        let (selected, begin) = archived_objects(store, &config.topics, &manifest, state).await?;
        manifest.begin = begin;
        selected
    };
    let raw_bytes = |(object, bytes): &(RawObject, u64)| {
        if is_plain(&object.key) {
            *bytes
        } else {
            bytes.saturating_mul(COMPRESSION_RATIO)
        }
    };
    manifest.buckets = state::buckets(state, selected.iter().map(raw_bytes).sum());
    manifest.objects = selected.into_iter().map(|(object, _)| object).collect();
    info!(
        run = manifest.run,
        kind = manifest.kind.as_str(),
        builds_on = manifest.state,
        objects = manifest.objects.len(),
        "run planned"
    );
    Ok(manifest)
}

/// The state of the last finished run, as it was read. A full run does without one that is no
/// state: it is the cure.
pub fn usable_state(kind: &RunKind, read: Result<Option<State>>) -> Result<Option<State>> {
    match read {
        Err(error) if *kind == RunKind::Full && error.is::<Unreadable>() => {
            warn!("{error}; this full run does without it");
            Ok(None)
        }
        read => read,
    }
}

/// The id of the state that a run writes: that of the last one, or a new one.
fn state_id(pipeline: &Pipeline, run_time: DateTime<Utc>, previous: Option<&State>) -> String {
    match previous {
        Some(previous) if !previous.id.is_empty() => previous.id.clone(),
        _ => format!("{}-{}", pipeline.uid, run_time.timestamp_micros()),
    }
}

/// The first offset to read of each partition in `ends`: where the last run ended, or 0 for a new
/// partition.
fn start_offsets(
    ends: &BTreeMap<i32, i64>,
    already_read: Option<&BTreeMap<i32, i64>>,
) -> BTreeMap<i32, i64> {
    let start = |partition| {
        already_read
            .and_then(|offsets| offsets.get(partition))
            .copied()
            .unwrap_or(0)
    };
    ends.keys()
        .map(|partition| (*partition, start(partition)))
        .collect()
}

/// Fails if a partition now ends before the offset that the last run read up to. End offsets never
/// decrease, unless a topic is deleted and created again.
fn check_no_truncation(pipeline: &Pipeline, from: &Positions, to: &Positions) -> Result<()> {
    for (topic, ends) in to {
        for (partition, end) in ends {
            let start = from
                .get(topic)
                .and_then(|starts| starts.get(partition))
                .copied()
                .unwrap_or(0);
            ensure!(
                start <= *end,
                Permanent(format!(
                    "{topic}[{partition}] ends at offset {end}, but the last run read up to \
                     {start}: the topic was recreated, or the Kafka cluster was replaced. Once \
                     the archive writes the new topic's objects, start a full run: {}",
                    full_run_command(pipeline)
                ))
            );
        }
    }
    Ok(())
}

/// The objects of an S3 sink connector. Their keys have the same format as the archive's, under
/// another prefix.
async fn connector_objects(
    store: &Store,
    topics: &Topics,
    prefix: &str,
) -> Result<Vec<(RawObject, u64)>> {
    let prefix = prefix.trim_matches('/');
    ensure!(
        prefix != store.prefix(),
        Permanent(format!(
            "{prefix} is the prefix of this pipeline's own archive, which every run reads: import \
             the prefix of another tool's objects"
        ))
    );
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let topic = &topic(topics, kind).name;
        let listed = store.list(&folder(&format!("{prefix}/{topic}"))).await?;
        let mut objects: Vec<_> = listed
            .iter()
            .filter_map(|object| {
                let (partition, first) = connector_key(prefix, topic, &object.key)?;
                Some((partition, first, object))
            })
            .collect();
        objects.sort_unstable_by_key(|(partition, first, _)| (*partition, *first));
        found.extend(objects.into_iter().map(|(partition, first, object)| {
            (
                RawObject {
                    kind,
                    partition,
                    key: object.key.clone(),
                    format: Format::Connector(first),
                },
                object.bytes,
            )
        }));
    }
    Ok(found)
}

/// Parses the partition and first offset from the key of a connector's object. `None` for any other
/// key.
fn connector_key(prefix: &str, topic: &str, key: &str) -> Option<(i32, i64)> {
    let path = key
        .strip_prefix(prefix)?
        .trim_start_matches('/')
        .strip_prefix(topic)?;
    let (partition, _) = path.strip_prefix("/partition=")?.split_once('/')?;
    let partition: i32 = partition.parse().ok()?;
    let raw = RawPartition {
        topic: topic.to_owned(),
        partition,
    };
    Some((partition, raw.first_offset(prefix, key)?))
}

/// Objects that hold a single record each, numbered in key order. Keys that don't end in `.json`
/// are skipped.
fn single_objects(kind: Kind, listed: &[ListedObject]) -> Vec<(RawObject, u64)> {
    let mut objects: Vec<&ListedObject> = listed
        .iter()
        .filter(|object| is_plain(&object.key))
        .collect();
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let object = |(number, object): (i64, &ListedObject)| {
        (
            RawObject {
                kind,
                partition: -1,
                key: object.key.clone(),
                format: Format::Single(number),
            },
            object.bytes,
        )
    };
    (0..).zip(objects).map(object).collect()
}

/// Whether a key is that of an uncompressed raw object.
fn is_plain(key: &str) -> bool {
    matches!(compressed::split(key), Some((_, Compression::None)))
}

/// Ends a key prefix with a slash, so that `events` doesn't match `events-old/`. An empty prefix
/// stays empty.
fn folder(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn positions(offsets: &[(i32, i64)]) -> Positions {
        Positions::from([("t".to_owned(), offsets.iter().copied().collect())])
    }

    #[test]
    fn a_partition_starts_where_the_last_run_ended_and_a_new_one_at_0() {
        let to = positions(&[(0, 10), (1, 5)]);
        assert_eq!(
            start_offsets(&to["t"], positions(&[(0, 7)]).get("t")),
            BTreeMap::from([(0, 7), (1, 0)])
        );
        assert_eq!(
            start_offsets(&to["t"], None),
            BTreeMap::from([(0, 0), (1, 0)])
        );
    }

    #[test]
    fn a_truncated_partition_is_a_permanent_error() {
        let pipeline = Pipeline {
            namespace: "data".into(),
            name: "pins".into(),
            uid: "u".into(),
        };
        let check =
            |from: &[_], to: &[_]| check_no_truncation(&pipeline, &positions(from), &positions(to));
        check(&[(0, 7)], &[(0, 7), (1, 0)]).unwrap();
        let error = check(&[(0, 8)], &[(0, 7)]).unwrap_err();
        assert!(error.is::<Permanent>());
        let message = error.to_string();
        for part in [
            "t[0] ends at offset 7",
            "helm install pins-full charts/pinpipe-job --namespace data \
             --set pipeline=pins,command=full",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_full_run_does_without_a_state_that_is_cut_off() {
        let cut_off = || {
            let error = serde_json::from_str::<State>("{").unwrap_err();
            Err(Unreadable::new("bucket", "runs/data.pins/a/state.json", error).into())
        };
        assert_eq!(usable_state(&RunKind::Full, cut_off()).unwrap(), None);
        assert!(usable_state(&RunKind::Incremental, cut_off()).is_err());
        let unavailable = usable_state(&RunKind::Full, Err(anyhow!("unavailable")));
        assert!(unavailable.is_err(), "that isn't the state's fault");
    }

    #[test]
    fn connector_keys_are_parsed_and_other_keys_are_ignored() {
        for (key, expected) in [
            (
                "old/topics/t/partition=2/t+2+0000000042.json",
                Some((2, 42)),
            ),
            (
                "old/topics/t/partition=2/t+2+0000000042.json.gz",
                Some((2, 42)),
            ),
            ("old/topics/t/partition=2/t+1+0000000042.json", None),
            ("old/topics/t/partition=2/readme.json", None),
            ("old/topics/t/readme.json", None),
            ("old/topics/t2/partition=2/t2+2+0000000042.json", None),
        ] {
            assert_eq!(connector_key("old/topics", "t", key), expected, "{key}");
        }
    }

    #[test]
    fn single_records_are_numbered_in_key_order() {
        let listed = [
            "events/event-b.json",
            "events/readme.txt",
            "events/event-a.json",
        ]
        .map(|key| ListedObject {
            key: key.into(),
            modified: 0,
            bytes: 1,
        });
        let found: Vec<_> = single_objects(Kind::Pin, &listed)
            .into_iter()
            .map(|(object, _)| (object.key, object.format))
            .collect();
        let expected = [
            ("events/event-a.json".to_owned(), Format::Single(0)),
            ("events/event-b.json".to_owned(), Format::Single(1)),
        ];
        assert_eq!(found, expected);
        assert_eq!(
            (folder("events"), folder("/events/"), folder("")),
            ("events/".into(), "events/".into(), String::new())
        );
    }
}
