//! The runs of one pipeline, as stored in the bucket: which exist, which one finished last, and
//! which ones a worker resumes or starts.
//!
//! ```text
//! runs/<namespace>.<pipeline>/<run>/manifest.json   what the run reads, created only once
//!                                   state.json      what later runs build on, see `state`
//!                                   attempt.json    written when another release resumes it
//!                                   report.json     written when the run has finished
//!                                   failed.json     written when it failed before its state
//!                                   abandoned.json  written when an import failed after its state
//!                                   redrive.json    written when a re-drive has finished
//!                                   live.json       written when a live sink is backfilled
//!                             latest.json           pointer to the last finished run
//! ```

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use pinpipe_config::Pipeline;
use serde::{Deserialize, Serialize};

use crate::{
    counts::KindCounts,
    failure::Permanent,
    manifest::{Attempt, Manifest, Positions},
    store::{ListedObject, Store},
};

/// The pointer to the last finished run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    /// The run's name.
    pub run: String,
    /// The run's time, see [`Manifest::run_time`].
    pub run_time: DateTime<Utc>,
    /// Key of the run's manifest.
    pub manifest: String,
    /// Key of the run's report.
    pub report: String,
    /// Key of the run's state; `None` if the run's release didn't keep state yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A run, as found by listing its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The run's name.
    pub name: String,
    /// When the manifest was written, milliseconds since the epoch.
    started: i64,
    /// When the report was written, milliseconds since the epoch; `None` for an unfinished run.
    finished: Option<i64>,
    /// Whether the run has written its state.
    has_state: bool,
    /// Whether the run failed for good before it had written its state.
    failed: bool,
    /// When the run was abandoned, milliseconds since the epoch.
    abandoned: Option<i64>,
}

/// An import that failed when it had written its state. No run resumes it, and the next one
/// replaces what sinks may have of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abandoned {
    /// Why it failed.
    pub message: String,
    /// The timestamp of its rows.
    pub run_time: DateTime<Utc>,
}

/// Of a run that failed for good, what others ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// Why it failed.
    pub message: String,
    /// What it had read.
    pub counts: Vec<KindCounts>,
}

impl Run {
    /// Whether the run may have written to a sink but has no report yet. Such a run must be
    /// finished before any other. A run without state has written nothing that counts: only its own
    /// worker resumes it.
    pub const fn must_be_finished(&self) -> bool {
        self.finished.is_none() && self.has_state && self.abandoned.is_none()
    }

    /// When the manifest was written, milliseconds since the epoch by the store's clock.
    pub const fn started(&self) -> i64 {
        self.started
    }

    /// Whether the run has a report.
    pub const fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Whether the run failed for good. It is never resumed.
    pub const fn has_failed(&self) -> bool {
        self.failed || self.abandoned.is_some()
    }
}

/// One run that a batch worker carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Resume an unfinished run from its manifest.
    Resume(String),
    /// Start the requested run.
    Start(String),
}

/// The runs of one pipeline in the bucket.
#[derive(Clone, Debug)]
pub struct Runs {
    folder: String,
}

