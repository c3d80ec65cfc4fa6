//! One run: barrier, manifest, state, answers, sinks, report.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use pinpipe_config::Batch;
use pinpipe_core::Kind;
use pinpipe_lease::{self as lease, Held};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    answers, facts,
    fold::{Folded, fold},
    load::load,
    manifest::{self, Manifest, Pointer, Run, Runs, Step},
    memory::Memory,
    plan::{self, Request},
    quality,
    read::{self, Read},
    report::{self, Freshness, KindReport, Phases, Summary},
    scratch::Scratch,
    state::{State, States},
    store::Store,
};

/// Does what the run `name` asks for while holding the Lease, runs that died first. Ends early,
/// with nothing published, when `stop` is cancelled or the Lease is lost.
pub async fn execute(
    config: &Batch,
    name: &str,
    request: &Request,
    stop: &CancellationToken,
) -> Result<Summary> {
    manifest::check_name(name)?;
    let held = tokio::select! {
        held = take_lease(config) => held?,
        () = stop.cancelled() => bail!("stopped before it began"),
    };
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped in mid-run, nothing was published: the next run takes this one up")),
        error = held.lost() => {
            Err(anyhow::Error::from(error).context("nothing was published: the next run takes this one up"))
        }
        result = under_lease(config, name, request, &held) => result,
    };
    held.release().await;
    result
}

async fn take_lease(config: &Batch) -> Result<Held> {
    let client = kube::Client::try_default()
        .await
        .context("no access to the Kubernetes API, which keeps the run's Lease")?;
    let api = kube::Api::namespaced(client, &config.pipeline.namespace);
    Ok(lease::acquire(
        api,
        &config.lease,
        &lease::identity().await,
        Some(lease::OUTLIVES_A_CRASH),
    )
    .await?)
}

async fn under_lease(
    config: &Batch,
    name: &str,
    request: &Request,
    held: &Held,
) -> Result<Summary> {
    let store = Store::open(&config.zone).await?;
    let runs = Runs::new(&config.pipeline);
    let known = runs.list(&store).await?;
    let mut last = runs.last_done(&store, &known).await?;
    let mut summary = None;
    for step in manifest::steps(&known, name) {
        let mut phases = Phases::begin();
        let manifest = match step {
            Step::Finish(run) => {
                info!(run, "taking up a run that died, from its manifest");
                runs.read(&store, &run).await?
            }
            Step::Begin(run) => {
                let planned = plan::manifest(config, &store, &runs, run, request, last.as_ref());
                let planned = phases.time("barrier and manifest", planned).await?;
                runs.begin(&store, planned).await?
            }
        };
        let session = Session {
            config,
            store: &store,
            runs: &runs,
            known: &known,
            last: last.as_ref(),
            held,
        };
        let done = session.finish(&manifest, phases).await?;
        last = Some(done.0);
        summary = Some(done.1);
    }
    if let Some(summary) = summary {
        return Ok(summary);
    }
    info!(run = name, "this run is done already");
    store.get_json(&runs.report(name)).await
}

/// What a run is done with.
struct Session<'a> {
    config: &'a Batch,
    store: &'a Store,
    runs: &'a Runs,
    known: &'a [Run],
    last: Option<&'a Pointer>,
    held: &'a Held,
}

impl Session<'_> {
    /// Everything from the manifest on. Done twice, it gives the same rows.
    async fn finish(&self, manifest: &Manifest, mut phases: Phases) -> Result<(Pointer, Summary)> {
        let Self {
            config,
            store,
            runs,
            ..
        } = *self;
        let base = self.base(manifest).await?;
        let memory = Memory::here();
        let scratch = Scratch::open(&config.scratch_dir)?;
        let reading = read::read(config, store, manifest, scratch.folder(), memory.waiting);
        let read = phases.time("read and clean", reading).await?;
        let Counted { counts, bytes } = Counted::of(&read);
        quality::check(&config.quality, &counts)?;
        let states = States::new(&config.pipeline);
        let folding = fold(
            store,
            &states,
            manifest,
            base.as_ref(),
            read,
            &scratch,
            &memory,
        );
        let Folded {
            state,
            changed,
            sides,
        } = phases.time("latest per key", folding).await?;
        store.put_json(&runs.state(&manifest.run), &state).await?;
        let file = scratch.file("facts.arrow");
        // A long computation, kept off the threads that renew the Lease.
        let joining =
            async { tokio::task::spawn_blocking(move || facts::join(sides, file)).await? };
        let facts = phases.time("join", joining).await?;
        let asking = answers::ask(&facts, scratch.folder(), memory.questions);
        let answers = phases.time("questions", asking).await?;
        for sink in &config.sinks {
            let loading = load(sink, manifest.run_time, &changed, &answers);
            phases
                .time("load", loading)
                .await
                .with_context(|| format!("sink {}", sink.name))?;
        }
        let kind = |(kind, counts)| {
            let changed = changed
                .get(&kind)
                .into_iter()
                .flatten()
                .map(|stream| stream.rows)
                .sum();
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
        let report = report::report(manifest, kinds, bytes, facts.orphans, &answers, &phases)?;
        self.held.check()?;
        store.put_json(&runs.report(&manifest.run), &report).await?;
        self.held.check()?;
        let pointer = runs.point_to(store, manifest, true).await?;
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
            read, clean, repaired, rejected, seconds, "the run is done and published"
        );
        let open = self
            .known
            .iter()
            .filter(|run| run.is_open() && run.name != manifest.run);
        let open: Vec<&str> = open.map(|run| run.name.as_str()).collect();
        let before = match (base, self.last.and_then(|last| last.state.as_deref())) {
            (None, Some(before)) => store.find_json(before).await?,
            (base, _) => base,
        };
        let kept: Vec<&State> = std::iter::once(&state).chain(&before).collect();
        states.tidy(store, &kept, &open).await;
        Ok((pointer, report.summary))
    }

    /// The state a run builds on: that of the last run done, or of none.
    async fn base(&self, manifest: &Manifest) -> Result<Option<State>> {
        let Some(base) = &manifest.state else {
            return Ok(None);
        };
        let last = self.last.map(|last| last.run.as_str());
        ensure!(
            last == Some(base),
            "the run {} builds on the state of {base}, but the last run done is {}: delete {} and start anew",
            manifest.run,
            last.unwrap_or("none"),
            self.runs.manifest(&manifest.run)
        );
        self.store.get_json(&self.runs.state(base)).await.map(Some)
    }
}

/// What was read, without the rows.
struct Counted {
    counts: BTreeMap<Kind, crate::counts::Counts>,
    bytes: u64,
}

impl Counted {
    fn of(read: &Read) -> Self {
        Self {
            counts: read
                .seen
                .iter()
                .map(|(kind, seen)| (*kind, seen.counts.clone()))
                .collect(),
            bytes: read.seen.values().map(|seen| seen.bytes).sum(),
        }
    }
}
