//! Which raw objects a run reads.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use pinpipe_config::{Batch, Compression, Topics};
use pinpipe_core::Kind;
use pinpipe_runtime::{
    compressed,
    raw_zone::{self, RawPartition},
};
use tracing::info;

use crate::{
    barrier,
    manifest::{Form, Manifest, Pointer, Positions, RawObject, RunKind, Runs, run_time},
    read::topic,
    state::{self, State},
    store::{Listed, Store},
};

/// How much larger a compressed raw object is when it is read, about.
const COMPRESSION: u64 = 8;

/// What is asked of a new run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Whatever is new.
    Incremental,
    /// Everything.
    Full,
    /// A span of time again.
    Backfill {
        /// The first moment.
        from: DateTime<Utc>,
        /// The first moment behind it.
        to: DateTime<Utc>,
    },
    /// Objects of somebody else.
    Import {
        /// The prefix of a connector's objects.
        connector: Option<String>,
        /// The prefixes of objects that are one record each.
        single: Vec<(Kind, String)>,
    },
}

/// Fixes what a new run covers, on top of the last one.
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
            bail!(
                "the last run left no state to build on: run once with --full (PINPIPE_FULL=true), then this again"
            )
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
    let loaded = match base {
        Some(base) => runs.read(store, &base.run).await?.to,
        None => Positions::new(),
    };
    let state: Option<State> = match base {
        Some(base) => Some(store.get_json(&runs.state(&base.run)).await?),
        None => None,
    };
    let to = match kind {
        RunKind::Incremental | RunKind::Full => barrier::wait(config).await?,
        RunKind::Backfill { .. } | RunKind::Import => loaded.clone(),
    };
    let from = to
        .iter()
        .map(|(topic, ends)| (topic.clone(), begins(ends, loaded.get(topic))))
        .collect();
    check_forward(&from, &to)?;
    let mut manifest = Manifest {
        run,
        run_time: run_time(Utc::now(), last.map(|last| last.run_time)),
        kind,
        state: base.map(|base| base.run.clone()),
        buckets: 0,
        from,
        to,
        objects: Vec::new(),
    };
    let chosen = match request {
        Request::Import { connector, single } => {
            let mut chosen = Vec::new();
            if let Some(prefix) = connector {
                chosen.extend(connector_objects(store, &config.topics, prefix).await?);
            }
            for (kind, prefix) in single {
                chosen.extend(single_objects(*kind, &store.list(&folder(prefix)).await?));
            }
            ensure!(
                !chosen.is_empty(),
                "no object to import was found: see docs/how-to/backfill-and-import.md for how they \
                 have to be named"
            );
            chosen
        }
        _ => archived(store, &config.topics, &manifest).await?,
    };
    let bytes = |(object, bytes): &(RawObject, u64)| {
        if is_plain(&object.key) {
            *bytes
        } else {
            bytes.saturating_mul(COMPRESSION)
        }
    };
    manifest.buckets = state::buckets(state.as_ref(), chosen.iter().map(bytes).sum());
    manifest.objects = chosen.into_iter().map(|(object, _)| object).collect();
    info!(
        run = manifest.run,
        kind = manifest.kind.as_str(),
        builds_on = manifest.state,
        objects = manifest.objects.len(),
        "the run is fixed"
    );
    Ok(manifest)
}

/// Where the partitions begin that end at `ends`: where the last run ended, or at 0.
fn begins(ends: &BTreeMap<i32, i64>, loaded: Option<&BTreeMap<i32, i64>>) -> BTreeMap<i32, i64> {
    let begin = |partition| {
        loaded
            .and_then(|loaded| loaded.get(partition))
            .copied()
            .unwrap_or(0)
    };
    ends.keys()
        .map(|partition| (*partition, begin(partition)))
        .collect()
}

/// A log never gets shorter; a topic made anew under its name does.
fn check_forward(from: &Positions, to: &Positions) -> Result<()> {
    for (topic, ends) in to {
        for (partition, end) in ends {
            let begin = from
                .get(topic)
                .and_then(|begins| begins.get(partition))
                .copied()
                .unwrap_or(0);
            ensure!(
                begin <= *end,
                "{topic}[{partition}] ends at {end}, and the last run has read up to {begin}: the topic was made anew, or a Kafka \
                 cluster put in the place of another. Once the archive's raw objects are in order, run with --full (PINPIPE_FULL=true)"
            );
        }
    }
    Ok(())
}

