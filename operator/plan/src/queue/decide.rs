//! Which run starts next, and how the others are. One at a time works on a pipeline's data, the
//! oldest first.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::{CronJob, Job, JobCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Resource as _, ResourceExt as _};
use pinpipe_crds::{PinterestRun, RunCounts, RunKindCounts, RunPhase, RunProgress, reasons};

use super::work::Work;
use crate::{
    build::{NoJob, run_job},
    model::ValidatedPipeline,
    requests::{self, store_at_start},
    run::{has_job, is_final, is_record, live_sink, phase, problems},
};

/// Message of a run whose Job could not start, and is made again as the pipeline is now.
pub const REPLACED: &str = "its Job could not start, and is replaced since the pipeline changed";

/// What was observed of a pipeline and its runs.
pub struct Input<'a> {
    /// The pipeline.
    pub pipeline: &'a ValidatedPipeline,
    /// Its `CronJob`, of whose template Jobs are made.
    pub cron_job: Option<&'a CronJob>,
    /// Deployments of its stream sinks, by their names.
    pub live: &'a BTreeMap<String, Deployment>,
    /// Its runs.
    pub runs: &'a [PinterestRun],
    /// The Jobs of the runs and of the `CronJob`.
    pub jobs: &'a Jobs,
    /// How the work of runs without a Job is, by their names.
    pub work: &'a BTreeMap<String, Work>,
}

/// How a run starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// This Job is created.
    Job(Box<Job>),
    /// It takes no Job. A reset is of this store.
    Now {
        /// The store of the sink, as the pipeline names it.
        store: Option<String>,
    },
}

/// What was observed of the Jobs of the runs and of the `CronJob`.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// The Jobs.
    pub jobs: Vec<Job>,
    /// How Jobs ended, by their names; only those whose run isn't final yet.
    pub endings: BTreeMap<String, Ending>,
    /// Why Jobs that are under way don't go on, by their names.
    pub problems: BTreeMap<String, String>,
    /// How far Jobs that are under way are, by their names.
    pub progress: BTreeMap<String, RunProgress>,
}

/// What a Job said when it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Numbers of records.
    pub total: Option<RunCounts>,
    /// The same by kind.
    pub counts: Vec<RunKindCounts>,
    /// Where the whole report is.
    pub report: Option<String>,
    /// Sentence about what was done, or why not.
    pub message: Option<String>,
}

/// How a run is.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Name of the run.
    pub run: String,
    /// How far it is.
    pub phase: RunPhase,
    /// One of [`pinpipe_crds::reasons`].
    pub reason: &'static str,
    /// Sentence about it.
    pub message: String,
    /// The Job.
    pub job: Option<String>,
    /// The store that a reset was started for.
    pub store: Option<String>,
    /// When the work was started.
    pub started: Option<Time>,
    /// When the Job ended.
    pub ended: Option<Time>,
    /// How far the Job is.
    pub progress: Option<RunProgress>,
    /// Numbers of records.
    pub total: Option<RunCounts>,
    /// The same by kind.
    pub counts: Vec<RunKindCounts>,
    /// Where the whole report is.
    pub report: Option<String>,
}

impl State {
    fn new(
        run: &PinterestRun,
        phase: RunPhase,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            run: run.name_any(),
            phase,
            reason,
            message: message.into(),
            job: None,
            store: None,
            started: None,
            ended: None,
            progress: None,
            total: None,
            counts: Vec::new(),
            report: None,
        }
    }

    /// A run that waits.
    #[must_use]
    pub fn queued(run: &PinterestRun, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(run, RunPhase::Queued, reason, message)
    }

    /// A run whose Job was just created.
    #[must_use]
    pub fn started(run: &PinterestRun, job: &Job) -> Self {
        let name = job.name_any();
        let message = format!("the Job {name} is under way");
        Self {
            job: Some(name),
            started: job.creation_timestamp(),
            ..Self::new(run, RunPhase::Running, reasons::RUNNING, message)
        }
    }

    /// A run without a Job that is started now.
    #[must_use]
    pub fn begun(run: &PinterestRun, store: Option<String>, now: Time) -> Self {
        Self {
            store,
            started: Some(now),
            ..Self::new(run, RunPhase::Running, reasons::RUNNING, "it is started")
        }
    }
}

