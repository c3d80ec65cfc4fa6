//! The manifest of a run: what it covers, fixed before the work begins, so that whoever takes the
//! run up does the same.
//!
//! ```text
//! runs/<namespace>.<pipeline>/<run>/manifest.json   a conditional PUT: a run has one, forever
//!                                   state.json      the rows it leaves behind: see `state`
//!                                   report.json     the run is done
//!                             latest.json           the pointer to the last run done, written last of all
//! ```

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Result, ensure};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use pinpipe_config::Pipeline;
use pinpipe_core::Kind;
use serde::{Deserialize, Serialize};

use crate::{
    state::BUCKETS,
    store::{Listed, Store},
};

pub use pinpipe_runtime::kafka::Positions;

/// What a run covers. A manifest of before there was state names none, no kind and no buckets: that
/// of a full run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The run's name.
    pub run: String,
    /// When it began, microseconds; later than every earlier run's. Its rows carry this as their
    /// timestamp.
    pub run_time: DateTime<Utc>,
    /// Which records it reads.
    #[serde(default)]
    pub kind: RunKind,
    /// The run whose state it builds on; none: on nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Buckets of the state it leaves behind.
    #[serde(default = "least_buckets")]
    pub buckets: u32,
    /// The first record of each partition that was in no run before.
    pub from: Positions,
    /// The first record of each partition that is left to the next run.
    pub to: Positions,
    /// The raw objects it reads, by kind, partition and offset.
    pub objects: Vec<RawObject>,
}

const fn least_buckets() -> u32 {
    BUCKETS
}

/// Which records a run reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunKind {
    /// Those no run has read before.
    Incremental,
    /// All of them; what was kept is left aside.
    #[default]
    Full,
    /// Those of a span of Kafka's time once more. Positions stay.
    Backfill {
        /// The first moment.
        from: DateTime<Utc>,
        /// The first moment behind it.
        to: DateTime<Utc>,
    },
    /// Objects that this pipeline's archive has not written. Positions stay.
    Import,
}

impl RunKind {
    /// Its name in reports and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
            Self::Backfill { .. } => "backfill",
            Self::Import => "import",
        }
    }
}

/// One raw object of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawObject {
    /// What it holds.
    pub kind: Kind,
    /// The partition it is from.
    pub partition: i32,
    /// Its key in the bucket.
    pub key: String,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Form::is_archive")]
    pub form: Form,
}

/// Who wrote a raw object, and so how its records are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// Our archive: an index object has each line's offset and time.
    #[default]
    Archive,
    /// An S3 sink connector: one record a line, the first of this offset. Older than all that our
    /// archive wrote.
    Connector(i64),
    /// Somebody: one record, of this number in the order of the keys. Older than what a connector
    /// wrote.
    Single(i64),
}

impl Form {
    const fn is_archive(&self) -> bool {
        matches!(self, Self::Archive)
    }
}

/// The last run done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    /// Its name.
    pub run: String,
    /// Its time.
    pub run_time: DateTime<Utc>,
    /// The key of its manifest.
    pub manifest: String,
    /// The key of its report.
    pub report: String,
    /// The key of its state; absent after a run of before there was state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A run as its objects tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// When its manifest was written, milliseconds.
    begun: i64,
    /// When its report was written.
    done: Option<i64>,
    /// Whether its state was written.
    has_state: bool,
}

impl Run {
    /// Whether it was begun and not finished.
    pub const fn is_open(&self) -> bool {
        self.done.is_none()
    }
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Finish a run that died, from its manifest.
    Finish(String),
    /// Begin the run that was asked for.
    Begin(String),
}

/// The runs of one pipeline in the bucket.
#[derive(Clone, Debug)]
pub struct Runs {
    folder: String,
}