/// Our archive's objects that hold records of the run, in the log's order, with their sizes.
async fn archived(
    store: &Store,
    topics: &Topics,
    manifest: &Manifest,
) -> Result<Vec<(RawObject, u64)>> {
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        let topic = &topic(topics, kind).name;
        for &partition in manifest.to.get(topic).into_iter().flat_map(BTreeMap::keys) {
            let window = manifest.window(topic, partition);
            let listed = store
                .raw_objects(&RawPartition {
                    topic: topic.clone(),
                    partition,
                })
                .await?;
            for (number, object) in listed.iter().enumerate() {
                let next = listed.get(number + 1).map(|next| next.first);
                let covered = object.first < window.offsets.end
                    && next.is_none_or(|next| next > window.offsets.start);
                if covered && holds_times(store, object, &manifest.kind).await? {
                    let key = object.key.clone();
                    objects.push((
                        RawObject {
                            kind,
                            partition,
                            key,
                            form: Form::Archive,
                        },
                        object.bytes,
                    ));
                }
            }
        }
    }
    Ok(objects)
}

/// Whether an object has records of the times a run covers: only backfills ask, by a request an
/// object.
async fn holds_times(store: &Store, object: &raw_zone::RawObject, kind: &RunKind) -> Result<bool> {
    let RunKind::Backfill { from, to } = kind else {
        return Ok(true);
    };
    let facts = store.raw_facts(&object.key).await?;
    let facts =
        facts.with_context(|| format!("the raw object {} was listed and is gone", object.key))?;
    let overlaps =
        facts.min_time < to.timestamp_millis() && facts.max_time >= from.timestamp_millis();
    Ok(facts.record_count > 0 && overlaps)
}

/// The objects of an S3 sink connector: those named as ours are, in a prefix of its own.
async fn connector_objects(
    store: &Store,
    topics: &Topics,
    prefix: &str,
) -> Result<Vec<(RawObject, u64)>> {
    let prefix = prefix.trim_matches('/');
    ensure!(
        prefix != store.prefix(),
        "{prefix} is the prefix of this pipeline's own archive, which every run reads: --import is for objects of others"
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
                    form: Form::Connector(first),
                },
                object.bytes,
            )
        }));
    }
    Ok(found)
}

/// Partition and first offset in the name of a connector's object.
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

/// Objects that are one record each, in the order of their keys.
fn single_objects(kind: Kind, listed: &[Listed]) -> Vec<(RawObject, u64)> {
    let mut objects: Vec<&Listed> = listed
        .iter()
        .filter(|object| is_plain(&object.key))
        .collect();
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let object = |(number, object): (i64, &Listed)| {
        (
            RawObject {
                kind,
                partition: -1,
                key: object.key.clone(),
                form: Form::Single(number),
            },
            object.bytes,
        )
    };
    (0..).zip(objects).map(object).collect()
}

fn is_plain(key: &str) -> bool {
    matches!(compressed::split(key), Some((_, Compression::None)))
}

/// A prefix as a folder: `events` is not to find `events-old/`.
fn folder(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(offsets: &[(i32, i64)]) -> Positions {
        Positions::from([("t".to_owned(), offsets.iter().copied().collect())])
    }

    #[test]
    fn a_partition_begins_where_the_last_run_ended_and_a_new_one_at_0() {
        let to = positions(&[(0, 10), (1, 5)]);
        assert_eq!(
            begins(&to["t"], positions(&[(0, 7)]).get("t")),
            BTreeMap::from([(0, 7), (1, 0)])
        );
        assert_eq!(begins(&to["t"], None), BTreeMap::from([(0, 0), (1, 0)]));
    }

    #[test]
    fn a_log_that_got_shorter_is_refused() {
        check_forward(&positions(&[(0, 7)]), &positions(&[(0, 7), (1, 0)])).unwrap();
        let message = check_forward(&positions(&[(0, 8)]), &positions(&[(0, 7)]))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("t[0] ends at 7") && message.contains("--full"),
            "{message}"
        );
    }

    #[test]
    fn a_connectors_objects_are_told_by_their_names() {
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
    fn single_records_are_numbered_in_the_order_of_their_keys() {
        let listed = [
            "events/event-b.json",
            "events/readme.txt",
            "events/event-a.json",
        ]
        .map(|key| Listed {
            key: key.into(),
            modified: 0,
            bytes: 1,
        });
        let found: Vec<_> = single_objects(Kind::Pin, &listed)
            .into_iter()
            .map(|(object, _)| (object.key, object.form))
            .collect();
        let expected = [
            ("events/event-a.json".to_owned(), Form::Single(0)),
            ("events/event-b.json".to_owned(), Form::Single(1)),
        ];
        assert_eq!(found, expected);
        assert_eq!(
            (folder("events"), folder("/events/"), folder("")),
            ("events/".into(), "events/".into(), String::new())
        );
    }
}