/// The runs of which the first that can be started is to be, and the states of the other runs that
/// aren't final. Runs whose Jobs could not be created come last, so that they hold no other back.
#[must_use]
pub fn decide(input: &Input<'_>) -> (Vec<(PinterestRun, Start)>, Vec<State>) {
    let mut runs: Vec<&PinterestRun> = input.runs.iter().collect();
    let created = |run: &PinterestRun| (run.creation_timestamp(), run.name_any());
    runs.sort_by_key(|run| (is_obstructed(run), created(run)));
    let (mut starts, mut states, mut before) = (Vec::new(), Vec::new(), None::<String>);
    for run in &runs {
        if is_final(run) || run.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if let Some(state) = of_started(run, input.jobs, input.work) {
            states.push(state);
            continue;
        }
        let is_obstructed = is_obstructed(run);
        let ahead = before.clone().filter(|_| !is_obstructed);
        let ahead = ahead.or_else(|| active_before(run, &runs, &input.jobs.jobs));
        // A reset may wait for a topic that is missing, which a run about topics brings back.
        let ahead = ahead.filter(|_| run.spec.topic.is_none());
        let found = next(input, run, ahead.as_deref());
        let waits_in_line = |state: &State| state.reason == reasons::RUN_AHEAD;
        let holds = match &found {
            Ok(_) => true,
            Err(state) => waits_in_line(state),
        };
        if holds && !is_obstructed {
            before = before.or_else(|| Some(format!("the run {}", run.name_any())));
        }
        match found {
            Ok(start) => starts.push(((*run).clone(), start)),
            // It goes on to say why its Job could not be created.
            Err(state) if is_obstructed && waits_in_line(&state) => {}
            Err(state) => states.push(*state),
        }
    }
    (starts, states)
}

/// State of a run that was started.
fn of_started(run: &PinterestRun, jobs: &Jobs, work: &BTreeMap<String, Work>) -> Option<State> {
    if !has_job(&run.spec) {
        let is_started = phase(run) == Some(RunPhase::Running);
        return is_started.then(|| of_work(run, work.get(&run.name_any())));
    }
    if let Some(job) = job_of(run, &jobs.jobs) {
        let is_replaced =
            job.metadata.deletion_timestamp.is_some() && phase(run) == Some(RunPhase::Queued);
        return Some(if is_replaced {
            State::queued(run, reasons::PROGRESSING, REPLACED)
        } else {
            of_job(run, job, jobs)
        });
    }
    let message = if is_record(run) {
        "its Job is gone, and how it ended was not seen"
    } else if phase(run) == Some(RunPhase::Running) {
        "its Job was deleted before it ended: what it had written to the store by then is finished \
         by the next batch run; create the run again under another name"
    } else {
        return None;
    };
    let reason = reasons::JOB_MISSING;
    Some(State::new(run, RunPhase::Failed, reason, message))
}

/// What is under way before a run may start: another run, or a Job of the schedule that is older
/// than the run. For a younger one the run doesn't wait, since there may always be one: the
/// worker's Lease lets them work one after the other.
fn active_before(run: &PinterestRun, runs: &[&PinterestRun], jobs: &[Job]) -> Option<String> {
    let mut works = runs.iter().filter(|other| {
        !has_job(&other.spec)
            && phase(other) == Some(RunPhase::Running)
            && other.metadata.deletion_timestamp.is_none()
    });
    if let Some(other) = works.next() {
        return Some(format!("the run {}", other.name_any()));
    }
    let mut active = jobs.iter().filter(|job| has_ended(job).is_none());
    let job = active
        .find(|job| is_of_run(job) || job.creation_timestamp() <= run.creation_timestamp())?;
    let of = runs.iter().find(|run| job_of(run, jobs) == Some(job));
    Some(of.map_or_else(
        || format!("the Job {}", job.name_any()),
        |run| format!("the run {}", run.name_any()),
    ))
}

