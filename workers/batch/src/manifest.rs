//! The manifest of a run: what it covers, fixed before the work begins, so that whoever takes the run up does the same.
//!
//! ```text
//! runs/<namespace>.<pipeline>/<run>/manifest.json   a conditional PUT: a run has one, forever
//!                                   report.json     the run is done
//!                             latest.json           the pointer to the last run done, written last of all
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use pinpipe_config::Pipeline;
use pinpipe_core::Kind;
use serde::{Deserialize, Serialize};

use crate::store::{Listed, Store};

/// Topic → partition → offset of the next record.
pub type Positions = BTreeMap<String, BTreeMap<i32, i64>>;

/// What a run covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The run's name.
    pub run: String,
    /// When it began, microseconds; later than every earlier run's. Its rows carry this as their timestamp.
    pub run_time: DateTime<Utc>,
    /// The first record of each partition it covers.
    pub from: Positions,
    /// The first record of each partition it does not cover any more.
    pub to: Positions,
    /// The raw objects it reads, by kind, partition and offset.
    pub objects: Vec<RawObject>,
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
        Self { folder: format!("runs/{}.{}", pipeline.namespace, pipeline.name) }
    }

    /// The key of a run's manifest.
    pub fn manifest(&self, run: &str) -> String {
        format!("{}/{run}/manifest.json", self.folder)
    }

    /// The key of a run's report.
    pub fn report(&self, run: &str) -> String {
        format!("{}/{run}/report.json", self.folder)
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
        let mut found: BTreeMap<&str, (Option<i64>, Option<i64>)> = BTreeMap::new();
        for object in objects {
            let path = object.key.strip_prefix(&self.folder).and_then(|path| path.strip_prefix('/'));
            match path.and_then(|path| path.split_once('/')) {
                Some((run, "manifest.json")) => found.entry(run).or_default().0 = Some(object.modified),
                Some((run, "report.json")) => found.entry(run).or_default().1 = Some(object.modified),
                _ => {}
            }
        }
        let begun = |(name, (begun, done)): (&str, _)| Some(Run { name: name.to_owned(), begun: begun?, done });
        let mut runs: Vec<Run> = found.into_iter().filter_map(begun).collect();
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
    pub async fn point_to(&self, store: &Store, manifest: &Manifest) -> Result<()> {
        let pointer = Pointer {
            run: manifest.run.clone(),
            run_time: manifest.run_time,
            manifest: self.manifest(&manifest.run),
            report: self.report(&manifest.run),
        };
        store.put_json(&self.pointer(), &pointer).await
    }

    /// The time of the last run done. Where a run died between its report and the pointer, the pointer is moved first.
    pub async fn last_done(&self, store: &Store, runs: &[Run]) -> Result<Option<DateTime<Utc>>> {
        let pointer: Option<Pointer> = store.find_json(&self.pointer()).await?;
        let Some(last) = runs.iter().filter(|run| run.done.is_some()).max_by_key(|run| run.done) else {
            return Ok(pointer.map(|pointer| pointer.run_time));
        };
        if pointer.as_ref().is_some_and(|pointer| pointer.run == last.name) {
            return Ok(pointer.map(|pointer| pointer.run_time));
        }
        let manifest = self.read(store, &last.name).await?;
        if pointer.as_ref().is_some_and(|pointer| pointer.run_time >= manifest.run_time) {
            return Ok(pointer.map(|pointer| pointer.run_time));
        }
        tracing::info!(run = last.name, "that run was done but not yet pointed to");
        self.point_to(store, &manifest).await?;
        Ok(Some(manifest.run_time))
    }
}

/// What a worker that was asked for the run `own` has to do. Runs that died come first: their rows are older. Nothing at all
/// when `own` is done, as when its pod died after its last write.
pub fn steps(runs: &[Run], own: &str) -> Vec<Step> {
    let mut steps: Vec<Step> =
        runs.iter().filter(|run| run.done.is_none()).map(|run| Step::Finish(run.name.clone())).collect();
    if !runs.iter().any(|run| run.name == own) {
        steps.push(Step::Begin(own.to_owned()));
    }
    steps
}

/// The time of a new run: now, in whole microseconds, and later than the last run's whatever this machine's clock says, since
/// Cassandra keeps the cell with the greater timestamp.
pub fn run_time(now: DateTime<Utc>, last: Option<DateTime<Utc>>) -> DateTime<Utc> {
    let now = now.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(now);
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
    /// The offset before which records of `partition` of `topic` belong to the run.
    pub fn end(&self, topic: &str, partition: i32) -> Result<i64> {
        let end = self.to.get(topic).and_then(|partitions| partitions.get(&partition));
        end.copied().with_context(|| format!("the manifest of run {} has no end for {topic}[{partition}]", self.run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Runs {
        Runs::new(&Pipeline { namespace: "data".into(), name: "pins".into(), uid: "u".into() })
    }

    fn listed(objects: &[(&str, i64)]) -> Vec<Run> {
        let object =
            |(key, modified): &(&str, i64)| Listed { key: format!("runs/data.pins/{key}"), modified: *modified };
        runs().runs(&objects.iter().map(object).collect::<Vec<_>>())
    }

    #[test]
    fn a_run_that_died_is_finished_before_another_begins() {
        let found =
            listed(&[("b/manifest.json", 1), ("a/manifest.json", 2), ("c/manifest.json", 0), ("c/report.json", 9)]);
        let expected = [Step::Finish("b".into()), Step::Finish("a".into()), Step::Begin("d".into())];
        assert_eq!(steps(&found, "d"), expected, "the oldest first, whatever its name");
    }

    #[test]
    fn a_retried_pod_takes_its_own_run_up_and_does_nothing_when_it_is_done() {
        assert_eq!(steps(&listed(&[("a/manifest.json", 1)]), "a"), [Step::Finish("a".into())]);
        assert_eq!(steps(&listed(&[("a/manifest.json", 1), ("a/report.json", 2)]), "a"), []);
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
        assert_eq!(run_time(at(100), Some(at(500))), at(501), "a clock that is behind");
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let positions = |offset| Positions::from([("t.pin".to_owned(), BTreeMap::from([(0, offset), (10, 5)]))]);
        let manifest = Manifest {
            run: "r".into(),
            run_time: DateTime::from_timestamp_micros(1_795_000_000_123_456).unwrap(),
            from: positions(0),
            to: positions(7),
            objects: vec![RawObject { kind: Kind::Pin, partition: 0, key: "topics/t.pin/x".into() }],
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest, "{text}");
        assert_eq!(manifest.end("t.pin", 10).unwrap(), 5);
        assert!(manifest.end("t.pin", 3).unwrap_err().to_string().contains("t.pin[3]"));
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