impl Runs {
    /// The runs of `pipeline`.
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            folder: format!("runs/{}.{}", pipeline.namespace, pipeline.name),
        }
    }

    /// Key of a run's manifest.
    pub fn manifest(&self, run: &str) -> String {
        format!("{}/{run}/manifest.json", self.folder)
    }

    /// Key of a run's last attempt by another release.
    fn attempt(&self, run: &str) -> String {
        format!("{}/{run}/attempt.json", self.folder)
    }

    /// Key of a run's report.
    pub fn report(&self, run: &str) -> String {
        format!("{}/{run}/report.json", self.folder)
    }

    /// Key of the summary of a run that failed before it had written its state.
    pub fn failed(&self, run: &str) -> String {
        format!("{}/{run}/failed.json", self.folder)
    }

    /// Key of the report of a re-drive.
    pub fn redrive(&self, run: &str) -> String {
        format!("{}/{run}/redrive.json", self.folder)
    }

    /// Key of the summary of a backfill of a live sink.
    pub fn live_backfill(&self, run: &str) -> String {
        format!("{}/{run}/live.json", self.folder)
    }

    /// Key of the [`Abandoned`] of an import.
    pub fn abandoned(&self, run: &str) -> String {
        format!("{}/{run}/abandoned.json", self.folder)
    }

    /// How a run failed for good.
    pub async fn failure(&self, store: &Store, run: &str) -> Result<Failed> {
        match store.find_json(&self.abandoned(run)).await? {
            Some(abandoned) => Ok(abandoned),
            None => store.get_json(&self.failed(run)).await,
        }
    }

    /// The latest timestamp of rows of abandoned imports that a sink may have since the last
    /// finished run.
    pub async fn abandoned_since(
        &self,
        store: &Store,
        runs: &[Run],
        last: Option<&Pointer>,
    ) -> Result<Option<DateTime<Utc>>> {
        let last = last.and_then(|last| runs.iter().find(|run| run.name == last.run));
        let mut latest = None;
        for run in abandoned_after(runs, last) {
            let abandoned: Abandoned = store.get_json(&self.abandoned(&run.name)).await?;
            latest = latest.max(Some(abandoned.run_time));
        }
        Ok(latest)
    }

    /// Key of a run's state.
    pub fn state(&self, run: &str) -> String {
        format!("{}/{run}/state.json", self.folder)
    }

    /// Key of the pointer to the last finished run.
    pub fn pointer(&self) -> String {
        format!("{}/latest.json", self.folder)
    }

    /// All runs that have a manifest, oldest first.
    pub async fn list(&self, store: &Store) -> Result<Vec<Run>> {
        Ok(self.runs(&store.list(&format!("{}/", self.folder)).await?))
    }

    fn runs(&self, objects: &[ListedObject]) -> Vec<Run> {
        #[derive(Default)]
        struct Found {
            started: Option<i64>,
            finished: Option<i64>,
            has_state: bool,
            failed: bool,
            abandoned: Option<i64>,
        }
        let mut found: BTreeMap<&str, Found> = BTreeMap::new();
        for object in objects {
            let path = object
                .key
                .strip_prefix(&self.folder)
                .and_then(|path| path.strip_prefix('/'));
            match path.and_then(|path| path.split_once('/')) {
                Some((run, "manifest.json")) => {
                    found.entry(run).or_default().started = Some(object.modified);
                }
                Some((run, "report.json")) => {
                    found.entry(run).or_default().finished = Some(object.modified);
                }
                Some((run, "state.json")) => found.entry(run).or_default().has_state = true,
                Some((run, "failed.json")) => found.entry(run).or_default().failed = true,
                Some((run, "abandoned.json")) => {
                    found.entry(run).or_default().abandoned = Some(object.modified);
                }
                _ => {}
            }
        }
        let run = |(
            name,
            Found {
                started,
                finished,
                has_state,
                failed,
                abandoned,
            },
        ): (&str, Found)| {
            Some(Run {
                name: name.to_owned(),
                started: started?,
                finished,
                has_state,
                failed: failed && !has_state,
                abandoned,
            })
        };
        let mut runs: Vec<Run> = found.into_iter().filter_map(run).collect();
        runs.sort_by_key(|run| run.started);
        runs
    }

    /// Reads a run's manifest, as its last attempt carries it out.
    pub async fn read(&self, store: &Store, run: &str) -> Result<Manifest> {
        Ok(self.read_attempt(store, run).await?.0)
    }

    /// Reads a run's manifest, and whether a later attempt carries it out.
    async fn read_attempt(&self, store: &Store, run: &str) -> Result<(Manifest, bool)> {
        let manifest: Manifest = store.get_json(&self.manifest(run)).await?;
        let attempt: Option<Attempt> = store.find_json(&self.attempt(run)).await?;
        Ok(match attempt {
            Some(attempt) => (manifest.with_attempt(attempt), true),
            None => (manifest, false),
        })
    }

    /// Reads the manifest of a run that this process resumes after the last finished one and after
    /// `abandoned` imports, and whether a later attempt carries it out.
    pub async fn resume(
        &self,
        store: &Store,
        run: &str,
        has_state: bool,
        last: Option<&Pointer>,
        abandoned: Option<DateTime<Utc>>,
    ) -> Result<(Manifest, bool)> {
        let (manifest, is_attempt) = self.read_attempt(store, run).await?;
        let last = last.map(|last| last.run_time);
        let Some(attempt) = manifest.new_attempt(has_state, last, abandoned) else {
            return Ok((manifest, is_attempt));
        };
        store.put_json(&self.attempt(run), &attempt).await?;
        Ok((manifest.with_attempt(attempt), true))
    }

    /// The first offset of each partition that a run has left to the next one. Of the manifest,
    /// which may have millions of objects, nothing else is kept.
    pub async fn end(&self, store: &Store, run: &str) -> Result<Positions> {
        #[derive(Deserialize)]
        struct End {
            to: Positions,
        }
        let End { to } = store.get_json(&self.manifest(run)).await?;
        Ok(to)
    }

    /// Whether the state of the last finished run has what `run` has read: no full run has
    /// followed.
    pub async fn is_in_state(
        &self,
        store: &Store,
        run: &str,
        last: Option<&Pointer>,
    ) -> Result<bool> {
        #[derive(Deserialize)]
        struct Base {
            #[serde(default)]
            state: Option<String>,
        }
        let mut next = last.map(|last| last.run.clone());
        while let Some(name) = next {
            if name == run {
                return Ok(true);
            }
            let base: Option<Base> = store.find_json(&self.manifest(&name)).await?;
            next = base.and_then(|base| base.state);
        }
        Ok(false)
    }

    /// Writes the manifest of a new run and returns it. If the run already has a manifest, returns
    /// the existing one instead.
    pub async fn start(&self, store: &Store, manifest: Manifest) -> Result<Manifest> {
        let key = self.manifest(&manifest.run);
        if store.create_json(&key, &manifest).await? {
            return Ok(manifest);
        }
        store.get_json(&key).await
    }

    /// Points the pipeline's pointer at a finished run.
    pub async fn publish(
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

    /// The last finished run. If a worker died between writing a run's report and the pointer, the
    /// pointer is updated first.
    pub async fn last_finished(&self, store: &Store, runs: &[Run]) -> Result<Option<Pointer>> {
        let pointer: Option<Pointer> = store.find_json(&self.pointer()).await?;
        let Some(last) = runs
            .iter()
            .filter(|run| run.finished.is_some())
            .max_by_key(|run| run.finished)
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
        tracing::info!(
            run = last.name,
            "updating the pointer to the last finished run"
        );
        self.publish(store, &manifest, last.has_state)
            .await
            .map(Some)
    }
}

