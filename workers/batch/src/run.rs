//! The steps of a run: barrier, manifest, state, answers, sinks, report.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use pinpipe_config::Batch;
use pinpipe_core::Kind;
use pinpipe_lease::Held;
use tracing::{info, warn};

use crate::{
    answers,
    coverage::{self, Coverage, Gap},
    failure::{self, FailedBefore, ImportAbandoned, InSink, Permanent},
    fold::{Folded, fold},
    join,
    load::{self, Loading},
    manifest::{Manifest, PassedOver, RunKind, pass_over_all},
    memory::Memory,
    plan::{self, Request},
    progress::{self, Progress},
    quality,
    read::{self, Read},
    report::{self, Freshness, KindReport, Phases},
    runs::{self, Abandoned, Pointer, Run, Runs, Step, full_run},
    scratch::Scratch,
    sink::{self, Marker, Sink},
    state::{State, States},
    store::Store,
    summary::Summary,
};

/// Completes unfinished runs, then the run `name`. A run that has finished gives its summary again.
pub async fn execute(
    config: &Batch,
    name: &str,
    request: &Request,
    progress: &Progress,
    held: &Held,
) -> Result<Summary> {
    let store = Store::open(&config.zone).await?;
    let runs = Runs::new(&config.pipeline);
    let known = runs.list(&store).await?;
    let mut last = runs.last_finished(&store, &known).await?;
    if known.iter().any(|run| run.name == name && run.has_failed()) {
        let failed = runs.failure(&store, name).await?;
        let before = FailedBefore {
            run: name.to_owned(),
            counts: failed.counts,
        };
        return Err(anyhow::Error::from(Permanent(failed.message)).context(before));
    }
    if let Request::Import(request) = request
        && let Some(run) = known.iter().find(|run| run.name == name)
    {
        plan::check_is_no_other(&store, &runs, run, request, last.as_ref()).await?;
    }
    let mut abandoned = runs.abandoned_since(&store, &known, last.as_ref()).await?;
    let mut summary = None;
    for step in runs::steps(&known, name) {
        let mut phases = Phases::start(progress);
        let (manifest, is_attempt) = match step {
            Step::Resume(run) => {
                info!(run, "resuming an unfinished run from its manifest");
                held.check()?;
                let has_state = runs::must_be_finished(&known, &run);
                runs.resume(&store, &run, has_state, last.as_ref(), abandoned)
                    .await?
            }
            Step::Start(run) => {
                let last = last.as_ref();
                let planned = plan::manifest(config, &store, &runs, run, request, last, abandoned);
                let planned = phases.time("barrier and manifest", planned).await?;
                (runs.start(&store, planned).await?, false)
            }
        };
        let session = Session {
            config,
            store: &store,
            runs: &runs,
            known: &known,
            last: last.as_ref(),
            may_have_rows: is_attempt || abandoned.is_some(),
            is_own: manifest.run == name,
            progress,
            held,
        };
        let (pointer, run_summary) = match session.execute(&manifest, phases).await {
            Err(error) if error.is::<ImportAbandoned>() && manifest.run != name => {
                warn!(run = manifest.run, "{error:#}");
                abandoned = abandoned.max(Some(manifest.run_time));
                continue;
            }
            executed => executed?,
        };
        last = Some(pointer);
        abandoned = None;
        summary = Some(run_summary);
    }
    if let Some(summary) = summary.filter(|summary: &Summary| summary.run == name) {
        return Ok(summary);
    }
    info!(run = name, "the run has already finished");
    store.get_json(&runs.report(name)).await
}

/// Everything a run needs besides its manifest.
struct Session<'a> {
    config: &'a Batch,
    store: &'a Store,
    runs: &'a Runs,
    known: &'a [Run],
    last: Option<&'a Pointer>,
    /// Whether sinks may have rows that count as this run's but are not: of an attempt of another
    /// release, or of an abandoned import.
    may_have_rows: bool,
    /// Whether this process was started for the run.
    is_own: bool,
    progress: &'a Progress,
    held: &'a Held,
}

/// A run whose state is written.
struct Prepared {
    scratch: Scratch,
    memory: Memory,
    totals: Totals,
    gaps: Vec<Gap>,
    folded: Folded,
    /// The sinks, in the order of the configuration.
    sinks: Vec<Box<dyn Sink>>,
}