impl Runs {
    /// Where the runs of `pipeline` are.
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            folder: format!("runs/{}.{}", pipeline.namespace, pipeline.name),
        }
    }

    /// The key of a run's manifest.
    pub fn manifest(&self, run: &str) -> String {
        format!("{}/{run}/manifest.json", self.folder)
    }

    /// The key of a run's report.
    pub fn report(&self, run: &str) -> String {
        format!("{}/{run}/report.json", self.folder)
    }

    /// The key of a run's state.
    pub fn state(&self, run: &str) -> String {
        format!("{}/{run}/state.json", self.folder)
    }

    /// The key of the pointer to the last run done.
    pub fn pointer(&self) -> String {
        format!("{}/latest.json", self.folder)
    }

    /// All runs that began, the first one first.
    pub async fn list(&self, store: &Store) -> Result<Vec<Run>> {
        Ok(self.runs(&store.list(&format!("{}/", self.folder)).await?))
    }

    fn runs(&self, objects: &[Listed]) -> Vec<Run> {
        #[derive(Default)]
        struct Found {
            begun: Option<i64>,
            done: Option<i64>,
            has_state: bool,
        }
        let mut found: BTreeMap<&str, Found> = BTreeMap::new();
        for object in objects {
            let path = object
                .key
                .strip_prefix(&self.folder)
                .and_then(|path| path.strip_prefix('/'));
            match path.and_then(|path| path.split_once('/')) {
                Some((run, "manifest.json")) => {
                    found.entry(run).or_default().begun = Some(object.modified)
                }
                Some((run, "report.json")) => {
                    found.entry(run).or_default().done = Some(object.modified)
                }
                Some((run, "state.json")) => found.entry(run).or_default().has_state = true,
                _ => {}
            }
        }
        let run = |(
            name,
            Found {
                begun,
                done,
                has_state,
            },
        ): (&str, Found)| {
            Some(Run {
                name: name.to_owned(),
                begun: begun?,
                done,
                has_state,
            })
        };
        let mut runs: Vec<Run> = found.into_iter().filter_map(run).collect();
        runs.sort_by_key(|run| run.begun);
        runs
    }

    /// Reads a run's manifest.
    pub async fn read(&self, store: &Store, run: &str) -> Result<Manifest> {
        store.get_json(&self.manifest(run)).await
    }

    /// Fixes what a run covers. Where the run has a manifest already, that one holds.
    pub async fn begin(&self, store: &Store, manifest: Manifest) -> Result<Manifest> {
        let key = self.manifest(&manifest.run);
        if store.create_json(&key, &manifest).await? {
            return Ok(manifest);
        }
        store.get_json(&key).await
    }

    /// Points to a run that is done.
    pub async fn point_to(
        &self,
        store: &Store,
        manifest: &Manifest,
        has_state: bool,
    ) -> Result<Pointer> {
        let pointer = Pointer {
            run: manifest.run.clone(),
            run_time: manifest.run_time,
            manifest: self.manifest(&manifest.run),
            report: self.report(&manifest.run),
            state: has_state.then(|| self.state(&manifest.run)),
        };
        store.put_json(&self.pointer(), &pointer).await?;
        Ok(pointer)
    }

    /// The last run done. Where a run died between its report and the pointer, the pointer is moved
    /// first.
    pub async fn last_done(&self, store: &Store, runs: &[Run]) -> Result<Option<Pointer>> {
        let pointer: Option<Pointer> = store.find_json(&self.pointer()).await?;
        let Some(last) = runs
            .iter()
            .filter(|run| run.done.is_some())
            .max_by_key(|run| run.done)
        else {
            return Ok(pointer);
        };
        if pointer
            .as_ref()
            .is_some_and(|pointer| pointer.run == last.name)
        {
            return Ok(pointer);
        }
        let manifest = self.read(store, &last.name).await?;
        if pointer
            .as_ref()
            .is_some_and(|pointer| pointer.run_time >= manifest.run_time)
        {
            return Ok(pointer);
        }
        tracing::info!(run = last.name, "that run was done but not yet pointed to");
        self.point_to(store, &manifest, last.has_state)
            .await
            .map(Some)
    }
}

