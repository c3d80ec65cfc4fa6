//! Runs (`PinterestRun`): starts the next one, and writes how each is.
//!
//! A run's Job is named by the run's id, so that none is started twice, and owned by the run. What
//! is decided is decided on a fresh list; the index only tells whether there is anything to do.

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::ConfigMap,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::Timestamp,
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
    runtime::events::EventType,
};
use pinpipe_crds::{Outcome, PinterestPipeline, PinterestRun, RunPhase, reasons};
use pinpipe_plan::{
    build,
    component::Component,
    model::ValidatedPipeline,
    names::MANAGER,
    queue::{self, Input, REPLACED, Start, State},
    requests::Requests,
    run::{self, is_final, is_record},
};
use serde_json::{Value, json};

use super::{Reconciler, batch_runs::cron_job};
use crate::{
    context::Context,
    error::{Error, Trying as _},
    kafka::TopicsState,
    observe::{
        children::Children,
        run_index,
        runs::{self, Run, has_ended, is_of_run},
    },
    status::{self, batch_runs},
};

impl Reconciler<'_> {
    /// Starts the next run, writes how the others are, records the Jobs of the `CronJob`, and
    /// deletes old records. `jobs` are the Jobs of batch runs, where the pipeline has a batch
    /// section; `asked` is what runs asked for when this reconcile began, and then come the topics
    /// after it.
    pub(super) async fn advance_runs(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
        jobs: &[Run],
        (asked, topics): (&Requests, &TopicsState),
    ) -> Result<(), Error> {
        let Some(mut runs) = self.context.runs.of(&self.namespace, &self.name) else {
            return Ok(());
        };
        let cron_job = cron_job(pipeline, children).filter(|_| pipeline.batch.is_some());
        let mut jobs: Vec<Job> = jobs.iter().map(|run| run.job.clone()).collect();
        let is_settled = |runs: &[PinterestRun], jobs: &[Job]| {
            let unrecorded = cron_job.iter();
            let mut unrecorded = unrecorded.flat_map(|cron| queue::missing(cron, runs, jobs));
            runs.iter().all(is_final)
                && unrecorded.next().is_none()
                && queue::expired(runs, jobs).is_empty()
        };
        if is_settled(&runs, &jobs) {
            return Ok(());
        }
        let client = &self.context.client;
        let listed = run_index::list(client, &self.namespace, &self.name).await;
        runs = listed.trying("listing runs")?;
        if pipeline.batch.is_none() {
            jobs = self.jobs_of_runs().await?;
        }
        let owned = self.own(&runs).await;
        let observed = self.observe_jobs(&runs, jobs).await?;
        let sinks = pipeline.sinks.iter().map(|sink| sink.name.clone());
        let live = sinks.filter_map(|sink| {
            let deployment = children.deployment(pipeline, &Component::stream(&sink));
            Some((sink, deployment?))
        });
        let work = self.work(pipeline, &runs, asked, topics).await?;
        let (starts, states) = queue::decide(&Input {
            pipeline,
            cron_job: cron_job.as_ref(),
            live: &live.collect(),
            runs: &runs,
            jobs: &observed,
            work: &work,
        });
        // One run whose status can't be written must not keep others from being started.
        let written = write_states(self.context, &self.namespace, &runs, &states).await;
        for (run, start) in starts {
            let is_started = match start {
                Start::Job(job) => self.start(&run, &job).await?,
                Start::Now { store } => {
                    let state = self.begin(&run, store).await?;
                    write_state(self.context, &self.namespace, &run, &state).await?;
                    true
                }
            };
            if is_started {
                break;
            }
        }
        if let Some(cron_job) = &cron_job {
            let jobs = &observed.jobs;
            self.record_jobs(pipeline, cron_job, &runs, jobs).await?;
        }
        for run in queue::expired(&runs, &observed.jobs) {
            self.delete_expired(run).await?;
        }
        owned.and(written)
    }

    /// Reports that runs wait because of the pipeline as a whole, and how those that don't wait
    /// are.
    pub(super) async fn hold_runs(&self, reason: &'static str) -> Result<(), Error> {
        let indexed = self.context.runs.of(&self.namespace, &self.name);
        if indexed.unwrap_or_default().iter().all(is_final) {
            return Ok(());
        }
        // The index may not have what this reconcile, or the one before it, has written.
        let listed = run_index::list(&self.context.client, &self.namespace, &self.name).await;
        let runs = listed.trying("listing runs")?;
        let jobs = self.jobs_of_runs().await?;
        let message = format!(
            "it waits until the pipeline is as it should be: see the condition Ready of the \
             pipeline {}",
            self.name
        );
        let mut states = queue::held(&runs, &jobs, reason, &message);
        if reason != reasons::PAUSED {
            let observed = self.observe_jobs(&runs, jobs).await?;
            let started = queue::started(&runs, &observed, &message).into_iter();
            let is_new = |found: &State| states.iter().all(|state| state.run != found.run);
            let started: Vec<_> = started.filter(is_new).collect();
            states.extend(started);
        }
        write_states(self.context, &self.namespace, &runs, &states).await
    }

    /// Deletes the Jobs of runs that are under way, since the pipeline has no topics, or is about
    /// to lose them. Those of the `CronJob` end with it. With `again`, the runs wait to be started
    /// again.
    pub(super) async fn end_runs(&self, again: bool) -> Result<(), Error> {
        let jobs = self.jobs_of_runs().await?;
        let is_active =
            |job: &&Job| has_ended(job).is_none() && job.metadata.deletion_timestamp.is_none();
        for job in jobs.iter().filter(is_active).filter(|job| is_of_run(job)) {
            if again {
                self.queue_again(job).await?;
            }
            self.context.check_lease()?;
            self.context.children.changes(&self.uid, "Job");
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: job.uid(),
                    resource_version: None,
                }),
                ..DeleteParams::background()
            };
            let jobs: Api<Job> = Api::namespaced(self.context.client.clone(), &self.namespace);
            match jobs.delete(&job.name_any(), &params).await {
                Ok(_) => self.context.metrics.wrote("delete", "jobs"),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error).trying("ending a run"),
            }
        }
        Ok(())
    }

    /// Makes the pipeline the owner of its runs, so that they, and their Jobs, end with it.
    async fn own(&self, runs: &[PinterestRun]) -> Result<(), Error> {
        for run in runs.iter().filter(|run| !is_final(run)) {
            let owners = run.owner_references();
            if owners.iter().any(|owner| owner.uid == self.uid) {
                continue;
            }
            let owner = OwnerReference {
                api_version: PinterestPipeline::api_version(&()).into_owned(),
                kind: PinterestPipeline::kind(&()).into_owned(),
                name: self.name.clone(),
                uid: self.uid.clone(),
                controller: None,
                block_owner_deletion: None,
            };
            let metadata = json!({"ownerReferences": [owner]});
            apply(self.context, &self.namespace, run, "", metadata).await?;
        }
        Ok(())
    }

    /// How the Jobs of open runs ended, or go on.
    async fn observe_jobs(
        &self,
        runs: &[PinterestRun],
        jobs: Vec<Job>,
    ) -> Result<queue::Jobs, Error> {
        let (client, now) = (&self.context.client, Timestamp::now());
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
        let mut observed = queue::Jobs {
            jobs,
            ..queue::Jobs::default()
        };
        for run in runs.iter().filter(|run| !is_final(run)) {
            let Some(job) = queue::job_of(run, &observed.jobs).cloned() else {
                continue;
            };
            let pods = runs::pods_of(client, &self.namespace, &job).await;
            let pods = pods.trying("listing a run's pods")?;
            let name = job.name_any();
            if let Some(end) = has_ended(&job) {
                let outcome = if end.type_ == "Complete" {
                    Outcome::Succeeded
                } else {
                    Outcome::Failed
                };
                let ending = status::runs::ending(&job, outcome, &pods);
                observed.endings.insert(name, ending);
                continue;
            }
            let active = Run { job, pods };
            if let Some(problem) = batch_runs::start_problem(&active, &self.namespace, now) {
                observed.problems.insert(name.clone(), problem.message);
            }
            if !is_record(run) {
                let output = config_maps.get_opt(&name).await;
                let output = output.trying("reading a run's ConfigMap")?;
                let progress = output.as_ref().and_then(status::runs::progress);
                observed
                    .progress
                    .extend(progress.map(|progress| (name, progress)));
            }
        }
        Ok(observed)
    }

    /// Applies what a run's Job needs besides the pipeline's objects. The inner error is the API
    /// server's refusal.
    async fn apply_output(&self, job: &Job) -> Result<Result<(), String>, Error> {
        for object in build::run_output(job) {
            self.context.check_lease()?;
            let mut body = object.body;
            body["apiVersion"] = json!(object.resource.api_version);
            body["kind"] = json!(object.resource.kind);
            let client = self.context.client.clone();
            let api: Api<DynamicObject> =
                Api::namespaced_with(client, &self.namespace, &object.resource);
            let params = PatchParams::apply(MANAGER).force();
            match api.patch(&object.name, &params, &Patch::Apply(&body)).await {
                Ok(_) => self.context.metrics.wrote("apply", &object.resource.plural),
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 409 | 422) => {
                    let (kind, message) = (&object.resource.kind, status.message);
                    let refusal =
                        format!("the API server refuses {kind} {}: {message}", object.name);
                    return Ok(Err(refusal));
                }
                Err(error) => return Err(error).trying("applying what a run writes to"),
            }
        }
        Ok(Ok(()))
    }

    /// Creates a run's Job, and writes how that ended. Returns whether it is there now.
    async fn start(&self, run: &PinterestRun, job: &Job) -> Result<bool, Error> {
        if let Err(message) = self.apply_output(job).await? {
            let state = State::queued(run, reasons::CHILD_REFUSED, message);
            write_state(self.context, &self.namespace, run, &state).await?;
            return Ok(false);
        }
        self.context.check_lease()?;
        self.context.children.changes(&self.uid, "Job");
        let name = job.name_any();
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let jobs: Api<Job> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let state = match jobs.create(&params, job).await {
            Ok(created) => {
                self.report_start_of(run, &name).await;
                State::started(run, &created)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let message = format!(
                    "a Job {name} that isn't the run's is there: delete it, or create the run \
                     again under another name"
                );
                State::queued(run, reasons::CHILD_CONFLICT, message)
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                let message = format!("the API server refuses Job {name}: {}", status.message);
                State::queued(run, reasons::CHILD_REFUSED, message)
            }
            Err(error) => return Err(error).trying("starting a run"),
        };
        write_state(self.context, &self.namespace, run, &state).await?;
        Ok(state.phase == RunPhase::Running)
    }

    async fn report_start_of(&self, run: &PinterestRun, job: &str) {
        self.context.metrics.wrote("create", "jobs");
        let (namespace, name, run) = (&self.namespace, &self.name, run.name_any());
        tracing::info!(namespace, name, run, job, "started a run");
        let message = format!("the run {run} is started, as the Job {job}");
        let about = Some(self.job_reference(job));
        let (type_, reason) = (EventType::Normal, reasons::RUN_STARTED);
        self.event(type_, reason, "Run", &message, about).await;
    }

    /// Writes that a run waits again, whose Job is about to be deleted since it could not start.
    pub(super) async fn queue_again(&self, job: &Job) -> Result<(), Error> {
        let mut owners = job.owner_references().iter();
        let Some(owner) = owners.find(|owner| owner.kind == PinterestRun::kind(&())) else {
            return Ok(());
        };
        let api: Api<PinterestRun> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let run = api.get_opt(&owner.name).await.trying("reading a run")?;
        let Some(run) = run.filter(|run| run.uid().as_ref() == Some(&owner.uid)) else {
            return Ok(());
        };
        let state = State::queued(&run, reasons::PROGRESSING, REPLACED);
        write_state(self.context, &self.namespace, &run, &state).await
    }

    /// Creates a record for each Job of the `CronJob` that needs one.
    async fn record_jobs(
        &self,
        pipeline: &ValidatedPipeline,
        cron_job: &CronJob,
        runs: &[PinterestRun],
        jobs: &[Job],
    ) -> Result<(), Error> {
        let api: Api<PinterestRun> = Api::namespaced(self.context.client.clone(), &self.namespace);
        for job in queue::missing(cron_job, runs, jobs) {
            self.context.check_lease()?;
            let params = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            match api.create(&params, &queue::record(pipeline, job)).await {
                Ok(_) => self.context.metrics.wrote("create", "pinterestruns"),
                // A run of a user's has its name, or somebody forbids it: the Job works all the
                // same.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 409 | 422) => {
                    let job = job.name_any();
                    tracing::warn!(job, message = status.message, "a Job can't be recorded");
                }
                Err(error) => return Err(error).trying("recording a Job as a run"),
            }
        }
        Ok(())
    }

    async fn delete_expired(&self, run: &PinterestRun) -> Result<(), Error> {
        self.context.check_lease()?;
        let api: Api<PinterestRun> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: run.uid(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match api.delete(&run.name_any(), &params).await {
            Ok(_) => self.context.metrics.wrote("delete", "pinterestruns"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error).trying("deleting an old run"),
        }
        Ok(())
    }
}