impl Session<'_> {
    /// All steps after the manifest. Idempotent: executed twice, they write the same rows.
    async fn execute(&self, manifest: &Manifest, mut phases: Phases) -> Result<(Pointer, Summary)> {
        let previous = self.previous(manifest).await?;
        let has_state = runs::must_be_finished(self.known, &manifest.run);
        let prepared = match self.prepare(manifest, previous.as_ref(), &mut phases).await {
            Ok(prepared) => prepared,
            Err(error) => {
                let is_final = failure::is_final(&error, self.is_own);
                return Err(self
                    .give_up(manifest, &phases, error, is_final, has_state)
                    .await);
            }
        };
        let started = phases.clone();
        match self
            .publish(manifest, previous.as_ref(), prepared, phases)
            .await
        {
            Ok(published) => Ok(published),
            Err(error) => {
                let is_final = failure::is_permanent(&error);
                Err(self
                    .give_up(manifest, &started, error, is_final, true)
                    .await)
            }
        }
    }

    /// The state of the last finished run.
    async fn previous(&self, manifest: &Manifest) -> Result<Option<State>> {
        match self.last.and_then(|last| last.state.as_deref()) {
            Some(key) => plan::usable_state(&manifest.kind, self.store.find_json(key).await),
            None => Ok(None),
        }
    }

    /// Marks a run that failed for good, so that it isn't resumed: any that has no state yet, and
    /// imports in any case. Returns its error.
    async fn give_up(
        &self,
        manifest: &Manifest,
        phases: &Phases,
        error: anyhow::Error,
        is_final: bool,
        has_state: bool,
    ) -> anyhow::Error {
        let run = &manifest.run;
        if !is_final || (has_state && manifest.kind != RunKind::Import) {
            return error;
        }
        let (counts, message) = (failure::counts(&error), format!("{error:#}"));
        let noted = async {
            self.held.check()?;
            if !has_state {
                let key = self.runs.failed(run);
                let summary = Summary::failed(run, phases.total(), counts, &message);
                return self.store.put_json(&key, &summary).await;
            }
            let abandoned = Abandoned {
                message,
                run_time: manifest.run_time,
            };
            let key = self.runs.abandoned(run);
            self.store.put_json(&key, &abandoned).await
        };
        match noted.await {
            Ok(()) if has_state => error.context(ImportAbandoned(run.clone())),
            Ok(()) => error,
            Err(failure) => {
                warn!(run, "can't note that the run has failed: {failure:#}");
                error
            }
        }
    }

    /// Reads, checks and folds the records, and writes the new state. Nothing outside refers to
    /// what these steps write.
    async fn prepare(
        &self,
        manifest: &Manifest,
        previous: Option<&State>,
        phases: &mut Phases,
    ) -> Result<Prepared> {
        let Self { config, store, .. } = *self;
        let base = self.base(manifest, previous)?;
        let memory = Memory::of_container();
        let scratch = Scratch::open(&config.scratch_dir)?;
        self.progress.to_read(manifest.records());
        let (path, progress) = (scratch.folder(), self.progress);
        let reading = read::read(config, store, manifest, path, memory.buffers, progress);
        let read = phases.time("read and clean", reading).await?;
        let Coverage {
            begin,
            covered,
            topic_ids,
            gaps,
        } = coverage::check(&config.pipeline, manifest, &read.spans, previous)?;
        let listed = coverage::last_objects(&read.spans, base);
        let totals = Totals::of(manifest, &read);
        quality::check(&config.quality, &totals.counts)?;
        let folding = fold(store, config, manifest, base, read, &scratch, &memory);
        let mut folded = phases.time("latest per key", folding).await?;
        folded.state = State {
            begin,
            covered,
            topic_ids,
            listed,
            ..folded.state
        };
        // A run with state can't be given up: what no retry can fix must show before.
        let sinks = self.claim_sinks().await?;
        self.held.check()?;
        let key = self.runs.state(&manifest.run);
        store.put_json(&key, &folded.state).await?;
        Ok(Prepared {
            scratch,
            memory,
            totals,
            gaps,
            folded,
            sinks,
        })
    }

    /// Connects to the sinks and claims them for the pipeline.
    async fn claim_sinks(&self) -> Result<Vec<Box<dyn Sink>>> {
        let pipeline = sink::pipeline_name(&self.config.pipeline);
        let mut sinks = Vec::new();
        for sink in &self.config.sinks {
            let claim = async {
                let connected = load::connect(sink).await?;
                connected.claim(&pipeline).await?;
                anyhow::Ok(connected)
            };
            sinks.push(claim.await.with_context(|| InSink {
                name: sink.name.clone(),
                loaded: BTreeMap::new(),
            })?);
        }
        Ok(sinks)
    }

    /// Answers the questions, loads the sinks and publishes the run.
    async fn publish(
        &self,
        manifest: &Manifest,
        previous: Option<&State>,
        prepared: Prepared,
        mut phases: Phases,
    ) -> Result<(Pointer, Summary)> {
        let Self {
            config,
            store,
            runs,
            ..
        } = *self;
        let Prepared {
            scratch,
            memory,
            totals:
                Totals {
                    counts,
                    bytes,
                    passed_over,
                },
            gaps,
            folded:
                Folded {
                    state,
                    changed_rows,
                    changed,
                    join_inputs,
                },
            sinks: connected,
        } = prepared;
        let file = scratch.file("joined.arrow");
        // A long computation, kept off the threads that renew the Lease.
        let joining =
            async { tokio::task::spawn_blocking(move || join::join(join_inputs, file)).await? };
        let joined = phases.time("join", joining).await?;
        let answering = answers::answer_all(&joined, scratch.folder(), memory.queries);
        let answers = phases.time("questions", answering).await?;
        let loading = Loading {
            config,
            store,
            scratch: &scratch,
            state: &state,
            marker: Marker {
                state_id: state.id.clone(),
                run_time: manifest.run_time,
            },
            base: previous
                .filter(|_| manifest.state.is_some())
                .map(|base| base.run_time.unwrap_or_default()),
            is_attempt: self.may_have_rows,
            changed: &changed,
            answers: &answers,
        };
        let pipeline = sink::pipeline_name(&config.pipeline);
        let mut sinks = BTreeMap::new();
        for (sink, connected) in config.sinks.iter().zip(&connected) {
            let load = loading.load(&sink.name, &pipeline, &**connected);
            let loaded = phases.time("load", load).await.with_context(|| InSink {
                name: sink.name.clone(),
                loaded: load::loaded(&sinks),
            })?;
            sinks.insert(sink.name.clone(), loaded);
        }
        let kind = |(kind, counts)| {
            let changed = changed_rows.get(&kind).copied().unwrap_or(0);
            let freshness = state
                .latest
                .get(&kind)
                .and_then(|latest| Freshness::new(*latest, manifest.run_time));
            (
                kind,
                KindReport {
                    counts,
                    keys: state.rows(kind),
                    changed,
                    freshness,
                },
            )
        };
        let kinds = counts.into_iter().map(kind).collect();
        let mut report = report::report(manifest, kinds, bytes, joined.orphans, &answers, &phases)?;
        report.summary.sinks = load::loaded(&sinks);
        let refused = sinks.values().flat_map(|sink| &sink.refused_by_kind);
        for (kind, rows) in refused {
            report.summary.count_refused(*kind, *rows);
        }
        let key = runs.report(&manifest.run);
        report.summary.report = Some(store.uri(&key));
        (report.sinks, report.gaps) = (sinks, gaps);
        report.passed_over = passed_over;
        self.progress.step(progress::Step::Publish);
        self.held.check()?;
        store.put_json(&key, &report).await?;
        self.held.check()?;
        let pointer = runs.publish(store, manifest, true).await?;
        let Summary {
            run,
            read,
            clean,
            repaired,
            rejected,
            seconds,
            ..
        } = &report.summary;
        info!(
            run,
            read, clean, repaired, rejected, seconds, "the run is finished and published"
        );
        // Only what is older than the last two published runs: a run that began meanwhile, if this
        // process was frozen, is not known here.
        let before = self
            .last
            .and_then(|last| self.known.iter().find(|run| run.name == last.run))
            .map(Run::started);
        if let Some(before) = before {
            let retained: Vec<&State> = std::iter::once(&state).chain(previous).collect();
            States::new(&config.pipeline)
                .delete_unreferenced(store, &retained, before, self.held)
                .await;
        }
        println!("{}", report::readable(&answers)?);
        print!("{}", load::refused(&report.sinks));
        print!("{}", report::passed_over(&report.passed_over));
        Ok((pointer, report.summary))
    }

    /// The state that the manifest builds on, which must be that of the last finished run.
    fn base<'a>(
        &self,
        manifest: &Manifest,
        previous: Option<&'a State>,
    ) -> Result<Option<&'a State>> {
        if let Some(last) = self
            .last
            .filter(|last| manifest.is_overtaken(Some(last.run_time)))
        {
            bail!(Permanent(format!(
                "the run {} has been overtaken by the run {}, which finished with newer data: \
                 start a new run",
                manifest.run, last.run
            )));
        }
        let Some(base) = &manifest.state else {
            return Ok(None);
        };
        let last = self.last.map(|last| last.run.as_str());
        ensure!(
            last == Some(base),
            Permanent(format!(
                "the run {} builds on the state of the run {base}, but the last finished run is \
                 {}, which has read the same records: start a new run",
                manifest.run,
                last.unwrap_or("none"),
            ))
        );
        ensure!(
            previous.is_some(),
            Permanent(format!(
                "the state of the run {base}, {}, is gone: start a full run: {}",
                self.runs.state(base),
                full_run(&self.config.pipeline)
            ))
        );
        Ok(previous)
    }
}

/// Counts of what was read, without the rows.
struct Totals {
    counts: BTreeMap<Kind, crate::counts::Counts>,
    bytes: u64,
    passed_over: PassedOver,
}

impl Totals {
    fn of(manifest: &Manifest, read: &Read) -> Self {
        let mut passed_over = manifest.import.passed_over.clone();
        pass_over_all(&mut passed_over, read.passed_over.clone());
        Self {
            passed_over,
            counts: read
                .stats
                .iter()
                .map(|(kind, stats)| (*kind, stats.counts.clone()))
                .collect(),
            bytes: read.stats.values().map(|stats| stats.bytes).sum(),
        }
    }
}