/// Whether the last attempt to create a run's Job failed.
fn is_obstructed(run: &PinterestRun) -> bool {
    let conditions = run.status.iter().flat_map(|status| &status.conditions);
    let mut found = conditions.map(|condition| condition.reason.as_str());
    found.any(|reason| [reasons::CHILD_REFUSED, reasons::CHILD_CONFLICT].contains(&reason))
}

/// Whether a Job belongs to a run.
#[must_use]
pub fn is_of_run(job: &Job) -> bool {
    let mut owners = job.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && owner.kind == PinterestRun::kind(&()))
}

/// States of runs that wait for the pipeline as a whole. Runs whose Jobs exist stay as they are.
#[must_use]
pub fn held(
    runs: &[PinterestRun],
    jobs: &[Job],
    reason: &'static str,
    message: &str,
) -> Vec<State> {
    let works = |run: &PinterestRun| {
        job_of(run, jobs).is_some_and(|job| job.metadata.deletion_timestamp.is_none())
    };
    let waiting = runs.iter().filter(|run| {
        matches!(phase(run), None | Some(RunPhase::Queued))
            && !is_record(run)
            && !works(run)
            && run.metadata.deletion_timestamp.is_none()
    });
    waiting
        .map(|run| State::queued(run, reason, message))
        .collect()
}

/// States of runs that were started, where none can be. `message` says why work without a Job
/// doesn't go on.
#[must_use]
pub fn started(runs: &[PinterestRun], jobs: &Jobs, message: &str) -> Vec<State> {
    let open = runs
        .iter()
        .filter(|run| !is_final(run) && run.metadata.deletion_timestamp.is_none());
    open.filter_map(|run| {
        let work = BTreeMap::from([(run.name_any(), Work::Going(message.to_owned()))]);
        of_started(run, jobs, &work)
    })
    .collect()
}

/// The Job of a run: the one it owns, or of which it is the record.
#[must_use]
pub fn job_of<'a>(run: &PinterestRun, jobs: &'a [Job]) -> Option<&'a Job> {
    jobs.iter().find(|job| {
        if is_record(run) {
            return job.name_any() == run.name_any();
        }
        let mut owners = job.owner_references().iter();
        owners.any(|owner| {
            owner.kind == PinterestRun::kind(&()) && Some(&owner.uid) == run.uid().as_ref()
        })
    })
}

/// How a run that was never started starts, or what it waits for.
fn next(input: &Input<'_>, run: &PinterestRun, ahead: Option<&str>) -> Result<Start, Box<State>> {
    let pipeline = input.pipeline;
    let queued = |reason, message: String| Err(Box::new(State::queued(run, reason, message)));
    let refused = |reason, message: String| {
        let state = State::new(run, RunPhase::Refused, reason, message);
        Err(Box::new(state))
    };
    let mut problems = problems(&run.spec, pipeline);
    let mut store = None;
    match requests::reset(pipeline, run) {
        Some(Ok(reset)) => store = Some(reset.store),
        Some(Err(problem)) => problems.push(problem),
        None => {}
    }
    if !problems.is_empty() {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let message = format!(
            "{}: create another run, with another name",
            problems.join("; ")
        );
        return refused(reasons::INVALID_SPEC, message);
    }
    let secrets = match &pipeline.batch {
        _ if !has_job(&run.spec) => None,
        Some(batch) => batch.secrets.missing.first(),
        None => return refused(reasons::NO_BATCH, no_batch(pipeline)),
    };
    if let Some(missing) = secrets {
        return queued(reasons::SECRET_MISSING, format!("it waits: {missing}"));
    }
    // Topics are looked at all the same.
    if pipeline.suspend && run.spec.topic.is_none() {
        let message = "it waits until spec.suspend of the pipeline is false".to_owned();
        return queued(reasons::SUSPENDED, message);
    }
    if let Some(ahead) = ahead {
        return queued(reasons::RUN_AHEAD, format!("it waits for {ahead}"));
    }
    if !has_job(&run.spec) {
        return Ok(Start::Now { store });
    }
    let live = live_sink(&run.spec).and_then(|sink| input.live.get(sink));
    match run_job(pipeline, input.cron_job, live, run) {
        Ok(job) => Ok(Start::Job(Box::new(job))),
        Err(NoJob::Missing(object)) => {
            let message = format!("it waits until the operator has created {object}");
            queued(reasons::PROGRESSING, message)
        }
        Err(NoJob::Impossible(message)) => refused(reasons::INVALID_SPEC, message),
    }
}

