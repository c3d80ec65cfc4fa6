//! Batch runs: how they are, those that an annotation requests, and those that a change of the
//! resource must not end.
//!
//! A requested run is a Job of the `CronJob`'s template, as the schedule would make it, owned by the
//! `CronJob`. The status keeps the ids of the requests, since the Job is deleted after some time.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{ObjectReference, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::events::EventType,
};
use pinpipe_crds::{BatchStatus, condition_types, reasons};
use pinpipe_plan::{
    build::requested_run,
    component::Component,
    model::ValidatedPipeline,
    names::{MANAGER, RUN_ANNOTATION},
};
use serde_json::json;

use super::Reconciler;
use crate::{
    context::Context,
    error::{Error, Trying as _},
    finding::Finding,
    observe::children::{Children, Key},
    status::batch_runs::{self, has_ended},
};

/// Number of request ids that are kept besides the latest.
const REMEMBERED: usize = 32;
/// Kinds of the batch component's children that its runs need until they end.
const NEEDED_BY_RUNS: [&str; 5] = ["CronJob", "Lease", "Role", "RoleBinding", "ServiceAccount"];

/// Ids of the requests that have started runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestIds {
    pub(super) last: Option<String>,
    /// Earlier ones, the latest first.
    pub(super) before: Vec<String>,
}

impl RequestIds {
    fn of(status: Option<&BatchStatus>) -> Self {
        let batch = status.cloned().unwrap_or_default();
        Self {
            last: batch.last_requested,
            before: batch.requested_before,
        }
    }

    /// Whether the request with this id has started a run.
    fn contains(&self, id: &str) -> bool {
        self.last
            .iter()
            .chain(&self.before)
            .any(|known| known == id)
    }

    fn with(mut self, id: &str) -> Self {
        self.before.splice(0..0, self.last.replace(id.to_owned()));
        self.before.truncate(REMEMBERED);
        self
    }
}

