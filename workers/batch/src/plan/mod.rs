//! Plans a run: decides which offsets and raw objects it reads, and puts them into its manifest.

mod archived;
mod imports;
#[cfg(test)]
mod server_tests;

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};
use pinpipe_config::{Batch, Pipeline};
use pinpipe_runtime::documents::Unreadable;
use serde::Deserialize;
use tracing::{info, warn};

use self::imports::Planned;
#[cfg(test)]
pub use self::imports::plan as import;
pub use self::{
    archived::archived_objects,
    imports::{ImportRequest, SourceRequest},
};
use crate::{
    barrier,
    failure::Permanent,
    manifest::{Import, Manifest, Positions, RELEASE, RawObject, RunKind, run_time},
    runs::{Pointer, Run, Runs, full_run},
    state::{self, State},
    store::Store,
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
    Import(ImportRequest),
}

/// Plans a new run that builds on the last finished one, and whose rows are later than that one's
/// and than those of `after`. Returns its manifest without writing it.
pub async fn manifest(
    config: &Batch,
    store: &Store,
    runs: &Runs,
    run: String,
    request: &Request,
    last: Option<&Pointer>,
    after: Option<DateTime<Utc>>,
) -> Result<Manifest> {
    let base = last.filter(|last| last.state.is_some());
    let (kind, base) = match request {
        Request::Incremental if base.is_some() => (RunKind::Incremental, base),
        Request::Incremental | Request::Full => (RunKind::Full, None),
        Request::Backfill { .. } | Request::Import(_) if base.is_none() && last.is_some() => {
            bail!(Permanent(format!(
                "the last run left no state to build on. Start a full run first, then start this \
                 one again: {}",
                full_run(&config.pipeline)
            )))
        }
        Request::Backfill { from, to } => (
            RunKind::Backfill {
                from: *from,
                to: *to,
            },
            base,
        ),
        Request::Import(_) => (RunKind::Import, base),
    };
    let already_read = match base {
        Some(base) => runs.end(store, &base.run).await?,
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
    let run_time = run_time(Utc::now(), last.map(|last| last.run_time).max(after));
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
        import: Import::default(),
        objects: Vec::new(),
    };
    let selected = if let Request::Import(request) = request {
        let Planned { objects, import } = imports::plan(config, store, request, run_time).await?;
        manifest.import = import;
        objects
    } else {
        let (selected, begin) = archived_objects(store, &config.topics, &manifest, state).await?;
        manifest.begin = begin;
        selected
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

/// Fails if an import would do nothing, or something else, since there is a run of its name: one
/// with another request, or one that a full run has followed.
pub async fn check_is_no_other(
    store: &Store,
    runs: &Runs,
    run: &Run,
    request: &ImportRequest,
    last: Option<&Pointer>,
) -> Result<()> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        kind: RunKind,
        #[serde(default)]
        import: Import,
    }
    let name = &run.name;
    let Asked { kind, import } = store.get_json(&runs.manifest(name)).await?;
    let asked = &import.request;
    let is_same = asked.is_empty() || *asked == serde_json::to_string(request)?;
    ensure!(
        kind == RunKind::Import && is_same,
        Permanent(format!(
            "nothing was imported: there is a run {name} with other values; choose another name"
        ))
    );
    ensure!(
        !run.is_finished() || runs.is_in_state(store, name, last).await?,
        Permanent(format!(
            "nothing was imported: there is a run {name}, and a full run that came after it has \
             forgotten what it imported; choose another name"
        ))
    );
    Ok(())
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
                    full_run(pipeline)
                ))
            );
        }
    }
    Ok(())
}

/// Bytes of an object's text: estimated, if its key says that it is compressed.
fn raw_bytes((object, bytes): &(RawObject, u64)) -> u64 {
    if imports::is_compressed(&object.key) {
        bytes.saturating_mul(COMPRESSION_RATIO)
    } else {
        *bytes
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
            "create a PinterestRun in the namespace data with the spec {pipelineRef: {name: pins}, \
             batch: {full: true}}",
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
}