/// What a worker that was asked for the run `own` has to do. Runs that died come first: their rows
/// are older. Nothing at all when `own` is done, as when its pod died after its last write.
pub fn steps(runs: &[Run], own: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = runs
        .iter()
        .filter(|run| run.done.is_none())
        .map(|run| Step::Finish(run.name.clone()))
        .collect();
    if !runs.iter().any(|run| run.name == own) {
        steps.push(Step::Begin(own.to_owned()));
    }
    steps
}

/// The time of a new run: now, in whole microseconds, and later than the last run's whatever this
/// machine's clock says, since Cassandra keeps the cell with the greater timestamp.
pub fn run_time(now: DateTime<Utc>, last: Option<DateTime<Utc>>) -> DateTime<Utc> {
    let now = now
        .duration_trunc(TimeDelta::microseconds(1))
        .unwrap_or(now);
    last.map_or(now, |last| now.max(last + TimeDelta::microseconds(1)))
}

/// A run's name becomes part of keys: a Kubernetes name or a time, nothing else.
pub fn check_name(run: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    ensure!(
        !run.is_empty() && run.len() <= 253 && run.chars().all(fits) && !run.starts_with('.'),
        "`{run}` can't name a run: use letters, digits, `-`, `_` and `.`"
    );
    Ok(())
}

impl Manifest {
    /// Which of a raw object's records belong to the run.
    pub fn window(&self, topic: &str, partition: i32) -> Window {
        let position = |positions: &Positions| {
            positions
                .get(topic)
                .and_then(|partitions| partitions.get(&partition))
                .copied()
                .unwrap_or(0)
        };
        let (first, end) = (position(&self.from), position(&self.to));
        match self.kind {
            RunKind::Incremental => Window {
                offsets: first..end,
                times: i64::MIN..i64::MAX,
            },
            RunKind::Full => Window {
                offsets: 0..end,
                times: i64::MIN..i64::MAX,
            },
            RunKind::Backfill { from, to } => Window {
                offsets: 0..end,
                times: from.timestamp_millis()..to.timestamp_millis(),
            },
            RunKind::Import => Window {
                offsets: i64::MIN..i64::MAX,
                times: i64::MIN..i64::MAX,
            },
        }
    }
}

/// A span of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Offsets in the partition.
    pub offsets: Range<i64>,
    /// Kafka's times, milliseconds since the epoch.
    pub times: Range<i64>,
}