impl Reconciler<'_> {
    /// Status and finding of batch runs. The pods of a run are read once, when it has ended.
    pub(super) async fn batch(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
    ) -> Result<(Option<BatchStatus>, Option<Finding>), Error> {
        let Some(batch) = &pipeline.batch else {
            return Ok((None, None));
        };
        let jobs = self.runs().await?;
        let before = self
            .resource
            .status
            .as_ref()
            .and_then(|status| status.batch.as_ref());
        let known = before.and_then(|batch| batch.last_run.as_ref());
        let ended = batch_runs::last_ended(&jobs);
        let ended = ended.filter(|(name, _)| known.is_none_or(|run| run.name != *name));
        let (last_run, failure) = match ended {
            Some((job, outcome)) => {
                let pods = self.pods_of(job).await?;
                let message = batch_runs::termination_message(&pods);
                let (run, failure) = batch_runs::last_run(job, outcome, message.as_deref());
                (Some(run), failure)
            }
            None => (None, None),
        };
        let is_new = last_run.is_some();
        let cron_job = cron_job(pipeline, children);
        let status = batch_runs::status(cron_job.as_ref(), before, last_run);
        if let Some(missing) = batch.secrets.missing.first() {
            let message = format!("{missing} (namespace {})", self.namespace);
            return Ok((
                Some(status),
                Some(Finding::bad(reasons::SECRET_MISSING, message)),
            ));
        }
        let place = format!("-n {}", self.namespace);
        let last_run = status.last_run.as_ref();
        let mut finding =
            batch_runs::finding(pipeline.suspend, last_run, failure.as_deref(), &place);
        // The sentence a run failed with is read once; from then on the condition keeps it.
        let old = self.condition(condition_types::BATCH_READY);
        let old = old.filter(|condition| condition.reason == reasons::RUN_FAILED);
        if let Some(old) = old.filter(|_| !is_new && finding.reason == reasons::RUN_FAILED) {
            finding.message.clone_from(&old.message);
        }
        Ok((Some(status), Some(finding)))
    }

    /// Starts the run that is requested, unless it was started before. Returns the ids of the
    /// requests that have started runs, or why this one can't.
    pub(super) async fn start_requested_run(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
    ) -> Result<Result<RequestIds, Finding>, Error> {
        let batch = self
            .resource
            .status
            .as_ref()
            .and_then(|status| status.batch.as_ref());
        let started = RequestIds::of(batch);
        let request = pipeline
            .requests
            .run
            .as_ref()
            .filter(|id| !started.contains(id));
        let Some(request) = request else {
            return Ok(Ok(started));
        };
        // A condition tells why the CronJob is missing; the run starts once it exists.
        let cron_job = cron_job(pipeline, children).filter(|_| !pipeline.suspend);
        let Some(job) = cron_job.and_then(|cron_job| requested_run(pipeline, &cron_job, request))
        else {
            return Ok(Ok(started));
        };
        let name = job.name_any();
        self.context.check_lease()?;
        self.context.children.changes(&self.uid, "Job");
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.jobs().create(&params, &job).await {
            Ok(_) => self.report_started_run(&name, request).await,
            // An earlier reconcile ended between creating the Job and writing the status.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                let message = format!("the API server refuses Job {name}: {}", status.message);
                return Ok(Err(Finding::bad(reasons::CHILD_REFUSED, message)));
            }
            Err(error) => return Err(error).trying("starting a batch run"),
        }
        Ok(Ok(started.with(request)))
    }

    async fn report_started_run(&self, job: &str, request: &str) {
        self.context.metrics.wrote("create", "jobs");
        let (namespace, name) = (&self.namespace, &self.name);
        tracing::info!(namespace, name, job, request, "started a batch run");
        let started = ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(job.to_owned()),
            ..ObjectReference::default()
        };
        let message =
            format!("started the batch run {job}, requested by {RUN_ANNOTATION}={request}");
        let (type_, reason) = (EventType::Normal, reasons::RUN_STARTED);
        self.event(type_, reason, "Run", &message, Some(started))
            .await;
    }

    /// Children that active runs still need although the pipeline has no batch section any more.
    /// The schedule is suspended until they end.
    pub(super) async fn needed_by_runs(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
    ) -> Result<BTreeSet<Key>, Error> {
        let cron_job = cron_job(pipeline, children).filter(|_| pipeline.batch.is_none());
        let Some(cron_job) = cron_job else {
            return Ok(BTreeSet::new());
        };
        if self
            .runs()
            .await?
            .iter()
            .all(|run| has_ended(run).is_some())
        {
            return Ok(BTreeSet::new());
        }
        let name = pipeline.child(&Component::Batch);
        if cron_job.spec.and_then(|spec| spec.suspend) != Some(true) {
            self.context.check_lease()?;
            self.context.children.changes(&self.uid, "CronJob");
            let client = self.context.client.clone();
            let cron_jobs: Api<CronJob> = Api::namespaced(client, &self.namespace);
            let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patched = cron_jobs.patch(&name, &params, &suspend).await;
            patched.trying("suspending batch runs")?;
            self.context.metrics.wrote("patch", "cronjobs");
        }
        Ok(NEEDED_BY_RUNS
            .map(|kind| (kind.to_owned(), name.clone()))
            .into())
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    async fn runs(&self) -> Result<Vec<Job>, Error> {
        let Context {
            client,
            children,
            pipelines,
            ..
        } = self.context;
        let runs = children.runs(client, self.of(), pipelines.count());
        runs.await.trying("listing Jobs")
    }

    async fn pods_of(&self, job: &str) -> Result<Vec<Pod>, Error> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        Ok(api
            .list(&params)
            .await
            .trying("listing a run's pods")?
            .items)
    }
}

fn cron_job(pipeline: &ValidatedPipeline, children: &Children) -> Option<CronJob> {
    children.typed("CronJob", &pipeline.child(&Component::Batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_starts_one_run_even_after_later_ones() {
        let mut ids = RequestIds::default().with("a").with("b");
        assert!(ids.contains("a") && ids.contains("b") && !ids.contains("c"));
        let before = ["a".to_owned()];
        assert_eq!(
            (ids.last.as_deref(), ids.before.as_slice()),
            (Some("b"), &before[..])
        );
        for at in 0..REMEMBERED {
            ids = ids.with(&at.to_string());
        }
        assert!(ids.before.len() == REMEMBERED && ids.contains("b") && !ids.contains("a"));
        let status = BatchStatus {
            last_requested: ids.last.clone(),
            requested_before: ids.before.clone(),
            ..BatchStatus::default()
        };
        assert_eq!(RequestIds::of(Some(&status)), ids);
    }
}