/// Reports that runs wait for a pipeline that can't be read.
pub async fn runs_of_unreadable(
    context: &Context,
    namespace: &str,
    pipeline: &str,
) -> Result<(), Error> {
    let runs = context.runs.of(namespace, pipeline).unwrap_or_default();
    // Those that have a phase may have a Job.
    let new: Vec<_> = runs
        .into_iter()
        .filter(|run| run::phase(run).is_none())
        .collect();
    let message = format!(
        "it waits until the operator can read the pipeline {pipeline}: see the condition Ready of \
         that"
    );
    let states = queue::held(&new, &[], reasons::INVALID_SPEC, &message);
    write_states(context, namespace, &new, &states).await
}

/// Reports that runs wait for a pipeline that doesn't exist.
pub async fn runs_without_pipeline(
    context: &Context,
    namespace: &str,
    pipeline: &str,
) -> Result<(), Error> {
    let runs = context.runs.of(namespace, pipeline).unwrap_or_default();
    let message = format!(
        "there is no PinterestPipeline {pipeline} in the namespace {namespace}: create it, or \
         delete this run"
    );
    let states = queue::held(&runs, &[], reasons::PIPELINE_NOT_FOUND, &message);
    if states.is_empty() {
        return Ok(());
    }
    let api: Api<PinterestPipeline> = Api::namespaced(context.client.clone(), namespace);
    let found = api.get_metadata_opt(pipeline).await;
    if found.trying("reading the pipeline")?.is_some() {
        return Ok(());
    }
    write_states(context, namespace, &runs, &states).await
}