fn no_batch(pipeline: &ValidatedPipeline) -> String {
    format!(
        "the pipeline {} has no spec.batch, by whose settings runs work: add it, and create the \
         run again",
        pipeline.name
    )
}

/// State of a run under way that has no Job.
fn of_work(run: &PinterestRun, work: Option<&Work>) -> State {
    let before = run.status.clone().unwrap_or_default();
    let (phase, reason, message) = match work.cloned() {
        None => {
            let message = before.message.unwrap_or_default();
            (RunPhase::Running, reasons::RUNNING, message)
        }
        Some(Work::Going(message)) => (RunPhase::Running, reasons::RUNNING, message),
        Some(Work::Done(message)) => (RunPhase::Succeeded, reasons::RUN_SUCCEEDED, message),
        Some(Work::Failed(message)) => (RunPhase::Failed, reasons::RUN_FAILED, message),
        Some(Work::Refused(message)) => (RunPhase::Refused, reasons::INVALID_SPEC, message),
    };
    State {
        store: store_at_start(run).cloned(),
        started: before.start_time,
        ..State::new(run, phase, reason, message)
    }
}

fn of_job(run: &PinterestRun, job: &Job, jobs: &Jobs) -> State {
    let name = job.name_any();
    let status = job.status.clone().unwrap_or_default();
    let ending = jobs.endings.get(&name).cloned().unwrap_or_default();
    let ended = has_ended(job);
    let is_suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
    let mut state = match ended.map(|condition| condition.type_.as_str()) {
        Some("Complete") => {
            let message = ending.message.unwrap_or_else(|| "done".to_owned());
            State::new(run, RunPhase::Succeeded, reasons::RUN_SUCCEEDED, message)
        }
        Some(_) => {
            let message = ending.message.unwrap_or_else(|| {
                format!("its Job failed, and no pod is left that says why: see the Job {name}")
            });
            State::new(run, RunPhase::Failed, reasons::RUN_FAILED, message)
        }
        None if is_suspended => {
            let message = format!("the Job {name} is suspended, as by a queue of Jobs");
            State::new(run, RunPhase::Running, reasons::SUSPENDED, message)
        }
        None => {
            let progress = jobs.progress.get(&name);
            let problem = jobs.problems.get(&name).cloned();
            let message = problem.or_else(|| progress.map(sentence));
            let message = message.unwrap_or_else(|| format!("the Job {name} is under way"));
            State {
                progress: progress.cloned(),
                ..State::new(run, RunPhase::Running, reasons::RUNNING, message)
            }
        }
    };
    state.started = status.start_time.or_else(|| job.creation_timestamp());
    state.ended = ended.and_then(|condition| condition.last_transition_time.clone());
    (state.total, state.counts) = (ending.total, ending.counts);
    state.report = ending.report;
    state.job = Some(name);
    state
}

fn sentence(progress: &RunProgress) -> String {
    let step = &progress.step;
    match (progress.read, progress.of) {
        (Some(read), Some(of)) => format!("{step}: {read} of {of} records are read"),
        (Some(read), None) => format!("{step}: {read} records are read"),
        _ => format!("{step} is under way"),
    }
}

/// Condition of a run's Job that has ended. None: it hasn't.
#[must_use]
pub fn has_ended(job: &Job) -> Option<&JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.as_ref()?.iter();
    conditions.find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })
}

#[cfg(test)]
mod tests;