impl Window {
    /// Whether a record of this offset and time is in it.
    pub fn contains(&self, offset: i64, time: i64) -> bool {
        self.offsets.contains(&offset) && self.times.contains(&time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Runs {
        Runs::new(&Pipeline {
            namespace: "data".into(),
            name: "pins".into(),
            uid: "u".into(),
        })
    }

    fn listed(objects: &[(&str, i64)]) -> Vec<Run> {
        let object = |(key, modified): &(&str, i64)| Listed {
            key: format!("runs/data.pins/{key}"),
            modified: *modified,
            bytes: 1,
        };
        runs().runs(&objects.iter().map(object).collect::<Vec<_>>())
    }

    #[test]
    fn a_run_that_died_is_finished_before_another_begins() {
        let found = listed(&[
            ("b/manifest.json", 1),
            ("a/manifest.json", 2),
            ("c/manifest.json", 0),
            ("c/report.json", 9),
        ]);
        let expected = [
            Step::Finish("b".into()),
            Step::Finish("a".into()),
            Step::Begin("d".into()),
        ];
        assert_eq!(
            steps(&found, "d"),
            expected,
            "the oldest first, whatever its name"
        );
    }

    #[test]
    fn a_retried_pod_takes_its_own_run_up_and_does_nothing_when_it_is_done() {
        assert_eq!(
            steps(&listed(&[("a/manifest.json", 1)]), "a"),
            [Step::Finish("a".into())]
        );
        assert_eq!(
            steps(
                &listed(&[("a/manifest.json", 1), ("a/report.json", 2)]),
                "a"
            ),
            []
        );
        assert_eq!(steps(&listed(&[]), "a"), [Step::Begin("a".into())]);
    }

    #[test]
    fn other_objects_are_no_runs() {
        let found = listed(&[
            ("latest.json", 3),
            ("a/manifest.json.bak", 1),
            ("b/report.json", 2),
            ("c/deep/manifest.json", 1),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn time_never_goes_back() {
        let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        assert_eq!(run_time(at(100) + TimeDelta::nanoseconds(7), None), at(100));
        assert_eq!(run_time(at(100), Some(at(99))), at(100));
        assert_eq!(run_time(at(100), Some(at(100))), at(101));
        assert_eq!(
            run_time(at(100), Some(at(500))),
            at(501),
            "a clock that is behind"
        );
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let positions = |offset| {
            Positions::from([("t.pin".to_owned(), BTreeMap::from([(0, offset), (10, 5)]))])
        };
        let object = |form| RawObject {
            kind: Kind::Pin,
            partition: 0,
            key: "topics/t.pin/x".into(),
            form,
        };
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        for kind in [
            RunKind::Incremental,
            RunKind::Full,
            RunKind::Backfill {
                from: time(0),
                to: time(5_000),
            },
            RunKind::Import,
        ] {
            let manifest = Manifest {
                run: "r".into(),
                run_time: time(1_795_000_000_123_456),
                kind,
                state: Some("q".into()),
                buckets: 128,
                from: positions(0),
                to: positions(7),
                objects: vec![
                    object(Form::Archive),
                    object(Form::Connector(7)),
                    object(Form::Single(1)),
                ],
            };
            let text = serde_json::to_string(&manifest).unwrap();
            assert_eq!(
                serde_json::from_str::<Manifest>(&text).unwrap(),
                manifest,
                "{text}"
            );
        }
    }

    #[test]
    fn a_manifest_of_before_there_was_state_is_that_of_a_full_run() {
        let old = r#"{"run": "r", "runTime": "2026-11-21T10:00:00Z", "from": {"t": {"0": 0}}, "to": {"t": {"0": 7}},
            "objects": [{"kind": "pin", "partition": 0, "key": "k"}]}"#;
        let manifest: Manifest = serde_json::from_str(old).unwrap();
        assert_eq!(
            (&manifest.kind, &manifest.state, manifest.buckets),
            (&RunKind::Full, &None, BUCKETS)
        );
        assert_eq!(
            (manifest.objects[0].form, manifest.window("t", 0).offsets),
            (Form::Archive, 0..7)
        );
    }

    #[test]
    fn a_run_reads_its_own_records_alone() {
        let positions = |offset| Positions::from([("t".to_owned(), BTreeMap::from([(0, offset)]))]);
        let time = |millis| DateTime::from_timestamp_millis(millis).unwrap();
        let manifest = |kind| Manifest {
            run: "r".into(),
            run_time: time(0),
            kind,
            state: None,
            buckets: BUCKETS,
            from: positions(10),
            to: positions(20),
            objects: Vec::new(),
        };
        let read = |kind| {
            let window = manifest(kind).window("t", 0);
            [(9, 900), (10, 1000), (19, 1900), (20, 2000)]
                .map(|(offset, time)| window.contains(offset, time))
        };
        assert_eq!(read(RunKind::Incremental), [false, true, true, false]);
        assert_eq!(read(RunKind::Full), [true, true, true, false]);
        assert_eq!(
            read(RunKind::Backfill {
                from: time(900),
                to: time(1000)
            }),
            [true, false, false, false]
        );
        assert_eq!(read(RunKind::Import), [true; 4]);
        assert!(
            !manifest(RunKind::Full).window("t", 3).contains(0, 0),
            "nothing is known of that partition"
        );
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for name in ["", "a/b", "..", "a b", "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["20261121T100000Z", "pinterest-batch-29384756", "a.b_c"] {
            check_name(name).unwrap();
        }
    }
}