async fn write_states(
    context: &Context,
    namespace: &str,
    runs: &[PinterestRun],
    states: &[State],
) -> Result<(), Error> {
    let mut first = Ok(());
    for state in states {
        let mut runs = runs.iter();
        if let Some(run) = runs.find(|run| run.name_any() == state.run) {
            first = first.and(write_state(context, namespace, run, state).await);
        }
    }
    first
}

/// Writes a run's status if it changes.
async fn write_state(
    context: &Context,
    namespace: &str,
    run: &PinterestRun,
    state: &State,
) -> Result<(), Error> {
    let status = status::runs::status(run, state, Timestamp::now());
    if run.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let is_ended = state.phase.is_final() && state.phase != RunPhase::Succeeded;
    if is_ended && !is_record(run) {
        let (run, message) = (run.name_any(), &state.message);
        tracing::warn!(namespace, run, phase = ?state.phase, message, "a run has not succeeded");
    }
    apply(context, namespace, run, "status", json!(status)).await
}

/// Applies a run's metadata, or its status. A run that is gone by now is left alone.
async fn apply(
    context: &Context,
    namespace: &str,
    run: &PinterestRun,
    subresource: &str,
    fields: Value,
) -> Result<(), Error> {
    context.check_lease()?;
    let (name, uid) = (run.name_any(), run.uid());
    let mut body = json!({
        "apiVersion": PinterestRun::api_version(&()),
        "kind": PinterestRun::kind(&()),
        "metadata": {},
    });
    let is_status = subresource == "status";
    body[if is_status { "status" } else { "metadata" }] = fields;
    // The UID keeps it from another run that has the name by now.
    body["metadata"]["name"] = json!(name);
    body["metadata"]["uid"] = json!(uid);
    let api: Api<PinterestRun> = Api::namespaced(context.client.clone(), namespace);
    let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&body));
    let (resource, written) = if is_status {
        let written = api.patch_status(&name, &params, &patch).await;
        ("pinterestruns/status", written)
    } else {
        ("pinterestruns", api.patch(&name, &params, &patch).await)
    };
    match written {
        Ok(_) => context.metrics.wrote("apply", resource),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => return Err(error).trying("writing a run"),
    }
    Ok(())
}