/// The steps of a worker started for the run `own`. Runs that may have written to a sink are
/// resumed first: their rows are older, and they build on the last finished run. `own` isn't
/// started again if it has finished: the worker of an earlier attempt may have died after its last
/// write.
pub fn steps(runs: &[Run], own: &str) -> Vec<Step> {
    let own_without_state = |run: &&Run| {
        run.name == own && run.finished.is_none() && !run.has_state && !run.has_failed()
    };
    let mut steps: Vec<Step> = runs
        .iter()
        .filter(|run| run.must_be_finished())
        .chain(runs.iter().filter(own_without_state))
        .map(|run| Step::Resume(run.name.clone()))
        .collect();
    if !runs.iter().any(|run| run.name == own) {
        steps.push(Step::Start(own.to_owned()));
    }
    steps
}

/// The imports that were abandoned after the last finished run, or with it: a store may know no
/// fractions of a second.
fn abandoned_after<'a>(runs: &'a [Run], last: Option<&'a Run>) -> impl Iterator<Item = &'a Run> {
    let finished = last.and_then(|last| last.finished);
    runs.iter()
        .filter(move |run| run.abandoned.is_some_and(|at| Some(at) >= finished))
}

/// Whether the run `name` may have written to a sink, see [`Run::must_be_finished`].
pub fn must_be_finished(runs: &[Run], name: &str) -> bool {
    runs.iter()
        .any(|run| run.name == name && run.must_be_finished())
}

/// How to start a full run in the cluster, for error messages.
pub fn full_run(pipeline: &Pipeline) -> String {
    let Pipeline {
        namespace, name, ..
    } = pipeline;
    format!(
        "create a PinterestRun in the namespace {namespace} with the spec {{pipelineRef: {{name: \
         {name}}}, batch: {{full: true}}}}"
    )
}

/// Checks a run's name, which becomes part of object keys.
pub fn check_name(run: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    ensure!(
        !run.is_empty() && run.len() <= 253 && run.chars().all(fits) && !run.starts_with('.'),
        Permanent(format!(
            "invalid run name `{run}`: use at most 253 ASCII letters, digits, `-`, `_` and `.`, \
             and don't start with `.`"
        ))
    );
    Ok(())
}

#[cfg(test)]
mod tests;
